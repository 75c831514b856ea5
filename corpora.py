r"""What a corpus is: from what a user has to one table of speech and its labels.

    python corpora.py                                       # the corpora that are known by name
    python corpora.py ravdess=/data/RAVDESS                 # what is in a copy of one of them
    python corpora.py /data/mine/labels.csv /data/recordings

Printed are the clips, hours, labels, speakers and sound formats that were found, and what is wrong
with them. The exit code is 1 if a source cannot be read, or has clips that cannot be.

A *source*, as given on every command line, is one of ::

    ravdess=/data/RAVDESS    a corpus of CORPORA and the folder it was unpacked to
    /data/my-database        an audformat database (holds db.yaml)
    /data/mine/labels.csv    a .csv, .tsv or .parquet table beside its audio (file or file_name)
    /data/recordings         a plain folder of audio, without labels

`read_corpus` returns a table on audformat's segmented index: ``file`` (relative to the root, with
``/``), ``start`` and ``end`` (timedelta; an ``end`` of NaT means the end of the file). Columns are
any of emotion, speaker, gender, split, fold, language (text), arousal, valence, dominance, age
(numbers); others are kept. ``table.attrs`` holds ``name``, ``root`` and ``corpus`` (key of CORPORA
or None). Reading a corpus opens no audio; printing what is in it reads the headers.
"""

import argparse
import difflib
import glob
import hashlib
import math
import os
import re
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from audio import END_TOLERANCE, AudioError, hash_file, read_header, resolve_inside
from catalogue import CORPORA, Corpus
from readers import (
    TABLE_READERS,
    CorpusError,
    corpus_table,
    read_database,
    read_folder,
    read_table,
)

LOW, MIDDLE, HIGH = "low", "middle", "high"
"""Classes of a label that is a number: its tertiles."""
SOURCE_FORMS = (
    "NAME=ROOT, a folder with db.yaml, a .csv, .tsv or .parquet table, or a folder of audio"
)

CLIP_COLUMNS = ("name", "root", "file", "start", "end")


# --- From a source to its table ------------------------------------------------------------------


def split_source(text: str) -> tuple[str | None, Path]:
    """Return the corpus name, or None, and the path of a source; ``~`` is expanded.

    Raises:
        CorpusError: if the name of ``NAME=ROOT`` is not in CORPORA
    """
    name, equals, root = text.partition("=")
    if not equals or not re.fullmatch(r"[\w-]+", name) or Path(text).exists():
        return None, Path(text).expanduser()
    if name not in CORPORA:
        near = difflib.get_close_matches(name, CORPORA, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise CorpusError(f"{name} is no known corpus, expected one of {sorted(CORPORA)}{hint}")
    return name, Path(root).expanduser()


def read_corpus(source: str | Path, root: str | Path | None = None) -> pd.DataFrame:
    """Return the table of a source (see the head of this file) on audformat's segmented index.

    Args:
        source: where it is
        root: folder of the audio of a table file; None: that of the table

    Raises:
        CorpusError: if the source is none of the known forms or not where it should be, or if its
            table has duplicates, impossible segments, or files that leave the root
    """
    corpus, path = split_source(str(source))
    path = path.absolute()
    if corpus:
        return _read_known(CORPORA[corpus], path)
    if path.suffix.lower() in TABLE_READERS and path.is_file():
        folder = path.parent if root is None else Path(root).absolute()
        return corpus_table(read_table(path), folder, path.stem)
    if not path.is_dir():
        raise CorpusError(f"{path} is not there, expected {SOURCE_FORMS}")
    if (path / "db.yaml").is_file():
        rows = read_database(path)
        return corpus_table(rows, path, rows.attrs["name"])
    rows = read_folder(path)
    if rows.empty:
        raise CorpusError(f"{path} holds no db.yaml and no audio; found: {_contents(path)}")
    return corpus_table(rows, path, path.name)


def read_clips(arguments: Iterable[str]) -> pd.DataFrame:
    """Return what a list of files, globs and sources stands for, one row for each clip.

    A file that is named need not exist: what is wrong with it is found when it is read.

    Args:
        arguments: audio files, patterns (``**`` for any folders), or sources

    Returns:
        ``name`` (as given, or with the folder that was given), ``root``, ``file`` (inside of
        root), ``start`` and ``end`` [s] (NaN: the end of the file); labels are left out

    Raises:
        CorpusError: if a source or a pattern stands for nothing
    """
    clips: list[tuple] = []
    for argument in arguments:
        matches = [argument]
        if not os.path.lexists(argument) and glob.has_magic(argument):
            matches = sorted(glob.glob(argument, recursive=True))
            if not matches:
                raise CorpusError(f"{argument} matches nothing")
        for match in matches:
            clips += _read_clips_of(match)
    return pd.DataFrame(clips, columns=list(CLIP_COLUMNS))


def _read_clips_of(argument: str) -> list[tuple]:
    """Return the clips of one file or source."""
    path = Path(argument).expanduser()
    is_table = path.suffix.lower() in TABLE_READERS
    if is_table or path.is_dir() or ("=" in argument and not os.path.lexists(path)):
        table = read_corpus(argument)
        root = table.attrs["root"]
        shown = path if path.is_dir() else Path(os.path.relpath(root))
        return [
            (str(shown / file), root, file, start.total_seconds(), end.total_seconds())
            for file, start, end in table.index
        ]
    goal = Path(os.path.realpath(path))  # this very file is wanted, wherever a link leads
    return [(argument, str(goal.parent), goal.name, 0.0, math.nan)]


def _read_known(corpus: Corpus, root: Path) -> pd.DataFrame:
    """Return the table of a corpus of CORPORA."""
    rows = corpus.reader(root) if root.is_dir() else pd.DataFrame()
    if rows.empty:
        raise CorpusError(
            f"{root} is not the folder of {corpus.title}: expected {corpus.expected};"
            f" found: {_contents(root)}"
        )
    if corpus.language and "language" not in rows:
        rows["language"] = corpus.language
    if corpus.clips and len(rows) != corpus.clips:
        warnings.warn(
            f"{root} holds {len(rows)} clips of {corpus.title}, published are {corpus.clips}",
            stacklevel=3,
        )
    return corpus_table(rows, root, corpus.name, corpus.name)


def _contents(root: Path) -> str:
    """Return the first few names in a folder, for a message."""
    if not root.is_dir():
        return "a file" if root.exists() else "nothing"
    names = sorted(os.listdir(root))
    return (
        ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        or "nothing"
    )


# --- From a table to what is scored --------------------------------------------------------------


def scored_classes(table: pd.DataFrame, target: str = "emotion") -> pd.Series:
    """Return the class of each row; NaN where the label is missing or not scored.

    A label that is a number is classed by the tertiles of the table: `low` up to the first, `high`
    from the second, `middle` between.

    Args:
        table: corpus table
        target: column that holds the labels

    Raises:
        CorpusError: if the column is absent, holds numbers that hardly vary, or has a label that
            the corpus lacks
    """
    if target not in table:
        raise CorpusError(f"the table has no {target}, its columns are {list(table.columns)}")
    labels = table[target]
    if pd.api.types.is_numeric_dtype(labels) and labels.notna().any():
        return _tertiles(labels)
    corpus = CORPORA.get(table.attrs.get("corpus"))
    if corpus is None or target != corpus.target:
        return labels.astype("str")
    unknown = sorted(set(labels.dropna()) - set(corpus.classes))
    if unknown:
        raise CorpusError(f"{corpus.name}: unknown labels {unknown} in {target}")
    return labels.map(corpus.classes).astype("str")


def _tertiles(values: pd.Series) -> pd.Series:
    """Return low, middle or high for each number; NaN stays missing."""
    first, second = values.quantile([1 / 3, 2 / 3])
    if not first < second:
        raise CorpusError(f"the tertiles of {values.name} are both {first}, expected two values")
    classes = pd.Series(MIDDLE, index=values.index, dtype="str")
    return classes.mask(values <= first, LOW).mask(values >= second, HIGH).mask(values.isna())


# --- What is in a corpus -------------------------------------------------------------------------

SHORT_SECONDS = 0.1
"""A clip below this duration [s] holds no word; it is reported."""
VALUES_SHOWN = 12
"""A column with more values than this is described by their number."""
DESCRIBED = ("speaker", "gender", "language", "split", "fold")
"""Columns that are described beside the target, where a table has them."""


def read_headers(table: pd.DataFrame, workers: int = 4, progress: bool = False) -> pd.DataFrame:
    """Return what the headers of a table's files tell, one row for each file.

    Args:
        table: corpus table
        workers: threads that read headers
        progress: show a bar

    Returns:
        Index ``file``; ``seconds``, ``rate`` [Hz], ``channels``, ``kind``, all missing where
        ``reason`` (code of `AudioError`) and ``error`` are not.
    """
    files = table.index.get_level_values("file").unique()

    def describe_file(file: str) -> dict[str, object]:
        try:
            return vars(read_header(resolve_inside(table.attrs["root"], file)))
        except AudioError as error:
            return {"reason": error.reason, "error": str(error)}

    columns = ["seconds", "rate", "channels", "kind", "reason", "error"]
    with ThreadPoolExecutor(workers) as pool:
        found = pool.map(describe_file, files)
        bar = tqdm(found, table.attrs["name"], len(files), unit="file", disable=not progress)
        return pd.DataFrame(list(bar), index=files, columns=columns)


def equal_files(root: str | Path, files: Iterable[str]) -> list[list[str]]:
    """Return groups of files with equal content; few files are read beyond their first bytes."""
    for key in (os.path.getsize, _digest_of_start, hash_file):
        groups: dict[object, list[str]] = {}
        for file in files:
            groups.setdefault(key(Path(root, file)), []).append(file)
        groups = {key: group for key, group in groups.items() if len(group) > 1}
        files = [file for group in groups.values() for file in group]
    return list(groups.values())


def _digest_of_start(path: Path) -> bytes:
    """Return the SHA-256 of the first 64 KiB of a file."""
    with path.open("rb") as handle:
        return hashlib.sha256(handle.read(2**16)).digest()


def clip_seconds(table: pd.DataFrame, headers: pd.DataFrame) -> pd.Series:
    """Return the duration of each clip [s]; NaN where its file cannot be read."""
    rows = table.index.to_frame()
    lengths = rows["file"].map(headers["seconds"]).astype("float64")
    ends = rows["end"].dt.total_seconds().fillna(lengths)
    return (ends - rows["start"].dt.total_seconds()).where(lengths.notna())


def describe(table: pd.DataFrame, headers: pd.DataFrame) -> list[str]:
    """Return lines that say what is in a corpus: origin, clips, hours, labels, sound formats."""
    corpus = CORPORA.get(table.attrs["corpus"])
    facts = {"root": table.attrs["root"], "clips": f"{len(table)}"}
    if corpus:
        facts |= {"licence": corpus.licence, "citation": corpus.citation}
    if corpus and corpus.clips:
        facts["clips"] += f" of {corpus.clips} published"
    facts |= _sound_facts(table, headers) | _label_facts(table, corpus)
    if corpus:
        facts["paper scores"] = scored_part(corpus)
    title = corpus.title if corpus else "a source without an entry in CORPORA"
    return [
        f"{table.attrs['name']}: {title}",
        *(f"  {name:<13}{text}" for name, text in facts.items()),
    ]


def _sound_facts(table: pd.DataFrame, headers: pd.DataFrame) -> dict[str, str]:
    """Return hours, durations and formats of the clips that can be read; nothing if none can."""
    seconds = clip_seconds(table, headers).dropna()
    if seconds.empty:
        return {}
    kinds = headers.dropna(subset="rate").groupby(["kind", "rate", "channels"]).size()
    return {
        "speech": f"{seconds.sum() / 3600:.2f} h; a clip lasts {seconds.min():.2f} to"
        f" {seconds.max():.2f} s, median {seconds.median():.2f} s",
        "audio": ", ".join(
            f"{count} {kind} {rate / 1000:g} kHz {channels:g} ch"
            for (kind, rate, channels), count in kinds.sort_values(ascending=False).items()
        ),
    }


def _label_facts(table: pd.DataFrame, corpus: Corpus | None) -> dict[str, str]:
    """Return column -> its values and their counts."""
    target = corpus.target if corpus else "emotion"
    facts = {
        column: describe_values(
            table[column], corpus.classes if corpus and column == target else {}
        )
        for column in dict.fromkeys([target, *DESCRIBED])
        if column in table
    }
    if corpus and corpus.speakers and "speaker" in table:
        found = table["speaker"].nunique()
        facts["speaker"] = f"{found} of {corpus.speakers} published: {facts['speaker']}"
    return facts


def describe_values(values: pd.Series, classes: Mapping[str, str | None] | None = None) -> str:
    """Return how often each value occurs, with its class where that is called otherwise.

    Args:
        values: labels
        classes: label -> class, None for a label that is not scored
    """
    counts = values.value_counts().sort_index()
    parts = [f"{len(counts)} values"]
    if len(counts) <= VALUES_SHOWN:
        parts = [f"{value}{_class_note(value, classes or {})} {n}" for value, n in counts.items()]
    if values.isna().any():
        parts.append(f"missing {values.isna().sum()}")
    return ", ".join(parts)


def _class_note(label: str, classes: Mapping[str, str | None]) -> str:
    """Return what to say of the class of a label, if it is called otherwise."""
    scored = classes.get(label, label)
    if scored is None:
        return " (not scored)"
    return "" if scored == label else f" -> {scored}"


def scored_part(corpus: Corpus) -> str:
    """Return what the paper scores of a corpus, how, and which UARs are in print."""
    if not (corpus.printed or corpus.part):
        return "nothing of it"
    part = ", ".join(f"{column} {value}" for column, value in corpus.part.items()) or "all clips"
    mean = f", mean over {corpus.averaged_over}s" if corpus.averaged_over else ""
    printed = ", ".join(f"{system} {uar:.3f}" for system, uar in corpus.printed.items())
    return f"{part}{mean}" + (f"; UAR {printed}" if printed else "")


def find_problems(
    table: pd.DataFrame, headers: pd.DataFrame, told: Sequence[str]
) -> tuple[list[str], bool]:
    """Return what is wrong with a corpus, and whether it has clips that cannot be used.

    Args:
        table: corpus table
        headers: of its files, see `read_headers`
        told: what was said when the table was read
    """
    broken = headers[headers["reason"].notna()]
    seconds = clip_seconds(table, headers)
    ends = table.index.get_level_values("end").total_seconds()
    lengths = table.index.get_level_values("file").map(headers["seconds"]).astype("float64")
    outside = seconds[(seconds <= 0) | (ends > lengths + END_TOLERANCE)]
    short = seconds[(seconds > 0) & (seconds < SHORT_SECONDS)]
    twins = equal_files(table.attrs["root"], headers.index[headers["reason"].isna()])
    problems = [
        *told,
        *(
            f"files that cannot be read ({reason}): {len(files)}, e.g. {files['error'].iloc[0]}"
            for reason, files in broken.groupby("reason")
        ),
        *_counted("segments that end after their file", outside.index.get_level_values("file")),
        *_counted(f"clips below {SHORT_SECONDS} s", short.index.get_level_values("file")),
        *_counted("recordings under several names", [" and ".join(twin[:2]) for twin in twins]),
    ]
    return problems, bool(len(broken) or len(outside))


def _counted(what: str, examples: Sequence[str]) -> list[str]:
    """Return a line with the number of examples and the first of them; none if there are none."""
    return [f"{what}: {len(examples)}, e.g. {examples[0]}"] if len(examples) else []


def list_corpora() -> list[str]:
    """Return the known corpora as a table in Markdown."""
    lines = []
    for corpus in CORPORA.values():
        cells = {
            "name": f"`{corpus.name}`",
            "corpus": corpus.title,
            "language": corpus.language,
            "classes": f"{len(corpus.published)} ({corpus.target})",
            "clips": corpus.clips or "",
            "speakers": corpus.speakers or "",
            "scored in the paper": scored_part(corpus),
            "licence": corpus.licence,
            "layout": corpus.expected,
        }
        lines.append("| " + " | ".join(map(str, cells.values())) + " |")
    return ["| " + " | ".join(cells) + " |", "|" + "---|" * len(cells), *lines]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help=SOURCE_FORMS)
    parser.add_argument("--workers", type=int, default=4, help="threads that read headers")
    options = parser.parse_args(arguments)
    if not options.sources:
        print("\n".join(list_corpora()))
    failed = False
    for source in options.sources:
        try:
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                table = read_corpus(source)
        except (CorpusError, OSError) as error:
            print(f"{source}: {error}", file=sys.stderr)
            failed = True
            continue
        headers = read_headers(table, options.workers, progress=sys.stderr.isatty())
        problems, is_broken = find_problems(table, headers, [str(w.message) for w in told])
        failed |= is_broken
        print("\n".join(describe(table, headers)))
        print("\n".join(f"  problem      {problem}" for problem in problems or ["none found"]))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
