"""Atomic writing of files and folders, reading of YAML, file names from text, and hashes.

    with atomic_write(path) as temporary:
        table.to_parquet(temporary)
    write_text(path, "written completely or not at all")
    content = read_yaml(path, SettingsError)

Content is written under a temporary name beside its place, flushed to disk and renamed. After a
crash or a full disk, the path holds either its previous or its new content. Temporary names are
unique, so several processes, on several machines, may write to the same path.
"""

import errno
import hashlib
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from paraclap.errors import ParaCLAPError

YAML_BYTES = 10_000_000  # largest file
YAML_DEPTH = 50  # of nested lists and mappings
YAML_NUMBER = 100  # characters of the longest number; all fit into a float
YAML_REPEATED = 10_000  # values that aliases may add, besides ten times those of the file


class OutputError(ParaCLAPError, OSError):
    """A file or folder cannot be written."""


class ForeignFolderError(OutputError):
    """A folder with files that are not ours."""


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` if the block succeeds.

    Raises:
        OutputError: if the file cannot be written; an existing file is left unchanged.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with output_errors(path, temporary):
            yield temporary
            _flush(temporary)
            temporary.replace(path)
    finally:
        with suppress(OSError):  # it was renamed, or never existed
            temporary.unlink()


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
    temporary, old = _beside(path)
    with output_errors(path, temporary):
        recover_folder(path)
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


def recover_folder(path: Path) -> None:
    """Restore a folder whose replacement by `atomic_folder` was killed, and remove leftovers."""
    temporary, old = _beside(path)
    if old.exists() and not path.exists():  # killed between the two renames
        old.rename(path)
    for leftover in (temporary, old):
        shutil.rmtree(leftover, ignore_errors=True)


def _beside(path: Path) -> tuple[Path, Path]:
    """Names of a folder while it is written, and of its previous content."""
    return path.with_name(f".{path.name}.tmp"), path.with_name(f".{path.name}.old")


@contextmanager
def reading(path: str | Path, kind: type[ParaCLAPError]) -> Iterator[None]:
    """Raise errors of reading or parsing a file as `kind`, with the path.

    These are system errors and those of text, JSON, YAML, NumPy and Arrow.
    """
    try:
        yield
    except ParaCLAPError:
        raise
    except RecursionError as error:
        raise kind(f"{path} cannot be read: it is nested too deeply") from error
    except (OSError, EOFError, ValueError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        if isinstance(error, UnicodeDecodeError):
            reason = "it is not text in UTF-8"
        raise kind(f"{path} cannot be read: {reason}") from error


@contextmanager
def reading_parquet(path: str | Path, kind: type[ParaCLAPError], expected: str) -> Iterator[None]:
    """Raise errors as `reading` does, for a Parquet file, which should be `expected`."""
    from pyarrow import ArrowException  # here because pyarrow and numpy take 0.3 s to import

    with reading(path, kind):
        try:
            yield
        except FileNotFoundError as error:
            raise kind(f"{path} does not exist") from error
        except (OSError, ArrowException) as error:
            if getattr(error, "strerror", None) or isinstance(error, ParaCLAPError):
                raise
            raise ValueError(f"it is no parquet file, or damaged; expected {expected}") from error


def remove_leftovers(folder: Path, *names: str) -> None:
    """Remove temporary files of `atomic_write` that killed processes left behind.

    The caller holds the lock of the folder, so that none of them is being written.

    Args:
        folder: of the files.
        names: of the files that were written; without names, all in the folder.
    """
    written = "|".join(map(re.escape, names)) or ".+"
    for name in os.listdir(folder):
        if re.fullmatch(rf"\.({written})\.[0-9a-f]{{32}}\.tmp", name):
            (folder / name).unlink(missing_ok=True)


# --- YAML ----------------------------------------------------------------------------------------


def read_yaml(path: str | Path, kind: type[ParaCLAPError]) -> Any:
    """Return the content of a YAML file, see `parse_yaml`.

    Raises:
        ParaCLAPError: of `kind`, if the file cannot be read or parsed.
    """
    with reading(path, kind):
        size = Path(path).stat().st_size
        if size > YAML_BYTES:
            raise ValueError(f"it has {size} bytes, expected at most {YAML_BYTES}")
        return parse_yaml(Path(path).read_text(encoding="utf-8-sig"))


def parse_yaml(text: str) -> Any:
    """Return the content of a YAML document: mappings, lists, texts, numbers, truth values, None.

    Dates stay texts, and `1e-3` is a number as in YAML 1.2. Tags, keys that occur twice, deep
    nesting, and aliases that multiply the content are refused.

    Raises:
        ValueError: naming the line.
    """
    try:
        _check_events(text)
        loader = _YAMLLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        sizes: dict[yaml.Node, tuple[int, int]] = {}
        _, size = _measure(node, sizes)
        if size > YAML_REPEATED + 10 * len(sizes):
            raise ValueError(f"aliases repeat {len(sizes)} values to {size}")
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ValueError(f"line {mark.line + 1}: {problem}" if mark else problem) from error


# C is 10 times as fast
class _YAMLLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """PyYAML's safe loader with numbers of YAML 1.2, and dates as texts."""


_YAMLLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in _YAMLLoader.yaml_implicit_resolvers.items()
}
_YAMLLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)[eE][-+]?\d+$"),
    [*"-+.0123456789"],
)


def _check_events(text: str) -> None:
    """Refuse what would crash PyYAML: nesting and tags."""
    depth = 0
    for event in yaml.parse(text, Loader=_YAMLLoader):
        line = f"line {event.start_mark.line + 1}"
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > YAML_DEPTH:
            raise ValueError(f"{line}: nested more than {YAML_DEPTH} times")
        if getattr(event, "tag", None):
            raise ValueError(f"{line}: tag {event.tag!r}, expected plain YAML without tags")


def _measure(node: yaml.Node, known: dict[yaml.Node, tuple[int, int] | None]) -> tuple[int, int]:
    """Return depth and number of values of a node with all aliases replaced, and fill `known`."""
    line = f"line {node.start_mark.line + 1}"
    if node in known:
        if known[node] is None:
            raise ValueError(f"{line}: contains itself")
        return known[node]
    known[node] = None
    inside: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        seen: set[tuple[str, str]] = set()
        for key, value in node.value:
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
            if name in seen and key.value != "<<":
                raise ValueError(f"line {key.start_mark.line + 1}: key {key.value!r} occurs twice")
            seen.add(name)
            inside += [key, value]
    elif isinstance(node, yaml.SequenceNode):
        inside = node.value
    elif node.tag.endswith((":int", ":float")) and len(node.value) > YAML_NUMBER:
        raise ValueError(f"{line}: number of {len(node.value)} digits")
    parts = [_measure(part, known) for part in inside]
    depth = 1 + max([0, *(depth for depth, _ in parts)])
    if depth > YAML_DEPTH + 1:
        raise ValueError(f"{line}: nested more than {YAML_DEPTH} times")
    known[node] = depth, 1 + sum(size for _, size in parts)
    return known[node]


# --- Folders and names ----------------------------------------------------------------------------

NAME_BYTES = 100
"""Longest name of `safe_name`; file systems allow 255 bytes for all parts."""


def safe_name(text: str) -> str:
    """Return a text as part of a file name: one name for each text, and never a path.

    Letters, digits, spaces and ``_-.+=,@`` are kept, other characters become ``_``. Texts that are
    changed or shortened by that end in a part of their SHA-256, so that they remain different.
    """
    safe = re.sub(r"[^\w .+=,@-]|^[ .-]|[ .]$", "_", text) or "_"
    if safe == text and len(safe.encode()) <= NAME_BYTES:
        return safe
    ending = "-" + hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
    while len(safe.encode()) > NAME_BYTES - len(ending):
        safe = safe[:-1]
    return safe + ending


def refuse_overwriting(output: str | Path, inputs: Iterable[str | Path]) -> None:
    """Check that writing a file would replace none of the files that are read.

    Raises:
        OutputError: if the output is one of the inputs, or a folder.
    """
    if os.path.isdir(output):
        raise OutputError(f"{output} is a folder, expected the name of a file")
    for path in inputs if os.path.exists(output) else ():
        if os.path.exists(path) and os.path.samefile(output, path):
            raise OutputError(
                f"{output} would replace an input; choose another name for the output"
            )


def claim_folder(path: str | Path, kind: str, own: str) -> Path:
    """Create a folder, or return it if it is empty or has a file of ours.

    Args:
        path: of the folder.
        kind: what the folder is, for the message.
        own: regular expression of the names of our files; hidden files are ignored.

    Raises:
        ForeignFolderError: if the folder has files, and none of them is ours.
        OutputError: if it cannot be created or listed.
    """
    folder = make_folder(path)
    with output_errors(folder, folder):
        names = [name for name in os.listdir(folder) if not name.startswith(".")]
    if names and not any(re.fullmatch(own, name) for name in names):
        raise ForeignFolderError(
            f"{folder} is no {kind}, it contains {min(names)!r}: use a new or empty folder"
        )
    return folder


def make_folder(path: str | Path) -> Path:
    """Create a folder and its parents, if needed, and return it.

    Raises:
        OutputError: if it cannot be created.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # of the system, and of a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{path} cannot be created: {reason}") from error
    return Path(path)


# --- Hashes --------------------------------------------------------------------------------------


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's content as hexadecimal text."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def default_cache() -> Path | None:
    """Return the folder of the embedding cache: $PARACLAP_CACHE, or in the user's cache folder.

    None if the user has no home folder.
    """
    if folder := os.environ.get("PARACLAP_CACHE"):
        return Path(folder)
    user = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return None if user.startswith("~") else Path(user) / "paraclap" / "embeddings"


SAMPLED_BLOCKS, BLOCK_BYTES = 16, 4096
"""Number of blocks that `sampled_hash` reads, and their size."""


def sampled_hash(path: str | Path) -> str:
    """Return a hash of a file's size and of 16 blocks of 4 KiB, as 32 hexadecimal digits.

    The blocks are evenly spaced, the first at the begin of the file and the last at its end; files
    up to 64 KiB are read completely. Missed are changes that keep the size and lie between the
    blocks: a few samples of a recording, but hardly another recording or another encoding. The name
    and the modification time of the file are not included.

    Raises:
        OSError: if it is not a regular file, or cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe would block
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return sampled_hash_of(descriptor, 0, status.st_size)
    finally:
        os.close(descriptor)


def sampled_hash_of(descriptor: int, first: int, size: int) -> str:
    """Return the `sampled_hash` of `size` bytes of an open file, from byte `first` on."""
    last = max(size - BLOCK_BYTES, 0)
    places = {last * block // (SAMPLED_BLOCKS - 1) for block in range(SAMPLED_BLOCKS)}
    digest = hashlib.sha256(str(size).encode())
    for place in sorted(places):
        digest.update(os.pread(descriptor, min(BLOCK_BYTES, size), first + place))
    return digest.hexdigest()[:32]


@contextmanager
def output_errors(path: Path, temporary: Path) -> Iterator[None]:
    """Raise errors of the system that concern the output as `OutputError`, others unchanged."""
    try:
        yield
    except ParaCLAPError:
        raise
    except UnicodeEncodeError as error:
        if str(path).isprintable() or error.object not in (str(path), str(temporary)):
            raise
        raise OutputError(f"{os.fsencode(path)!r} is not UTF-8, expected another name") from error
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
