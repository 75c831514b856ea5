import os
import uuid
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from paraclap.acoustics import chunks, extraction, worker_pool
from paraclap.acoustics.extraction import Record

NAMES = [f"speaker{number % 7}/clip{number:05d}.wav" for number in range(3_000)]


@pytest.fixture
def job(tmp_path, voice):
    root, folder = tmp_path / "clips", tmp_path / "chunks"
    root.mkdir()
    folder.mkdir()
    for number in range(3):
        soundfile.write(root / f"{number}.wav", voice(0.3, f0=110 + 30 * number), 16_000)
    return chunks.Job(str(root), str(folder), "captions", None, 60.0, extraction.versions())


ROWS = [("0.wav", 0, None), ("1.wav", 100_000_000, 250_000_000), ("gone.wav", 0, None)]


# --- Dividing a corpus ---------------------------------------------------------------------


def test_chunks_cover_all_rows_in_order():
    for size in (None, 1, 5, 64, 10_000):
        divided = chunks.divide(NAMES, size)
        assert [row for chunk in divided for row in chunk] == list(range(len(NAMES)))
        assert all(divided) and max(map(len, divided)) <= 2 * (size or chunks.CHUNK_CLIPS[1])
    assert chunks.divide([]) == []


def test_chunks_have_about_the_requested_size():
    lengths = [len(chunk) for chunk in chunks.divide(NAMES, 32)]
    assert 16 < np.mean(lengths) < 48


def test_added_file_changes_only_its_own_chunk():
    def contents(names):
        return {tuple(names[row] for row in chunk) for chunk in chunks.divide(names, 16)}

    for place in (0, 1_234, 2_999):
        grown = [*NAMES[:place], "new/clip.wav", *NAMES[place:]]
        assert len(contents(NAMES) - contents(grown)) <= 3


# --- When a chunk is measured again ---------------------------------------------------------------


def test_chunk_contains_values_and_failures(job):
    outcome = chunks.run_chunk(job, ROWS)
    assert (outcome.clips, outcome.measured) == (3, True)
    chunk = chunks.read_chunk(outcome.path).to_pandas()
    assert chunk["file"].tolist() == ["0.wav", "1.wav", "gone.wav"]
    assert chunk["Duration"].tolist()[:2] == [0.3, 0.15] and chunk["row"].tolist() == [0, 1, 2]
    assert chunk["error"].tolist() == ["", "", "missing"]
    assert chunk["end"].isna().tolist() == [True, False, True]
    assert list(chunk.columns[10:]) == worker_pool.feature_names("captions")
    assert chunk.iloc[2, 10:].isna().all() and not chunk.iloc[0, 10:].isna().all()


def test_existing_chunk_is_not_measured_again(job, monkeypatch):
    first = chunks.run_chunk(job, ROWS)
    state = os.stat(first.path)
    monkeypatch.setattr(worker_pool, "measure_clips", None)  # measuring would fail
    again = chunks.run_chunk(job, ROWS)
    assert again == first._replace(measured=False)
    assert os.stat(first.path).st_mtime_ns == state.st_mtime_ns


def touched(job, rows):
    path = os.path.join(job.root, "0.wav")
    state = os.stat(path)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    return job, rows


def found(job, rows):
    os.link(os.path.join(job.root, "0.wav"), os.path.join(job.root, "gone.wav"))
    return job, rows


def moved(job, rows):
    os.rename(job.root, job.root + "2")
    return replace(job, root=job.root + "2"), rows


def replaced(job, rows):
    path = os.path.join(job.root, "0.wav")
    state = os.stat(path)
    with open(path, "r+b") as file:
        file.write(b"RIFX")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    return job, rows


CHANGES = {
    "corpus moved": moved,
    "other content of the same size and time": replaced,
    "file touched": touched,
    "missing file found": found,
    "other feature set": lambda job, rows: (replace(job, feature_set="egemaps"), rows),
    "other segment": lambda job, rows: (job, [rows[0], ("1.wav", 0, 260_000_000), rows[2]]),
    "other windows": lambda job, rows: (replace(job, longest=30.0), rows),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changed_chunk_is_measured_again(job, change):
    first = chunks.run_chunk(job, ROWS)
    again = chunks.run_chunk(*change(job, ROWS))
    assert again.measured and again.path != first.path


def test_other_versions_are_measured_again(job, monkeypatch):
    first = chunks.run_chunk(job, ROWS)
    versions = {**job.versions, "soxr": "0.0"}
    with pytest.raises(chunks.ChunkError, match=r"expected .*0\.0"):
        chunks.run_chunk(replace(job, versions=versions), ROWS)
    monkeypatch.setattr(extraction, "versions", lambda: versions)
    again = chunks.run_chunk(replace(job, versions=versions), ROWS)
    assert again.measured and again.path != first.path


def test_torn_chunk_is_measured_again(job):
    first = chunks.run_chunk(job, ROWS)
    os.truncate(first.path, os.path.getsize(first.path) // 2)
    assert chunks.run_chunk(job, ROWS) == first


def errors(outcome):
    return chunks.read_chunk(outcome.path)["error"].to_pylist()


def test_clip_whose_process_died_is_measured_again(job, monkeypatch):
    def die(clips, feature_set, timeout):
        for position, _ in enumerate(clips):
            yield position, [Record(0, None, stage=worker_pool.STAGE, error="crash")]

    with monkeypatch.context() as dying:
        dying.setattr(worker_pool, "measure_clips", die)
        assert errors(chunks.run_chunk(job, ROWS)) == ["crash"] * 3
    assert errors(chunks.run_chunk(job, ROWS)) == ["", "", "missing"]


# --- Files ---------------------------------------------------------------------------------------


def test_same_clips_give_the_same_bytes(job):
    path = chunks.run_chunk(job, ROWS).path
    with open(path, "rb") as file:
        first = file.read()
    os.remove(path)
    chunks.run_chunk(job, ROWS)
    with open(path, "rb") as file:
        assert file.read() == first


def test_flipped_bit_is_detected_and_repaired_by_a_rerun(job):
    path = chunks.run_chunk(job, ROWS).path
    column = pq.ParquetFile(path).metadata.row_group(0).column(12)
    with open(path, "r+b") as file:
        file.seek(column.data_page_offset + column.total_compressed_size - 3)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(chunks.ChunkError, match="was damaged .*repeat"):
        chunks.read_chunk(path)
    assert chunks.run_chunk(job, ROWS).measured, "the rerun must not reuse it"


def test_only_stale_chunks_and_temporary_files_of_ours_are_removed(job, tmp_path):
    kept, stale = chunks.run_chunk(job, ROWS).path, chunks.run_chunk(job, ROWS[:1]).path
    folder = tmp_path / "chunks"
    left = folder / f".part-1.parquet.{uuid.uuid4().hex}.tmp"
    foreign = {folder / name for name in ("notes.txt", "part-1.parquet", ".download.tmp")}
    for path in (left, *foreign):
        path.touch()
    chunks.remove_others(folder, {kept})
    assert set(folder.iterdir()) == {Path(kept), *foreign} and stale != kept
