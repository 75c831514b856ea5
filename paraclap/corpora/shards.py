"""Shards of a corpus: labels from the members of tar files, and shards from a corpus table.

    write_shards(read_corpus("ravdess=/data/RAVDESS"), "/data/shards", 2**28)
    rows = read_shards("/data/shards")

The labels of a recording are the keys of its JSON, or of each object of the list `segments` in it;
its text is the column `caption`. See `paraclap.audio.shards` for the layout.
"""

import io
import json
import posixpath
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from paraclap.audio import AudioError
from paraclap.audio.containers import read_header
from paraclap.audio.paths import open_audio, resolve_inside
from paraclap.audio.shards import SUFFIXES, read_index
from paraclap.corpora import CorpusError
from paraclap.corpora.table_files import named_columns
from paraclap.files import OutputError, atomic_folder, safe_name

SEGMENTS = "segments"


def read_shards(root: Path, renamed: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Return one row per segment of a folder of shards, sorted by file.

    Args:
        root: folder of the shards
        renamed: see `read_file_table`

    Raises:
        CorpusError: if a shard is damaged or unsafe, or its labels are no objects
    """
    try:
        index = read_index(root, ["file", "json", "text"])
    except AudioError as error:
        raise CorpusError(str(error)) from error
    rows = []
    for file, labels, text in zip(*(column.to_pylist() for column in index.columns), strict=True):
        content = json.loads(labels or "{}")
        segments = content.pop(SEGMENTS, [{}])
        if not isinstance(segments, list) or not all(isinstance(s, dict) for s in segments):
            raise CorpusError(f"{root}: {SEGMENTS} of {file} is no list of objects")
        caption = {} if text is None else {"caption": text.strip()}
        rows += [{**caption, **content, **segment, "file": file} for segment in segments]
    return named_columns(pd.DataFrame(rows), root, renamed)


# --- Writing -------------------------------------------------------------------------------------


def write_shards(table: pd.DataFrame, folder: str | Path, size: int) -> dict[str, str]:
    """Write the recordings of a corpus table, in random order, with their rows as shards.

    Recordings keep their bytes. The order depends on their number alone, so the same table gives
    the same shards.

    Args:
        table: corpus table
        folder: of the shards, which must not exist
        size: of a shard [bytes], beyond which the next one begins

    Returns:
        Message of the error of each recording that cannot be read, which is left out.

    Raises:
        OutputError: if the folder exists or cannot be written
        CorpusError: if no recording can be read, or two recordings have the same key
    """
    folder, root = Path(folder).absolute(), table.attrs["root"]
    if folder.exists():
        raise OutputError(f"{folder} exists already: choose another name, or remove it")
    rows = table.groupby(level="file").indices
    files, faults = sorted(rows), {}
    keys: dict[str, str] = {}
    with atomic_folder(folder) as temporary:
        shards = _Shards(temporary, table.attrs["name"], size)
        order = np.random.default_rng(len(files)).permutation(len(files))
        for file in tqdm([files[place] for place in order], "shards", unit="file", disable=None):
            try:
                path = resolve_inside(root, file)
                kind = read_header(path).kind
            except AudioError as error:
                faults[file] = str(error)
                continue
            key, suffix = _key(file, kind)
            if (other := keys.setdefault(key, file)) != file:
                raise CorpusError(f"{root}: {other} and {file} would be one sample, rename one")
            name = None if f"{key}.{suffix}" == file else file
            with open_audio(path) as audio:
                shards.add(key, suffix, audio, _labels(table.iloc[rows[file]], name))
        shards.close()
        if len(faults) == len(files):
            raise CorpusError(f"{root}: no recording can be read: {next(iter(faults.values()))}")
        read_index(temporary)
    return faults


class _Shards:
    """The shards of a folder, written one after the other."""

    def __init__(self, folder: Path, name: str, size: int) -> None:
        self.folder, self.name, self.size = folder, name, size
        self.number, self.tar = 0, None

    def add(self, key: str, suffix: str, audio: io.FileIO, labels: Mapping[str, bytes]) -> None:
        """Add a recording and the other members of its sample."""
        if self.tar is not None and self.tar.offset >= self.size:
            self.close()
        if self.tar is None:
            path = self.folder / f"{safe_name(self.name)}-{self.number:06}.tar"
            self.tar = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        parts = {suffix: audio, **{name: io.BytesIO(text) for name, text in labels.items()}}
        for name, part in parts.items():
            member = tarfile.TarInfo(f"{key}.{name}")
            member.size = part.seek(0, io.SEEK_END)
            part.seek(0)
            self.tar.addfile(member, part)

    def close(self) -> None:
        """Complete the last shard."""
        if self.tar is not None:
            self.tar.close()
            self.tar, self.number = None, self.number + 1


def _key(file: str, kind: str) -> tuple[str, str]:
    """Return the key of a sample, whose name has no dot, and the suffix of its audio."""
    folder, name = posixpath.split(file)
    stem, suffix = posixpath.splitext(name)
    if suffix[1:].lower() not in SUFFIXES:
        stem, suffix = name, f".{kind.split()[0].lower()}"
    return posixpath.join(folder, stem.replace(".", "_")), suffix[1:]


def _labels(rows: pd.DataFrame, file: str | None) -> dict[str, bytes]:
    """Return the JSON of the rows of a recording, and its caption as text, by suffix."""
    segments = [
        dict(_values(row)) for row in rows.reset_index().drop(columns="file").to_dict("records")
    ]
    content = segments[0] if len(segments) == 1 else {SEGMENTS: segments}
    content |= {} if file is None else {"file": file}
    caption = content.get("caption")
    texts = {"txt": caption.encode()} if isinstance(caption, str) else {}
    return {"json": json.dumps(content, ensure_ascii=False, default=str).encode(), **texts}


def _values(row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the values of a row that are not missing, as JSON knows them."""
    for name, value in row.items():
        if isinstance(value, np.ndarray):
            value = value.tolist()
        elif not isinstance(value, list | tuple | dict) and pd.isna(value):
            continue
        elif isinstance(value, pd.Timedelta):
            if name == "start" and not value.value:
                continue
            value = value.value / 1e9
        elif isinstance(value, np.generic):
            value = value.item()
        yield name, value
