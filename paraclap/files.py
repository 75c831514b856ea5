"""Atomic writing of files and folders, and the SHA-256 of a file.

    with atomic_write(path) as temporary:
        table.to_parquet(temporary)
    write_text(path, "written completely or not at all")

Content is written under a temporary name beside its place, flushed to disk and renamed. After a
crash or a full disk, the path holds either its previous or its new content. Temporary names are
unique, so several processes, on several machines, may write to the same path.
"""

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from paraclap.errors import ParaCLAPError


class OutputError(ParaCLAPError, OSError):
    """A file or folder cannot be written."""


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` if the block succeeds.

    Raises:
        OutputError: if the file cannot be written; an existing file is left unchanged.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with _output_errors(path, temporary):
            yield temporary
            _flush(temporary)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a binary file atomically."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces `path` if the block succeeds.

    Unlike files, a folder must have only one writer at a time.

    Raises:
        OutputError: if the folder cannot be written; an existing folder is left unchanged.
    """
    temporary, old = (path.with_name(f".{path.name}.{suffix}") for suffix in ("tmp", "old"))
    with _output_errors(path, temporary):
        if old.exists() and not path.exists():  # killed between the two renames below
            old.rename(path)
        for leftover in (temporary, old):
            shutil.rmtree(leftover, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            for file in temporary.iterdir():
                _flush(file)
            _flush(temporary)
            if path.exists():
                path.rename(old)
            temporary.rename(path)
            _flush(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            if old.exists() and path.exists():
                shutil.rmtree(old)


@contextmanager
def reading(path: str | Path, kind: type[ParaCLAPError]) -> Iterator[None]:
    """Raise errors of reading or parsing a file as `kind`, with the path.

    These are system errors and those of text, JSON, YAML, NumPy and Arrow.
    """
    try:
        yield
    except ParaCLAPError:
        raise
    except (OSError, EOFError, ValueError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or error
        raise kind(f"{path} cannot be read: {reason}") from error


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's content as hexadecimal text."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def make_folder(path: str | Path) -> Path:
    """Create a folder and its parents, if needed, and return it.

    Raises:
        OutputError: if it cannot be created.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path} cannot be created: {error.strerror}") from error
    return Path(path)


@contextmanager
def _output_errors(path: Path, temporary: Path) -> Iterator[None]:
    """Raise system errors that concern the output as `OutputError`, others unchanged."""
    try:
        yield
    except ParaCLAPError:
        raise
    except OSError as error:
        place = str(error.filename or path)
        ours = place.startswith((str(temporary), str(path))) or path.is_relative_to(place)
        if not ours or error.errno is None:
            raise  # concerns another file, for example an input, or was not raised by the system
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
