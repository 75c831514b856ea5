"""Report on a corpus on disk: contents, unreadable files, short segments, duplicates."""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from paraclap.audio import AudioError
from paraclap.audio.containers import read_header
from paraclap.audio.paths import hash_audio, resolve_inside
from paraclap.audio.segments import END_TOLERANCE
from paraclap.corpora.catalogue import CORPORA, Corpus

# --- What is in a corpus -------------------------------------------------------------------------

SHORT_SECONDS = 0.1
"""Clips below this duration [s] are too short for a word, and are reported."""
VALUES_SHOWN = 12
"""Columns with more values are described by the number of values."""
DESCRIBED = ("speaker", "gender", "language", "split", "fold")
"""Columns that are described in addition to the target."""


def read_headers(table: pd.DataFrame, workers: int = 4, progress: bool = False) -> pd.DataFrame:
    """Return the headers of a table's files, one row per file.

    Args:
        table: corpus table
        workers: threads that read headers
        progress: show a progress bar

    Returns:
        On the index ``file``: ``seconds``, ``rate`` [Hz], ``channels`` and ``kind``, or for
        unreadable files ``reason`` (code of `AudioError`) and ``error``.
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
    """Return groups of files with equal content; most differ in size or first bytes."""
    for key in (os.path.getsize, _digest_of_start, hash_audio):
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
    """Return the duration of each clip [s]; NaN if its file cannot be read."""
    rows = table.index.to_frame()
    lengths = rows["file"].map(headers["seconds"]).astype("float64")
    ends = rows["end"].dt.total_seconds().fillna(lengths)
    return (ends - rows["start"].dt.total_seconds()).where(lengths.notna())


def describe(table: pd.DataFrame, headers: pd.DataFrame) -> list[str]:
    """Return the description of a corpus: origin, clips, hours, labels, audio formats."""
    corpus = CORPORA.get(table.attrs["corpus"])
    facts = {"root": table.attrs["root"], "clips": f"{len(table)}"}
    if corpus:
        facts |= {"licence": corpus.licence, "citation": corpus.citation}
    if corpus and corpus.clips:
        facts["clips"] += f" of {corpus.clips} published"
    facts |= _sound_facts(table, headers) | _label_facts(table, corpus)
    if corpus:
        facts["paper scores"] = scored_part(corpus)
    title = corpus.title if corpus else "not a known corpus"
    return [
        f"{table.attrs['name']}: {title}",
        *(f"  {name:<13}{text}" for name, text in facts.items()),
    ]


def _sound_facts(table: pd.DataFrame, headers: pd.DataFrame) -> dict[str, str]:
    """Return hours, durations and formats of the readable clips; {} if there are none."""
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
    """Return the frequency of each value, with its class if that has another name.

    Args:
        values: labels
        classes: label -> class; None if it is not scored
    """
    counts = values.value_counts().sort_index()
    parts = [f"{len(counts)} values"]
    if len(counts) <= VALUES_SHOWN:
        parts = [f"{value}{_class_note(value, classes or {})} {n}" for value, n in counts.items()]
    if values.isna().any():
        parts.append(f"missing {values.isna().sum()}")
    return ", ".join(parts)


def _class_note(label: str, classes: Mapping[str, str | None]) -> str:
    """Return a note on the class of a label, if it has another name."""
    scored = classes.get(label, label)
    if scored is None:
        return " (not scored)"
    return "" if scored == label else f" -> {scored}"


def scored_part(corpus: Corpus) -> str:
    """Return which part of a corpus the paper evaluates, and its published UARs."""
    if not (corpus.printed or corpus.part):
        return "not evaluated"
    part = ", ".join(f"{column} {value}" for column, value in corpus.part.items()) or "all clips"
    mean = f", mean over {corpus.averaged_over}s" if corpus.averaged_over else ""
    printed = ", ".join(f"{system} {uar:.3f}" for system, uar in corpus.printed.items())
    return f"{part}{mean}" + (f"; UAR {printed}" if printed else "")


def find_problems(
    table: pd.DataFrame, headers: pd.DataFrame, reading: Sequence[str]
) -> tuple[list[str], bool]:
    """Return the problems of a corpus, and whether it has unusable clips.

    Args:
        table: corpus table
        headers: of its files, see `read_headers`
        reading: warnings when the table was read
    """
    broken = headers[headers["reason"].notna()]
    seconds = clip_seconds(table, headers)
    ends = table.index.get_level_values("end").total_seconds()
    lengths = table.index.get_level_values("file").map(headers["seconds"]).astype("float64")
    outside = seconds[(seconds <= 0) | (ends > lengths + END_TOLERANCE)]
    short = seconds[(seconds > 0) & (seconds < SHORT_SECONDS)]
    twins = equal_files(table.attrs["root"], headers.index[headers["reason"].isna()])
    problems = [
        *reading,
        *(
            f"unreadable files ({reason}): {len(files)}, e.g. {files['error'].iloc[0]}"
            for reason, files in broken.groupby("reason")
        ),
        *_counted("segments that end after their file", outside.index.get_level_values("file")),
        *_counted(f"clips below {SHORT_SECONDS} s", short.index.get_level_values("file")),
        *_counted("recordings with several names", [" and ".join(twin[:2]) for twin in twins]),
    ]
    return problems, bool(len(broken) or len(outside))


def _counted(what: str, examples: Sequence[str]) -> list[str]:
    """Return a line with the number of examples and the first one; [] if there are none."""
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
            "evaluated in the paper": scored_part(corpus),
            "licence": corpus.licence,
            "layout": corpus.expected,
        }
        lines.append("| " + " | ".join(map(str, cells.values())) + " |")
    return ["| " + " | ".join(cells) + " |", "|" + "---|" * len(cells), *lines]
