"""Report on a corpus on disk: contents, unreadable files, short segments, duplicates."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from paraclap.audio import AudioError
from paraclap.audio.containers import read_header
from paraclap.audio.paths import hash_audio, resolve_inside, state_of
from paraclap.audio.segments import END_TOLERANCE
from paraclap.corpora.catalogue import CORPORA, Corpus
from paraclap.progress import with_progress

THREADS = 4
SHORT_SECONDS = 0.1
"""Clips below this duration [s] are too short for a word, and are reported."""
VALUES_SHOWN = 12
"""Columns with more values are described by the number of values."""
DESCRIBED = ("speaker", "gender", "language", "split", "fold")
"""Columns that are described in addition to the target."""


def read_headers(table: pd.DataFrame, progress: bool = False) -> pd.DataFrame:
    """Return the headers of a table's files.

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
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(describe_file, files)
        title = table.attrs["name"] if progress else None
        rows = list(with_progress(found, len(files), title, "file"))
        return pd.DataFrame(rows, index=files, columns=columns)


# --- Contents ------------------------------------------------------------------------------------


def describe(table: pd.DataFrame, headers: pd.DataFrame) -> list[str]:
    """Return the description of a corpus: origin, clips, hours, labels, audio formats."""
    corpus = CORPORA.get(table.attrs["corpus"])
    facts = {"root": table.attrs["root"], "clips": f"{len(table)}"}
    if corpus:
        facts |= {"licence": corpus.licence, "citation": corpus.citation}
        facts["clips"] += f" of {corpus.clips} published" if corpus.clips else ""
    facts |= _describe_audio(table, headers)
    target = corpus.target if corpus else "emotion"
    for column in dict.fromkeys([target, *DESCRIBED]):
        if column in table:
            classes = corpus.classes if corpus and column == target else {}
            facts[column] = describe_values(table[column], classes)
    if corpus and corpus.speakers and "speaker" in table:
        count = table["speaker"].nunique()
        facts["speaker"] = f"{count} of {corpus.speakers} published: {facts['speaker']}"
    if corpus:
        facts["paper scores"] = scored_part(corpus)
    title = corpus.title if corpus else "not a known corpus"
    lines = [f"  {name:<13}{text}" for name, text in facts.items()]
    return [f"{table.attrs['name']}: {title}", *lines]


def _describe_audio(table: pd.DataFrame, headers: pd.DataFrame) -> dict[str, str]:
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


def clip_seconds(table: pd.DataFrame, headers: pd.DataFrame) -> pd.Series:
    """Return the duration of each clip [s]; NaN if its file cannot be read."""
    rows = table.index.to_frame()
    lengths = rows["file"].map(headers["seconds"]).astype("float64")
    ends = rows["end"].dt.total_seconds().fillna(lengths)
    return (ends - rows["start"].dt.total_seconds()).where(lengths.notna())


def describe_values(values: pd.Series, classes: Mapping[str, str | None]) -> str:
    """Return the frequency of each label, with its class (None: not scored) if it is another."""
    counts = values.value_counts().sort_index()
    parts = []
    for label, count in counts.items():
        scored = classes.get(label, label)
        note = " (not scored)" if scored is None else f" -> {scored}" if scored != label else ""
        parts.append(f"{label}{note} {count}")
    if len(counts) > VALUES_SHOWN:
        parts = [f"{len(counts)} values"]
    if values.isna().any():
        parts.append(f"missing {values.isna().sum()}")
    return ", ".join(parts)


def scored_part(corpus: Corpus) -> str:
    """Return which part of a corpus the paper evaluates, and its published UARs."""
    if not (corpus.printed or corpus.part):
        return "not evaluated"
    part = ", ".join(f"{column} {value}" for column, value in corpus.part.items()) or "all clips"
    mean = f", mean over {corpus.averaged_over}s" if corpus.averaged_over else ""
    printed = ", ".join(f"{system} {uar:.3f}" for system, uar in corpus.printed.items())
    return f"{part}{mean}" + (f"; UAR {printed}" if printed else "")


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


# --- Problems ------------------------------------------------------------------------------------


def find_problems(table: pd.DataFrame, headers: pd.DataFrame) -> tuple[list[str], bool]:
    """Return the problems of a corpus, and whether it has unusable clips."""
    broken = headers[headers["reason"].notna()]
    files, ends = (table.index.get_level_values(name) for name in ("file", "end"))
    seconds = clip_seconds(table, headers)
    lengths = files.map(headers["seconds"]).astype("float64")
    outside = files[(seconds <= 0) | (ends.total_seconds() > lengths + END_TOLERANCE)]
    short = files[(seconds > 0) & (seconds < SHORT_SECONDS)]
    twins = equal_files(table.attrs["root"], headers.index[headers["reason"].isna()])
    found: dict[str, Sequence[str]] = {
        f"unreadable files ({reason})": rows["error"].tolist()
        for reason, rows in broken.groupby("reason")
    }
    found["segments that end after their file"] = outside
    found[f"clips below {SHORT_SECONDS} s"] = short
    found["recordings with several names"] = [" and ".join(twin[:2]) for twin in twins]
    problems = [f"{what}: {len(of)}, e.g. {of[0]}" for what, of in found.items() if len(of)]
    return problems, bool(len(broken) or len(outside))


def equal_files(root: str | Path, files: Iterable[str]) -> list[list[str]]:
    """Return groups of files with equal content; only files of equal size are hashed."""
    keys: tuple[Callable[[Path], object], ...] = (lambda path: state_of(path)[0], hash_audio)
    for key in keys:
        groups: dict[object, list[str]] = {}
        for file in files:
            groups.setdefault(key(resolve_inside(root, file)), []).append(file)
        found = [group for group in groups.values() if len(group) > 1]
        files = [file for group in found for file in group]
    return found
