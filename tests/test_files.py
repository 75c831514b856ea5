import errno
import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from paraclap.files import (
    OutputError,
    atomic_folder,
    atomic_write,
    file_sha256,
    write_bytes,
    write_text,
)


def test_failed_write_keeps_the_previous_file_and_leaves_no_temporary_one(tmp_path):
    path = tmp_path / "table.csv"
    write_text(path, "old")
    with pytest.raises(OutputError, match="table.csv cannot be written: No space left"):
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_missing_or_impossible_folder_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="No such file or directory"):
        write_text(tmp_path / "missing" / "table.csv", "new")
    write_text(tmp_path / "file", "")
    with pytest.raises(OutputError, match="Not a directory"), atomic_folder(tmp_path / "file/a/b"):
        pass


def test_errors_of_other_files_and_bugs_are_unchanged(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "output"):
        (tmp_path / "input").read_text()
    with pytest.raises(ValueError, match="a bug"), atomic_write(tmp_path / "output"):
        raise ValueError("a bug")


def test_concurrent_writers_of_one_path_leave_one_whole_file(tmp_path):
    contents = [bytes([value]) * 100_000 for value in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: write_bytes(tmp_path / "file", content), contents))
    assert (tmp_path / "file").read_bytes() in contents
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_hash_of_a_file(tmp_path):
    write_bytes(tmp_path / "file", b"content")
    assert file_sha256(tmp_path / "file") == hashlib.sha256(b"content").hexdigest()
