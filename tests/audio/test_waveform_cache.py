"""The waveform cache: samples of `read_audio`, decoded once, never read from damaged files."""

import hashlib
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch.utils.data

from paraclap.audio import AudioError, cache_chunks, reading, waveform_cache
from paraclap.audio.cache_chunks import WaveformCacheError
from paraclap.audio.recordings import Files
from paraclap.audio.segments import frame_range
from paraclap.audio.waveform_cache import cache_waveforms
from paraclap.cli import evaluate
from paraclap.corpora.table import read_corpus
from paraclap.data.dataset import ClipDataset
from paraclap.evaluation.embedding_cache import clip_keys
from paraclap.files import OutputError
from paraclap.training import loop
from paraclap.training.config import SettingsError, read_settings

REPOSITORY = Path(__file__).resolve().parents[2]
ROUNDING = 1 / 65536
FORMS = {
    # name: rate, channels, options
    "plain.wav": (16_000, 1, {}),
    "plain.flac": (16_000, 1, {}),
    "float.wav": (16_000, 1, {"subtype": "FLOAT"}),
    "fine.flac": (16_000, 1, {"subtype": "PCM_24"}),
    "stereo.wav": (16_000, 2, {}),
    "music.wav": (44_100, 1, {}),
    "film.flac": (48_000, 2, {}),
    "phone.wav": (8_000, 1, {}),
    "odd.wav": (12_345, 1, {}),
}
EXACT = {"plain.wav", "plain.flac"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Files of many forms, read only."""
    folder = tmp_path_factory.mktemp("forms")
    rng = np.random.default_rng(0)
    for name, (rate, channels, options) in FORMS.items():
        noise = rng.normal(0, 0.1, (round(2.3 * rate), channels))
        soundfile.write(folder / name, noise, rate, **options)
    return folder


@pytest.fixture
def voices(tmp_path, voice):
    """A folder of six short clips that may be changed."""
    folder = tmp_path / "voices"
    folder.mkdir()
    for number in range(6):
        soundfile.write(
            folder / f"{number}.wav", voice(0.2 + 0.1 * number, f0=100 + 9 * number), 16_000
        )
    return folder


def cache(folder, root):
    files = sorted(path.name for path in root.iterdir())
    return cache_waveforms(folder, root, files)


def tolerance(name):
    return 0 if name in EXACT else ROUNDING + 1e-9


# --- Reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMS)
def test_files_and_crops_equal_those_that_are_decoded(root, tmp_path, name):
    recordings, files = cache(tmp_path / "cache", root), Files(root)
    assert recordings.seconds(name) == files.seconds(name)
    waveform, expected = recordings.read(name), files.read(name)
    assert waveform.dtype == np.float32 and waveform.shape == expected.shape
    np.testing.assert_allclose(waveform, expected, rtol=0, atol=tolerance(name))
    begin, end = pd.Timedelta("0.4s"), pd.Timedelta("1.71s")
    for place in np.random.default_rng(3).random(8):
        for limits in ((None, pd.NaT), (begin, end), (None, end), (begin, None)):
            crop = recordings.crop(name, *limits, 0.9, place)
            expected = files.crop(name, *limits, 0.9, place)
            assert len(crop) == len(expected) and abs(len(crop) - 14_400) <= 1
            np.testing.assert_allclose(crop, expected, rtol=0, atol=tolerance(name) + 1e-6)


def test_other_files_and_segments_are_refused(root, tmp_path):
    recordings = cache_waveforms(tmp_path / "cache", root, ["plain.wav"])
    with pytest.raises(WaveformCacheError, match="music"):
        recordings.read("music.wav")
    with pytest.raises(AudioError) as caught:
        recordings.read("plain.wav", 1, 9)
    assert caught.value.reason == "segment"


def test_files_outside_the_root_are_refused(tmp_path):
    (tmp_path / "inner").mkdir()
    with pytest.raises(AudioError, match="outside"):
        cache_waveforms(tmp_path / "cache", tmp_path / "inner", ["../a.wav"])


def test_whole_files_are_limited_and_crops_of_them_are_not(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", np.zeros(40_000), 16_000)
    recordings = cache_waveforms(tmp_path / "cache", tmp_path, ["a.wav"])
    monkeypatch.setattr(frame_range, "__defaults__", (1.0,))
    with pytest.raises(AudioError) as caught:
        recordings.read("a.wav")
    assert caught.value.reason == "too_long"
    assert len(recordings.crop("a.wav", None, None, 1.0, 0.5)) == 16_000


# --- Building ------------------------------------------------------------------------------------


def recorded(monkeypatch, module, name):
    """Record the names of the files that a function is called with."""
    files, original = [], getattr(module, name)

    def record(path, *arguments):
        files.append(path.name)
        return original(path, *arguments)

    monkeypatch.setattr(module, name, record)
    return files


def decoded_paths(monkeypatch):
    return recorded(monkeypatch, cache_chunks, "read_in_blocks")


def test_files_are_decoded_once_and_hashed_again_only_where_changed(voices, tmp_path, monkeypatch):
    decoded = decoded_paths(monkeypatch)
    hashed = recorded(monkeypatch, waveform_cache, "hash_audio")
    cache(tmp_path / "cache", voices)
    assert len(decoded) == len(hashed) == 6
    cache(tmp_path / "cache", voices)
    assert len(decoded) == len(hashed) == 6
    shutil.copy(voices / "2.wav", voices / "copy.wav")
    (voices / "3.wav").rename(voices / "moved.wav")
    recordings = cache(tmp_path / "cache", voices)
    assert len(decoded) == 6 and hashed[6:] == ["copy.wav", "moved.wav"]
    np.testing.assert_array_equal(recordings.read("copy.wav"), recordings.read("2.wav"))


def test_changed_file_is_cached_again(voices, tmp_path, monkeypatch, voice):
    before = cache(tmp_path / "cache", voices).read("1.wav")
    soundfile.write(voices / "1.wav", voice(0.3, f0=200.0), 16_000)
    decoded = decoded_paths(monkeypatch)
    recordings = cache(tmp_path / "cache", voices)
    assert decoded == ["1.wav"]
    assert not np.array_equal(recordings.read("1.wav"), before)
    np.testing.assert_array_equal(recordings.read("1.wav"), reading.read_audio(voices / "1.wav"))
    assert recordings.hash("1.wav") == hashlib.sha256((voices / "1.wav").read_bytes()).hexdigest()


def test_corpora_share_a_cache(voices, root, tmp_path):
    cache(tmp_path / "cache", voices)
    both = [cache(tmp_path / "cache", root), cache(tmp_path / "cache", voices)]
    np.testing.assert_array_equal(both[0].read("plain.wav"), reading.read_audio(root / "plain.wav"))
    np.testing.assert_array_equal(both[1].read("0.wav"), reading.read_audio(voices / "0.wav"))


def test_unreadable_files_are_reported_after_all_others_are_cached(voices, tmp_path, monkeypatch):
    samples = np.zeros(20_000)
    samples[19_999] = np.nan  # found only at the end of the file
    soundfile.write(voices / "0.wav", samples, 16_000, subtype="FLOAT")
    (voices / "1.wav").write_text("<html>")
    with pytest.raises(AudioError, match=r"2 of 6 files.*0\.wav holds 1 samples"):
        cache(tmp_path / "cache", voices)
    decoded = decoded_paths(monkeypatch)
    for name in ("0.wav", "1.wav"):
        (voices / name).unlink()
    recordings = cache(tmp_path / "cache", voices)
    assert decoded == []
    for name in ("2.wav", "5.wav"):
        np.testing.assert_array_equal(recordings.read(name), reading.read_audio(voices / name))


def test_long_files_are_cached_in_blocks_and_equal_the_file(tmp_path, monkeypatch):
    """Blocks of a second here, so that a minute at 44.1 kHz is many of them."""
    rate = 44_100
    noise = np.random.default_rng(0).normal(0, 0.1, 60 * rate).astype(np.float32)
    soundfile.write(tmp_path / "long.wav", noise, rate)
    expected = reading.read_audio(tmp_path / "long.wav")
    monkeypatch.setattr(reading, "BLOCK_SECONDS", 1.0)
    sizes = []
    original = cache_chunks.ChunkWriter._write
    monkeypatch.setattr(
        cache_chunks.ChunkWriter,
        "_write",
        lambda self, w: (sizes.append(len(w)), original(self, w)),
    )
    recordings = cache_waveforms(tmp_path / "cache", tmp_path, ["long.wav"])
    assert len(sizes) >= 60 and max(sizes) < 17_000
    np.testing.assert_allclose(recordings.read("long.wav"), expected, rtol=0, atol=ROUNDING)


def test_large_chunks_are_completed(voices, tmp_path, monkeypatch):
    monkeypatch.setattr(waveform_cache, "CHUNK_BYTES", 10_000)
    recordings = cache(tmp_path / "cache", voices)
    assert len(list((tmp_path / "cache").glob("*.i16"))) > 2
    for path in voices.iterdir():
        np.testing.assert_array_equal(recordings.read(path.name), reading.read_audio(path))


BUILD = """
import sys, time
from paraclap.audio import cache_chunks, waveform_cache
waveform_cache.CHUNK_BYTES = 10_000
original = cache_chunks.read_in_blocks
def slow(*arguments):
    time.sleep(0.05)
    return original(*arguments)
cache_chunks.read_in_blocks = slow
files = sys.argv[3:]
waveform_cache.cache_waveforms(sys.argv[1], sys.argv[2], files)
"""


def build_process(folder, root):
    files = sorted(path.name for path in root.iterdir())
    command = [sys.executable, "-c", BUILD, str(folder), str(root), *files]
    return subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)


def test_killed_process_keeps_complete_chunks(voices, tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    process = build_process(folder, voices)
    deadline = time.monotonic() + 60
    while not list(folder.glob("*.index")):
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    decoded = decoded_paths(monkeypatch)
    recordings = cache(folder, voices)
    assert 0 < len(decoded) < 6
    for path in voices.iterdir():
        np.testing.assert_array_equal(recordings.read(path.name), reading.read_audio(path))
    assert not list(folder.glob(".*.tmp"))


def test_two_processes_at_once_make_one_cache(voices, tmp_path, monkeypatch):
    processes = [build_process(tmp_path / "cache", voices) for _ in range(2)]
    for process in processes:
        assert process.wait(timeout=60) == 0, process.stderr.read()
    decoded = decoded_paths(monkeypatch)
    recordings = cache(tmp_path / "cache", voices)
    assert decoded == []
    np.testing.assert_array_equal(recordings.read("4.wav"), reading.read_audio(voices / "4.wav"))
    samples = sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.i16"))
    assert samples == 2 * sum(len(reading.read_audio(path)) for path in voices.iterdir())


def test_file_modified_while_it_is_cached_is_refused(voices, tmp_path, monkeypatch):
    original = cache_chunks.read_in_blocks

    def read_in_blocks(path, receive):
        report = original(path, receive)
        path.write_bytes(path.read_bytes() + b"\0\0")
        return report

    monkeypatch.setattr(cache_chunks, "read_in_blocks", read_in_blocks)
    with pytest.raises(WaveformCacheError, match="modified while"):
        cache(tmp_path / "cache", voices)


def limit_file_size():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))


def test_full_disk_leaves_no_partial_chunk(voices, tmp_path):
    files = sorted(path.name for path in voices.iterdir())
    code = BUILD.replace("10_000", "1_000_000")
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "cache"), str(voices), *files],
        cwd=REPOSITORY,
        preexec_fn=limit_file_size,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 1 and "File too large" in result.stderr, result.stderr
    assert not list((tmp_path / "cache").iterdir())


# --- Damage --------------------------------------------------------------------------------------


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_and_keep_the_time(path):
    status = path.stat()
    path.write_bytes(path.read_bytes()[:-2])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


DAMAGE = {
    "samples flipped": ("*.i16", flip, "hash of its name"),
    "samples cut": ("*.i16", cut_and_keep_the_time, "bytes, expected"),
    "samples missing": ("*.i16", Path.unlink, "is missing"),
    "index flipped": ("*.index", flip, "hash of its name"),
    "index cut": ("*.index", cut_and_keep_the_time, "hash of its name"),
    "names flipped": ("names.parquet", cut_and_keep_the_time, "damaged"),
}


@pytest.mark.parametrize("pattern, damage, message", DAMAGE.values(), ids=DAMAGE)
def test_damaged_cache_warns_and_is_rebuilt(voices, tmp_path, pattern, damage, message):
    folder = tmp_path / "cache"
    cache(folder, voices)
    (path,) = folder.glob(pattern)
    damage(path)
    with pytest.warns(UserWarning, match=message):
        recordings = cache(folder, voices)
    for path in voices.iterdir():
        np.testing.assert_array_equal(recordings.read(path.name), reading.read_audio(path))
    cache(folder, voices)  # no warning is left


def test_copied_cache_is_hashed_once_and_not_rebuilt(voices, tmp_path, monkeypatch):
    cache(tmp_path / "cache", voices)
    shutil.copytree(tmp_path / "cache", tmp_path / "copy", copy_function=shutil.copyfile)
    decoded = decoded_paths(monkeypatch)
    hashed = recorded(monkeypatch, cache_chunks, "file_sha256")
    for _ in range(2):
        cache(tmp_path / "copy", voices)
    assert len(hashed) == 1 and decoded == []


def test_cache_of_another_conditioning_is_not_read(voices, tmp_path, monkeypatch):
    cache(tmp_path / "cache", voices)
    decoded = decoded_paths(monkeypatch)
    monkeypatch.setattr(cache_chunks, "FORMAT", b"another")
    with pytest.warns(UserWarning, match="expected b'another'"):
        cache(tmp_path / "cache", voices)
    assert len(decoded) == 6


def test_cache_of_another_user_is_read_and_not_changed(voices, tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    expected = cache(folder, voices).read("3.wav")
    (folder / f".chunk.{'0' * 32}.tmp").touch()
    content = {path: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(waveform_cache.os, "access", lambda *_: False)
    np.testing.assert_array_equal(cache(folder, voices).read("3.wav"), expected)
    (voices / "6.wav").write_bytes((voices / "5.wav").read_bytes())
    with pytest.raises(OutputError, match="may not be written, and 1 of 7 files are not in it"):
        cache(folder, voices)
    (path,) = folder.glob("*.index")
    flip(path)
    content[path] = path.read_bytes()
    with pytest.warns(UserWarning, match="hash of its name"), pytest.raises(OutputError):
        cache(folder, voices)
    assert {path: path.read_bytes() for path in folder.iterdir()} == content


# --- Use -----------------------------------------------------------------------------------------


def test_pickled_recordings_hold_no_samples(voices, tmp_path):
    recordings = cache(tmp_path / "cache", voices)
    expected = recordings.read("3.wav")
    sent = pickle.dumps(recordings)
    assert len(sent) < 3_000
    np.testing.assert_array_equal(pickle.loads(sent).read("3.wav"), expected)


def test_training_from_a_cache_gives_identical_weights(config, tmp_path):
    """The synthetic corpus has 16 bits and 16 kHz."""
    arguments = [config, "train.epochs=1", "data.workers=0"]
    plain = loop.train(read_settings([*arguments, f"output={tmp_path / 'plain'}"]))
    options = [f"output={tmp_path / 'cached'}", f"data.waveform_cache={tmp_path / 'cache'}"]
    fast = loop.train(read_settings([*arguments, *options]))
    assert list((tmp_path / "cache").glob("*.index"))
    weights = fast.model.state_dict()
    assert all(torch.equal(v, weights[name]) for name, v in plain.model.state_dict().items())
    assert plain.best == fast.best
    with pytest.raises(SettingsError, match="the audio"):  # other samples would be rounded
        loop.train(read_settings([*arguments, f"output={tmp_path / 'cached'}"]))


def test_evaluation_from_a_cache_gives_the_same_scores_and_its_own_embedding_keys(
    tiny, corpus, tmp_path
):
    model, processor = tiny
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    scores = []
    for options in ([], ["--waveform-cache", str(tmp_path / "cache")]):
        output = tmp_path / f"results{len(scores)}"
        arguments = [str(tmp_path / "model"), str(corpus), "--split", "dev", "-o", str(output)]
        arguments += ["--no-cache"]  # embeddings of other batches differ in the last bits
        assert evaluate.main([*arguments, *options]) == 0
        scores.append((output / "scores.yaml").read_text())
    assert scores[0] == scores[1] and list((tmp_path / "cache").glob("*.index"))
    table = read_corpus(corpus).iloc[:3]
    recordings = cache_waveforms(tmp_path / "cache", corpus, table.index.get_level_values("file"))
    first, second = (clip_keys(ClipDataset(table, where)) for where in (corpus, recordings))
    assert not set(first) & set(second)
