import errno
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from paraclap.files import (
    ForeignFolderError,
    OutputError,
    atomic_folder,
    atomic_write,
    claim_folder,
    file_sha256,
    make_folder,
    remove_leftovers,
    safe_name,
    sampled_hash,
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


@pytest.mark.parametrize("name", ["y" * 250, "y" * 300, "\udcff.parquet"])
def test_impossible_name_is_an_output_error(tmp_path, name):
    table = pa.table({"a": [1]})
    with pytest.raises(OutputError), atomic_write(tmp_path / name) as temporary:
        pq.write_table(table, temporary)
    assert not list(tmp_path.iterdir())
    text = pytest.raises(UnicodeEncodeError, match="surrogates")
    with pytest.raises(OutputError, match="embedded null byte"):
        make_folder(tmp_path / "a\0b")
    with text, atomic_write(tmp_path / "b.csv") as temporary:
        temporary.write_text("\udcff", encoding="utf-8")


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


def test_sampled_hash_is_that_of_the_content(tmp_path):
    content = bytes(range(256)) * 4096
    for name in ("a.wav", "b.wav"):
        write_bytes(tmp_path / name, content)
    hashes = {sampled_hash(tmp_path / "a.wav"), sampled_hash(tmp_path / "b.wav")}
    changes = [content[1:], content + b"0", b"0" + content[1:], content[:-1] + b"0", b"", b"0"]
    changes.append(content[: len(content) // 2] + bytes(70_000))
    changes[-1] += content[len(changes[-1]) :]  # in the middle, of the same size
    for change in changes:
        write_bytes(tmp_path / "b.wav", change)
        hashes.add(sampled_hash(tmp_path / "b.wav"))
    assert len(hashes) == 1 + len(changes)


@pytest.mark.parametrize("size", [1, 4095, 4097, 30_000, 65_536])
def test_sampled_hash_reads_small_files_completely(tmp_path, size):
    content = bytearray(size)
    hashes = []
    for place in (None, *range(0, size, 1021)):
        changed = content[:]
        if place is not None:
            changed[place] = 1
        write_bytes(tmp_path / "a", changed)
        hashes.append(sampled_hash(tmp_path / "a"))
    assert len(set(hashes)) == len(hashes)


def test_sampled_hash_of_a_pipe_or_folder_is_an_error_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(OSError, match="not a regular file"):
            sampled_hash(tmp_path / name)


@pytest.mark.parametrize(
    "name",
    ["RAVDESS", "my corpus, 2nd", "emotion", "v1.2_dev", "Gef\u00fchl", "\u60c5\u611f", "a=b@c"],
)
def test_ordinary_names_are_file_names_as_they_are(name):
    assert safe_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "/etc/passwd",
        "../x",
        "a/b",
        "a\\b",
        "-rf",
        ".hidden",
        "a\0b",
        "a\nb",
        "\udcff",
    ]
    + [
        "a" * 300,
        "\u60c5" * 300,
        "emotion ",
        " emotion",
        "e\u0301",
        "$(id)",
        "a:b",
        "2_$_$",
        "x" * 99 + "/",
    ],
)
def test_other_names_stay_in_their_folder_and_differ(name, tmp_path):
    safe, other = safe_name(name), safe_name(name + "/")
    write_text(tmp_path / f"{safe}.csv", "")
    write_text(tmp_path / f"{other}.csv", "")
    assert len(list(tmp_path.iterdir())) == 2 and safe not in (name, name.strip())
    assert not safe.startswith((".", "-", " ")) and safe_name(safe) == safe


def test_folders_of_others_are_not_claimed(tmp_path):
    own = r"part-\d+\.bin"
    folder = claim_folder(tmp_path / "new", "cache", own)
    assert folder.is_dir() and claim_folder(folder, "cache", own) == folder
    write_text(folder / "notes.txt", "")
    with pytest.raises(
        ForeignFolderError, match=r"is no cache, it contains 'notes.txt': use a new"
    ):
        claim_folder(folder, "cache", own)
    write_text(folder / "part-1.bin", "")
    claim_folder(folder, "cache", own)


def test_leftovers_of_the_given_files_alone_are_removed(tmp_path):
    def leave(name):
        with atomic_write(tmp_path / name) as temporary:
            temporary.write_text("half")
            (tmp_path / f"{temporary.name}.kept").write_text("half")
        (tmp_path / name).unlink()
        (tmp_path / f"{temporary.name}.kept").rename(temporary)
        return temporary

    left, other = leave("a*.csv"), leave("ab.csv")
    foreign = tmp_path / ".download.tmp"
    foreign.write_text("")
    remove_leftovers(tmp_path, "a*.csv")
    assert set(tmp_path.iterdir()) == {other, foreign} and left != other
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [foreign]
