import os

import numpy as np
import pandas as pd
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import soundfile

from paraclap.acoustics import chunks as parts
from paraclap.acoustics import extraction, worker_pool
from paraclap.acoustics.extraction import Record

NAMES = [f"speaker{number % 7}/clip{number:05d}.wav" for number in range(3_000)]


@pytest.fixture
def job(tmp_path, voice):
    root, folder = tmp_path / "clips", tmp_path / "parts"
    root.mkdir()
    folder.mkdir()
    for number in range(3):
        soundfile.write(root / f"{number}.wav", voice(0.3, f0=110 + 30 * number), 16_000)
    return parts.Job(str(root), str(folder), "captions", None, 60.0, extraction.versions())


ROWS = [("0.wav", 0, None), ("1.wav", 100_000_000, 250_000_000), ("gone.wav", 0, None)]


# --- Which clips go together ---------------------------------------------------------------------


def test_chunks_cover_all_rows_in_order():
    for size in (None, 1, 5, 64, 10_000):
        chunks = parts.chunks(NAMES, size)
        assert [row for chunk in chunks for row in chunk] == list(range(len(NAMES)))
        assert all(chunks) and max(map(len, chunks)) <= 2 * (size or parts.CHUNK_CLIPS[1])
    assert parts.chunks([]) == []


def test_chunks_have_about_the_size_asked_for():
    lengths = [len(chunk) for chunk in parts.chunks(NAMES, 32)]
    assert 16 < np.mean(lengths) < 48


def test_new_file_changes_only_the_chunk_that_it_is_in():
    def contents(names):
        return {tuple(names[row] for row in chunk) for chunk in parts.chunks(names, 16)}

    for place in (0, 1_234, 2_999):
        grown = [*NAMES[:place], "new/clip.wav", *NAMES[place:]]
        assert len(contents(NAMES) - contents(grown)) <= 3


# --- When a part is measured again ---------------------------------------------------------------


def test_part_holds_values_and_failures(job):
    outcome = parts.run_chunk(job, ROWS)
    assert (outcome.clips, outcome.failed, outcome.measured) == (3, 1, True)
    part = parts.read_part(outcome.path).to_pandas()
    assert part["file"].tolist() == ["0.wav", "1.wav", "gone.wav"]
    assert part["Duration"].tolist()[:2] == [0.3, 0.15] and part["row"].tolist() == [0, 1, 2]
    assert part["error"].tolist() == ["", "", "missing"]
    assert part["end"].isna().tolist() == [True, False, True]
    assert list(part.columns[10:]) == worker_pool.feature_names("captions")
    assert part.iloc[2, 10:].isna().all() and not part.iloc[0, 10:].isna().all()


def test_part_that_is_there_is_not_measured_again(job, monkeypatch):
    first = parts.run_chunk(job, ROWS)
    state = os.stat(first.path)
    monkeypatch.setattr(worker_pool, "measure_clips", None)  # measuring would fail
    again = parts.run_chunk(job, ROWS)
    assert again == first._replace(measured=False)
    assert os.stat(first.path).st_mtime_ns == state.st_mtime_ns


def changed_file(job, rows, monkeypatch):
    path = os.path.join(job.root, "0.wav")
    state = os.stat(path)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    return job, rows


def found_file(job, rows, monkeypatch):
    os.link(os.path.join(job.root, "0.wav"), os.path.join(job.root, "gone.wav"))
    return job, rows


def other_set(job, rows, monkeypatch):
    return parts.Job(**{**vars(job), "feature_set": "egemaps"}), rows


def other_segment(job, rows, monkeypatch):
    return job, [rows[0], ("1.wav", 100_000_000, 260_000_000), rows[2]]


def other_windows(job, rows, monkeypatch):
    return parts.Job(**{**vars(job), "longest": 30.0}), rows


def other_version(job, rows, monkeypatch):
    versions = {**job.versions, "soxr": "0.0"}
    monkeypatch.setattr(extraction, "versions", lambda: versions)
    return parts.Job(**{**vars(job), "versions": versions}), rows


def torn(job, rows, monkeypatch):
    (path,) = (entry.path for entry in os.scandir(job.folder))
    os.truncate(path, os.path.getsize(path) // 2)
    return job, rows


CHANGES = [
    changed_file,
    found_file,
    other_set,
    other_segment,
    other_windows,
    other_version,
    torn,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_changed_is_measured_again(job, monkeypatch, change):
    first = parts.run_chunk(job, ROWS)
    again = parts.run_chunk(*change(job, ROWS, monkeypatch))
    assert again.measured and (again.path == first.path) == (change is torn)


def test_moved_corpus_is_not_measured_again(job, tmp_path):
    first = parts.run_chunk(job, ROWS)
    os.rename(job.root, tmp_path / "moved")
    moved = parts.Job(**{**vars(job), "root": str(tmp_path / "moved")})
    assert parts.run_chunk(moved, ROWS) == first._replace(measured=False)


def test_clip_whose_process_died_is_tried_again(job, monkeypatch):
    def die(clips, feature_set, timeout):
        for position, _ in enumerate(clips):
            yield position, [Record(0, None, stage=worker_pool.STAGE, error="crash")]

    with monkeypatch.context() as dying:
        dying.setattr(worker_pool, "measure_clips", die)
        assert parts.run_chunk(job, ROWS).failed == 3
    assert parts.run_chunk(job, ROWS).failed == 1, "and is well now"


def test_worker_of_other_versions_is_refused(job):
    other = parts.Job(**{**vars(job), "versions": {**job.versions, "opensmile": "3.0"}})
    with pytest.raises(parts.PartError, match=r"expected .*3\.0"):
        parts.run_chunk(other, ROWS)


# --- Files ---------------------------------------------------------------------------------------


def test_same_clips_give_the_same_bytes(job):
    path = parts.run_chunk(job, ROWS).path
    with open(path, "rb") as file:
        first = file.read()
    os.remove(path)
    parts.run_chunk(job, ROWS)
    with open(path, "rb") as file:
        assert file.read() == first


def test_flipped_bit_is_noticed_and_mended(job):
    path = parts.run_chunk(job, ROWS).path
    column = pq.ParquetFile(path).metadata.row_group(0).column(12)
    with open(path, "r+b") as file:
        file.seek(column.data_page_offset + column.total_compressed_size - 3)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(parts.PartError, match="was damaged .*repeat"):
        parts.read_part(path)
    assert parts.run_chunk(job, ROWS).measured, "the rerun must not take it"


def test_folder_of_parts_is_a_parquet_dataset(job):
    parts.run_chunk(job, ROWS[:1])
    parts.run_chunk(job, ROWS[1:])
    table = pyarrow.dataset.dataset(job.folder).to_table().to_pandas()
    assert sorted(table["file"]) == ["0.wav", "1.wav", "gone.wav"]


def test_only_leftovers_are_removed(job, tmp_path):
    kept, stale = parts.run_chunk(job, ROWS).path, parts.run_chunk(job, ROWS[:1]).path
    folder = tmp_path / "parts"
    old, new = folder / ".part-1.parquet.a.tmp", folder / ".part-2.parquet.b.tmp"
    for path in (old, new, folder / "notes.txt"):
        path.touch()
    os.utime(old, (0, 0))
    parts.remove_others(folder, {kept})
    left = {str(path) for path in folder.iterdir()}
    assert left == {kept, str(new), str(folder / "notes.txt")} and stale not in left


def test_rows_of_a_table_are_nanoseconds_and_none():
    index = pd.MultiIndex.from_arrays(
        [["a", "b"], pd.to_timedelta([0, 1.5], "s"), pd.to_timedelta([None, 2.25], "s")],
        names=["file", "start", "end"],
    )
    rows = parts.clip_rows(pd.DataFrame(index=index), range(0, 2))
    assert rows == [("a", 0, None), ("b", 1_500_000_000, 2_250_000_000)]
