r"""Audio files of a corpus: one per recording, with labels from their names and label files.

    read_files(root, r"(?P<speaker>\d+)_(?P<emotion>[A-Z])", codes={"emotion": {"A": "anger"}})

Audio with other names, audio without labels, labels without audio, and copies are skipped with a
warning that contains their number and an example. No audio is opened.
"""

import os
import posixpath
import re
import shutil
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from paraclap.audio import AUDIO_SUFFIXES, CONVERTIBLE_SUFFIXES
from paraclap.corpora import CorpusError
from paraclap.corpora.databases import read_database
from paraclap.corpora.label_files import read_label_files
from paraclap.corpora.validation import warn_skipped

Codes = Mapping[str, str | None]
"""Code -> label; None for a missing label.

The key ``*`` holds the label of all other codes, which are otherwise an error; the label ``*``
keeps them unchanged.
"""

# --- Finding files -------------------------------------------------------------------------------


def find_audio(
    root: str | Path, suffixes: frozenset[str] = AUDIO_SUFFIXES
) -> tuple[list[str], list[str]]:
    """Return the audio files below ``root``, and the folders that are not listed, both sorted.

    Paths are relative, with ``/``. Hidden files and the ``__MACOSX`` folders of ZIP archives are
    skipped. Links to folders are followed inside the root. Folders that this user may not list, and
    links to folders outside of the root, are returned, so that their clips are not lost silently.
    """
    files, closed = [], []
    pending, linked, seen = [""], [], set()
    base = os.path.realpath(root)
    while pending or linked:  # links last: most of their folders are listed already
        folder = pending.pop() if pending else linked.pop()
        target = os.path.realpath(os.path.join(base, folder))
        if target in seen:
            continue
        seen.add(target)
        inside = Path(target).is_relative_to(base)
        entries = _entries(target, must=not folder) if inside else None
        if entries is None:
            closed.append(folder)
        for entry in entries or ():
            path = posixpath.join(folder, entry.name)
            if entry.is_dir(follow_symlinks=False):
                pending.append(path)
            elif entry.is_symlink() and os.path.isdir(entry.path):
                linked.append(path)
            elif posixpath.splitext(entry.name)[1][1:].lower() in suffixes:
                files.append(path)
    return _named(root, files), _named(root, closed)


def _entries(folder: str, must: bool) -> list[os.DirEntry] | None:
    """Return the visible entries of a folder; None if this user may not list it."""
    try:
        with os.scandir(folder) as found:
            return [entry for entry in found if not entry.name.startswith((".", "__MACOSX"))]
    except OSError:
        if must:
            raise
        return None


def _named(root: str | Path, paths: list[str]) -> list[str]:
    """Return sorted paths; those that are not UTF-8 are escaped, with a warning."""
    odd = [path for path in paths if any("\udc80" <= letter <= "\udcff" for letter in path)]
    escaped = {path: os.fsencode(path).decode("utf-8", "backslashreplace") for path in odd}
    what = "names are not UTF-8, and must be changed before the files can be read"
    warn_skipped(Path(root), len(odd), what, escaped.values())
    return sorted(escaped.get(path, path) for path in paths)


def _warn_closed(root: Path, closed: Sequence[str]) -> None:
    what = "folders may not be listed by this user or are links out of the root"
    warn_skipped(root, len(closed), what, closed)


def one_per_recording(root: Path, keys: Mapping[str, object], prefer: str | None) -> list[str]:
    """Return one file per recording, sorted.

    Files with the same name and size in several folders are copies, as often found in unpacked
    archives; the copy in the fewest folders is kept.

    Args:
        root: folder of the files
        keys: file -> key of its recording
        prefer: regular expression; of several files of a recording, the only match is kept

    Raises:
        CorpusError: if a recording exists with two suffixes, or in copies that differ in size
    """
    groups: dict[object, list[str]] = {}
    for file, key in keys.items():
        groups.setdefault(key, []).append(file)
    kept, copies, replaced = [], [], []
    for files in groups.values():
        preferred = [file for file in files if prefer and re.search(prefer, file)]
        if len(files) > 1 and len(preferred) == 1:
            replaced += [file for file in files if file not in preferred]
            files = preferred
        first, *others = sorted(files, key=lambda file: (file.count("/"), file))
        for other in others:
            same_name = posixpath.basename(first) == posixpath.basename(other)
            if not same_name or os.path.getsize(root / first) != os.path.getsize(root / other):
                raise CorpusError(
                    f"{root}: {first} and {other} are the same recording; keep one of them"
                )
        kept.append(first)
        copies += others
    what = "audio files are copies in another folder and are skipped"
    warn_skipped(root, len(copies), what, copies)
    what = "audio files have a corrected version and are skipped"
    warn_skipped(root, len(replaced), what, replaced)
    return sorted(kept)


def read_folder(root: Path) -> pd.DataFrame:
    """Return a table with one row (file) per audio file below ``root``.

    Folders that cannot be listed are rows too, which are rejected when they are read. Files that
    need ffmpeg are skipped if it is not installed, or if the recording also exists as other audio.

    Raises:
        CorpusError: if a recording exists with two suffixes
    """
    files, closed = find_audio(root)
    stems = {file: posixpath.splitext(file)[0] for file in files}
    one_per_recording(root, stems, None)
    _warn_closed(root, closed)
    recorded = set(stems.values())
    others = find_audio(root, CONVERTIBLE_SUFFIXES)[0]
    others = [file for file in others if posixpath.splitext(file)[0] not in recorded]
    if shutil.which("ffmpeg") is None:
        what = "files must be converted with ffmpeg and are skipped"
        warn_skipped(root, len(others), what, others)
        others = []
    return pd.DataFrame({"file": sorted([*files, *others, *closed])}, dtype="str")


# --- Labels of files -----------------------------------------------------------------------------


def read_files(
    root: Path,
    pattern: str,
    columns: Mapping[str, str] | None = None,
    codes: Mapping[str, Codes] | None = None,
    labels: Mapping[str, Any] | None = None,
    labels_needed: bool = True,
    other_part: str | None = None,
    prefer: str | None = None,
) -> pd.DataFrame:
    r"""Return one row per recording, with labels from its file name and from label files.

    Every named group of ``pattern`` is a *field*. Label files are joined by the fields that they
    share with the file names. All fields except ``clip`` become columns.

    Args:
        root: folder of the corpus
        pattern: regular expression of a path without suffix, below any folder of the root, because
            unpacked archives differ in the folders above
        columns: further columns, as texts with fields in braces, e.g. ``"Ses{session}{gender}"``
        codes: column -> code -> label; codes of gender and split are usual spellings by default
        labels: arguments of `read_label_files` or, with a key ``database``, of `read_database`;
            folder and suffix of a field ``clip`` are ignored
        labels_needed: skip recordings without a row in ``labels``
        other_part: regular expression of further audio of the corpus, skipped without a warning
        prefer: see `one_per_recording`

    Raises:
        CorpusError: if a code is unknown, or label files are contradictory
    """
    names, strays = {}, []
    files, closed = find_audio(root)
    for file in files:
        if other_part and re.search(other_part, file):
            continue
        if match := re.fullmatch(rf"(?:.*/)?{pattern}", posixpath.splitext(file)[0]):
            names[file] = match.groupdict()
        else:
            strays.append(file)
    if not names:
        return pd.DataFrame()
    what = "audio files do not have a name of this corpus and are skipped"
    warn_skipped(root, len(strays), what, strays)
    kept = one_per_recording(root, {file: tuple(f.values()) for file, f in names.items()}, prefer)
    fields = pd.DataFrame([{"file": file, **names[file]} for file in kept], dtype="str")
    if labels is not None:
        fields = _join_labels(fields, _read_labels(root, **labels), labels_needed, root)
    texts = {name: f"{{{name}}}" for name in fields.columns if name not in ("file", "clip")}
    texts |= columns or {}
    _warn_closed(root, closed)
    rows = _columns_of(fields, texts, codes or {}, root)
    if rows.empty or not closed:
        return rows
    return pd.concat([rows, pd.DataFrame({"file": closed}, dtype="str")], ignore_index=True)


def _read_labels(
    root: Path, database: Mapping[str, Any] | None = None, **files: Any
) -> pd.DataFrame:
    """Return the labels of an audformat database in the folder or below, else of label files."""
    headers = sorted([*root.glob("db.yaml"), *root.glob("*/db.yaml")]) if database else []
    if not headers:
        return read_label_files(root, **files)
    rows = read_database(headers[0].parent, database["tables"], database["split_pattern"])
    return rows.rename(columns=database["renamed"]).reindex(columns=files["columns"].values())


def _join_labels(
    fields: pd.DataFrame, labels: pd.DataFrame, needed: bool, root: Path
) -> pd.DataFrame:
    """Return the fields of names with those of label files; warn about rows without counterpart."""
    if needed and labels.empty:
        return fields.iloc[:0]
    if "clip" in labels:
        labels = labels.assign(clip=labels["clip"].map(_stem, na_action="ignore"))
    labels = labels.drop_duplicates()
    keys = [column for column in fields if column in labels]
    twice = labels[labels.duplicated(keys, keep=False)]
    examples = _key_texts(twice, keys)
    if needed and examples:
        raise CorpusError(f"{root}: label files have different labels for {examples[0]}")
    what = "lines of label files are contradictory and are skipped"
    warn_skipped(root, len(twice), what, examples)
    labels = labels.drop(twice.index)
    joined = fields.merge(labels, on=keys, how="outer" if needed else "left", indicator="source")
    sources = joined.pop("source")
    if needed:
        missing, unlabelled = joined[sources == "right_only"], joined[sources == "left_only"]
        warn_skipped(root, len(missing), "labelled clips have no audio", _key_texts(missing, keys))
        what = "audio files have no label and are skipped"
        warn_skipped(root, len(unlabelled), what, unlabelled["file"])
        joined = joined[sources == "both"]
    return joined.sort_values("file", ignore_index=True)


def _key_texts(rows: pd.DataFrame, keys: Sequence[str]) -> list[str]:
    """Return the keys of rows as texts."""
    return [" ".join(map(str, row)) for row in rows[keys].fillna("?").to_numpy()]


def _stem(path: str) -> str:
    """Return a file name without folder and without audio suffix."""
    name = posixpath.basename(path.replace("\\", "/"))
    stem, suffix = posixpath.splitext(name)
    return stem if suffix[1:].lower() in AUDIO_SUFFIXES else name


def _columns_of(
    fields: pd.DataFrame, columns: Mapping[str, str], codes: Mapping[str, Codes], root: Path
) -> pd.DataFrame:
    """Return ``file`` and the columns that have any value, with labels instead of codes."""
    if fields.empty:
        return fields
    rows = fields[["file"]].copy()
    for column, text in columns.items():
        values, known = _fill(text, fields), codes.get(column, {"*": "*"})
        unknown = values[values.notna() & ~values.isin(list(known))]
        if len(unknown) and "*" not in known:
            raise CorpusError(
                f"{root}: {fields['file'][unknown.index[0]]} has the unknown code"
                f" {unknown.iloc[0]!r} for {column}, expected one of {sorted(known)}"
            )
        others = {code: code if known["*"] == "*" else known["*"] for code in set(unknown)}
        values = values.map({**known, **others}, na_action="ignore")
        if values.notna().any():
            rows[column] = values.astype("str")
    return rows


def _fill(text: str, fields: pd.DataFrame) -> pd.Series:
    """Return a text with the fields of each row; missing if one of them is missing."""
    names = [name for _, name, _, _ in string.Formatter().parse(text) if name]
    if text == f"{{{''.join(names)}}}":
        return fields[names[0]]
    filled = [text.format(**row) for row in fields[["file", *names]].to_dict("records")]
    return pd.Series(filled, fields.index, dtype="str").mask(fields[names].isna().any(axis=1))
