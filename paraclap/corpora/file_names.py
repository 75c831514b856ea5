r"""Labels from file names and label files.

    read_files(root, r"(?P<speaker>\d+)_(?P<emotion>[A-Z])", codes={"emotion": {"A": "anger"}})

Audio with other names, audio without labels, labels without audio, and copies are skipped with a
warning that contains their number and an example. No audio is opened.
"""

import posixpath
import re
import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from paraclap.corpora import CorpusError
from paraclap.corpora.audio_files import audio_suffixes, find_audio, one_per_recording, warn_skipped
from paraclap.corpora.labels import Codes, decode


def read_files(
    root: Path,
    pattern: str,
    columns: Mapping[str, str] | None = None,
    codes: Mapping[str, Codes] | None = None,
    labels: Callable[[Path], pd.DataFrame] | None = None,
    labels_needed: bool = True,
    other_part: str | None = None,
    prefer: str | None = None,
) -> pd.DataFrame:
    r"""Return one row per recording, with labels from its file name and from label files.

    Every named group of ``pattern`` is a *field*. Label files are joined by the fields that they
    share with the file names. All fields except ``clip`` become columns.

    Args:
        root: folder of the corpus
        pattern: regular expression of the whole path below ``root``, without suffix
        columns: further columns, as texts with fields in braces, e.g. ``"Ses{session}{gender}"``
        codes: column -> code -> label, for columns that contain codes
        labels: returns the table of fields of the label files; folder and suffix of a field
            ``clip`` are ignored
        labels_needed: skip recordings without a row in ``labels``
        other_part: regular expression of further audio of the corpus, skipped without a warning
        prefer: see `one_per_recording`

    Raises:
        CorpusError: if a code is unknown, or label files are contradictory
    """
    files = find_audio(root)
    matches = {file: re.fullmatch(pattern, posixpath.splitext(file)[0]) for file in files}
    names = {file: match.groupdict() for file, match in matches.items() if match}
    strays = [
        file
        for file, match in matches.items()
        if not match and not (other_part and re.search(other_part, file))
    ]
    if names:
        what = "audio files do not have a name of this corpus and are skipped"
        warn_skipped(root, len(strays), what, strays)
    kept = one_per_recording(root, {file: tuple(f.values()) for file, f in names.items()}, prefer)
    fields = pd.DataFrame([{"file": file, **names[file]} for file in kept], dtype="str")
    if labels is not None and len(fields):
        fields = _join_labels(fields, labels(root), labels_needed, root)
    own = {name: f"{{{name}}}" for name in fields.columns.difference(["file", "clip"], sort=False)}
    return _columns_of(fields, {**own, **(columns or {})}, codes or {}, root)


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
    if needed and len(twice):
        example = _key_texts(twice, keys)[0]
        raise CorpusError(f"{root}: label files have different labels for {example}")
    what = "lines of label files are contradictory and are skipped"
    warn_skipped(root, len(twice), what, _key_texts(twice, keys))
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
    name = posixpath.basename(str(path).replace("\\", "/"))
    stem, suffix = posixpath.splitext(name)
    return stem if suffix[1:].lower() in audio_suffixes() else name


def _columns_of(
    fields: pd.DataFrame, columns: Mapping[str, str], codes: Mapping[str, Codes], root: Path
) -> pd.DataFrame:
    """Return ``file`` and the columns that have any value."""
    if fields.empty:
        return fields
    rows = fields[["file"]].copy()
    for column, text in columns.items():
        values = _fill(text, fields)
        if column in codes:
            try:
                values = decode(values, codes[column])
            except KeyError as error:
                code, row = error.args
                raise CorpusError(
                    f"{root}: {fields['file'][row]} has the unknown code {code!r} for {column},"
                    f" expected one of {sorted(codes[column])}"
                ) from error
        if values.notna().any():
            is_number = pd.api.types.is_numeric_dtype(values)
            rows[column] = values if is_number else values.astype("str")
    return rows


def _fill(text: str, fields: pd.DataFrame) -> pd.Series:
    """Return a text with the fields of each row; missing if one of them is missing."""
    names = [name for _, name, _, _ in string.Formatter().parse(text) if name]
    if text == f"{{{''.join(names)}}}":
        return fields[names[0]]
    filled = [text.format(**row) for row in fields[["file", *names]].to_dict("records")]
    return pd.Series(filled, fields.index, dtype="str").mask(fields[names].isna().any(axis=1))
