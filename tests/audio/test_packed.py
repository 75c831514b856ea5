"""packed.py: the same samples as audio.py gives, made once, and never from what is damaged."""

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

from paraclap.audio import reading, waveform_cache
from paraclap.audio.reading import AudioError, Files
from paraclap.audio.waveform_cache import WaveformCacheError, cache_waveforms
from paraclap.cli import evaluate
from paraclap.corpora.table import read_corpus
from paraclap.data.dataset import ClipDataset
from paraclap.evaluation.embed import clip_keys
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


def pack(folder, root, **options):
    files = sorted(path.name for path in root.iterdir())
    return cache_waveforms(folder, root, files, progress=False, **options)


def tolerance(name):
    return 0 if name in EXACT else ROUNDING + 1e-9


# --- What is read --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMS)
def test_whole_files_are_those_of_read_audio(root, tmp_path, name):
    waveform = pack(tmp_path / "pack", root).read(name)
    expected = reading.read_audio(root / name)
    assert waveform.dtype == np.float32 and waveform.shape == expected.shape
    np.testing.assert_allclose(waveform, expected, rtol=0, atol=tolerance(name))


@pytest.mark.parametrize("name", FORMS)
def test_crops_are_those_of_the_files(root, tmp_path, name):
    recordings, files = pack(tmp_path / "pack", root), Files(root)
    assert recordings.seconds(name) == files.seconds(name)
    begin, end = pd.Timedelta("0.4s"), pd.Timedelta("1.71s")
    for place in np.random.default_rng(3).random(8):
        for limits in ((None, pd.NaT), (begin, end), (None, end), (begin, None)):
            crop = recordings.crop(name, *limits, 0.9, place)
            expected = files.crop(name, *limits, 0.9, place)
            assert len(crop) == len(expected) and abs(len(crop) - 14_400) <= 1
            np.testing.assert_allclose(crop, expected, rtol=0, atol=tolerance(name) + 1e-6)


def test_short_segments_stay_whole(root, tmp_path):
    recordings = pack(tmp_path / "pack", root)
    for name in FORMS:
        crop = recordings.crop(name, 0.5, 0.75, 1.0, 0.3)
        np.testing.assert_array_equal(crop, recordings.read(name, 0.5, 0.75))
        assert len(crop) == 4000


@pytest.mark.parametrize("start, end", [(-1, 1), (2, 1), (5, 6), (1, 9), (1, 1)])
def test_segments_outside_of_the_file_are_refused_as_in_files(root, tmp_path, start, end):
    for recordings in (pack(tmp_path / "pack", root), Files(root)):
        with pytest.raises(AudioError) as caught:
            recordings.read("music.wav", start, end)
        assert caught.value.reason == "segment"


def test_flags_of_the_conditioning_are_kept(root, tmp_path):
    recordings = pack(tmp_path / "pack", root)
    for name in FORMS:
        assert recordings.flags(name) == reading.read_audio_with_report(root / name)[1].flags()
    assert recordings.flags("film.flac") == ["resampled:48000", "mixed:2"]


def test_file_that_was_not_asked_for_is_refused(root, tmp_path):
    recordings = cache_waveforms(tmp_path / "pack", root, ["plain.wav"], progress=False)
    with pytest.raises(WaveformCacheError, match="music"):
        recordings.read("music.wav")


def test_files_outside_the_root_are_refused(root, tmp_path):
    (tmp_path / "inner").mkdir()
    with pytest.raises(AudioError, match="outside"):
        cache_waveforms(tmp_path / "pack", tmp_path / "inner", ["../a.wav"], progress=False)


def test_whole_files_are_limited_and_crops_of_them_are_not(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", np.zeros(40_000), 16_000)
    recordings = cache_waveforms(tmp_path / "pack", tmp_path, ["a.wav"], progress=False)
    monkeypatch.setattr(reading.check_length, "__defaults__", (1.0,))
    with pytest.raises(AudioError) as caught:
        recordings.read("a.wav")
    assert caught.value.reason == "too_long"
    assert len(recordings.crop("a.wav", None, None, 1.0, 0.5)) == 16_000


# --- Making it -----------------------------------------------------------------------------------


def packed_paths(monkeypatch):
    """Record the names of the files that are decoded."""
    decoded = []
    original = waveform_cache.read_in_blocks

    def read_in_blocks(path, receive):
        decoded.append(path.name)
        return original(path, receive)

    monkeypatch.setattr(waveform_cache, "read_in_blocks", read_in_blocks)
    return decoded


def hashed_paths(monkeypatch):
    """Record the names of the files that are hashed."""
    hashed = []
    original = waveform_cache.hash_file

    def hash_file(path):
        hashed.append(path.name)
        return original(path)

    monkeypatch.setattr(waveform_cache, "hash_file", hash_file)
    return hashed


def test_files_are_decoded_once_and_hashed_again_only_where_changed(voices, tmp_path, monkeypatch):
    decoded, hashed = packed_paths(monkeypatch), hashed_paths(monkeypatch)
    pack(tmp_path / "pack", voices)
    assert len(decoded) == len(hashed) == 6
    pack(tmp_path / "pack", voices)
    assert len(decoded) == len(hashed) == 6
    shutil.copy(voices / "2.wav", voices / "copy.wav")
    (voices / "3.wav").rename(voices / "moved.wav")
    recordings = pack(tmp_path / "pack", voices)
    assert len(decoded) == 6 and hashed[6:] == ["copy.wav", "moved.wav"]
    np.testing.assert_array_equal(recordings.read("copy.wav"), recordings.read("2.wav"))


def test_changed_file_is_packed_anew(voices, tmp_path, monkeypatch, voice):
    before = pack(tmp_path / "pack", voices).read("1.wav")
    soundfile.write(voices / "1.wav", voice(0.3, f0=200.0), 16_000)
    decoded = packed_paths(monkeypatch)
    recordings = pack(tmp_path / "pack", voices)
    assert decoded == ["1.wav"]
    assert not np.array_equal(recordings.read("1.wav"), before)
    np.testing.assert_array_equal(recordings.read("1.wav"), reading.read_audio(voices / "1.wav"))
    assert recordings.hash("1.wav") == hashlib.sha256((voices / "1.wav").read_bytes()).hexdigest()


def test_corpora_share_a_pack(voices, root, tmp_path):
    pack(tmp_path / "pack", voices)
    both = [pack(tmp_path / "pack", root), pack(tmp_path / "pack", voices)]
    np.testing.assert_array_equal(both[0].read("plain.wav"), reading.read_audio(root / "plain.wav"))
    np.testing.assert_array_equal(both[1].read("0.wav"), reading.read_audio(voices / "0.wav"))


def test_unreadable_files_stop_when_all_others_are_packed(voices, tmp_path, monkeypatch):
    samples = np.zeros(20_000)
    samples[19_999] = np.nan  # known only when the file has been read to its end
    soundfile.write(voices / "0.wav", samples, 16_000, subtype="FLOAT")
    (voices / "1.wav").write_text("<html>")
    with pytest.raises(AudioError, match=r"2 of 6 files.*0\.wav holds 1 samples"):
        pack(tmp_path / "pack", voices)
    decoded = packed_paths(monkeypatch)
    for name in ("0.wav", "1.wav"):
        (voices / name).unlink()
    recordings = pack(tmp_path / "pack", voices)
    assert decoded == []
    for name in ("2.wav", "5.wav"):
        np.testing.assert_array_equal(recordings.read(name), reading.read_audio(voices / name))


def test_long_files_are_packed_in_little_memory_and_equal_the_file(tmp_path, monkeypatch):
    """Blocks of a second here, so that a minute at 44.1 kHz is many of them."""
    rate = 44_100
    noise = np.random.default_rng(0).normal(0, 0.1, 60 * rate).astype(np.float32)
    soundfile.write(tmp_path / "long.wav", noise, rate)
    expected = reading.read_audio(tmp_path / "long.wav")
    monkeypatch.setattr(reading, "BLOCK_SECONDS", 1.0)
    sizes = []
    original = waveform_cache._PartWriter._write
    monkeypatch.setattr(
        waveform_cache._PartWriter,
        "_write",
        lambda self, w: (sizes.append(len(w)), original(self, w)),
    )
    recordings = cache_waveforms(tmp_path / "pack", tmp_path, ["long.wav"], progress=False)
    assert len(sizes) >= 60 and max(sizes) < 17_000
    np.testing.assert_allclose(recordings.read("long.wav"), expected, rtol=0, atol=ROUNDING)


def test_parts_are_closed_when_they_are_large(voices, tmp_path, monkeypatch):
    monkeypatch.setattr(waveform_cache, "PART_BYTES", 10_000)
    recordings = pack(tmp_path / "pack", voices)
    assert len(list((tmp_path / "pack").glob("*.i16"))) > 2
    for path in voices.iterdir():
        np.testing.assert_array_equal(recordings.read(path.name), reading.read_audio(path))


BUILD = """
import sys, time
import packed
packed.PART_BYTES = 10_000
original = packed.read_in_blocks
def slow(*arguments):
    time.sleep(0.05)
    return original(*arguments)
packed.read_in_blocks = slow
files = sys.argv[3:]
packed.cache_waveforms(sys.argv[1], sys.argv[2], files, progress=False)
"""


def build_process(folder, root):
    files = sorted(path.name for path in root.iterdir())
    command = [sys.executable, "-c", BUILD, str(folder), str(root), *files]
    return subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)


def test_killed_while_packing_keeps_whole_parts_and_goes_on(voices, tmp_path, monkeypatch):
    folder = tmp_path / "pack"
    process = build_process(folder, voices)
    deadline = time.monotonic() + 60
    while not list(folder.glob("*.index")):
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    decoded = packed_paths(monkeypatch)
    recordings = pack(folder, voices)
    assert 0 < len(decoded) < 6
    for path in voices.iterdir():
        np.testing.assert_array_equal(recordings.read(path.name), reading.read_audio(path))
    assert not list(folder.glob(".*.tmp"))


def test_two_processes_that_pack_at_once_make_one_pack(voices, tmp_path, monkeypatch):
    processes = [build_process(tmp_path / "pack", voices) for _ in range(2)]
    for process in processes:
        assert process.wait(timeout=60) == 0, process.stderr.read()
    decoded = packed_paths(monkeypatch)
    recordings = pack(tmp_path / "pack", voices)
    assert decoded == []
    np.testing.assert_array_equal(recordings.read("4.wav"), reading.read_audio(voices / "4.wav"))
    samples = sum(path.stat().st_size for path in (tmp_path / "pack").glob("*.i16"))
    assert samples == 2 * sum(len(reading.read_audio(path)) for path in voices.iterdir())


def test_file_that_is_written_to_meanwhile_is_told(voices, tmp_path, monkeypatch):
    original = waveform_cache.read_in_blocks

    def read_in_blocks(path, receive):
        report = original(path, receive)
        path.write_bytes(path.read_bytes() + b"\0\0")
        return report

    monkeypatch.setattr(waveform_cache, "read_in_blocks", read_in_blocks)
    with pytest.raises(WaveformCacheError, match="written to"):
        pack(tmp_path / "pack", voices)


def limit_file_size():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))


def test_full_disk_is_told_and_leaves_no_half_part(voices, tmp_path):
    files = sorted(path.name for path in voices.iterdir())
    code = BUILD.replace("10_000", "1_000_000")
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "pack"), str(voices), *files],
        cwd=REPOSITORY,
        preexec_fn=limit_file_size,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 1 and "File too large" in result.stderr, result.stderr
    assert {path.name for path in (tmp_path / "pack").iterdir()} <= {"lock"}


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
def test_damaged_pack_is_told_and_made_again(voices, tmp_path, pattern, damage, message):
    folder = tmp_path / "pack"
    pack(folder, voices)
    (path,) = folder.glob(pattern)
    damage(path)
    with pytest.warns(UserWarning, match=message):
        recordings = pack(folder, voices)
    for path in voices.iterdir():
        np.testing.assert_array_equal(recordings.read(path.name), reading.read_audio(path))
    pack(folder, voices)  # no warning is left


def test_copied_pack_is_hashed_once_and_not_made_again(voices, tmp_path, monkeypatch):
    pack(tmp_path / "pack", voices)
    shutil.copytree(tmp_path / "pack", tmp_path / "copy", copy_function=shutil.copyfile)
    decoded, hashed = packed_paths(monkeypatch), hashed_paths(monkeypatch)
    for _ in range(2):
        pack(tmp_path / "copy", voices)
    assert len(hashed) == 1 and decoded == []


def test_pack_of_another_conditioning_is_not_read(voices, tmp_path, monkeypatch):
    pack(tmp_path / "pack", voices)
    decoded = packed_paths(monkeypatch)
    monkeypatch.setattr(waveform_cache, "FORMAT", b"another")
    with pytest.warns(UserWarning, match="expected b'another'"):
        pack(tmp_path / "pack", voices)
    assert len(decoded) == 6


# --- Use -----------------------------------------------------------------------------------------


def test_pack_travels_to_other_processes_without_its_samples(voices, tmp_path):
    recordings = pack(tmp_path / "pack", voices)
    expected = recordings.read("3.wav")
    sent = pickle.dumps(recordings)
    assert len(sent) < 3_000
    np.testing.assert_array_equal(pickle.loads(sent).read("3.wav"), expected)


def weights(run):
    return {name: value.clone() for name, value in run.model.state_dict().items()}


@pytest.mark.parametrize("workers", [0, 2])
def test_training_from_a_pack_changes_no_bit(config, tmp_path, workers):
    """The synthetic corpus has 16 bits and 16 kHz."""
    arguments = [config, "train.epochs=1", f"data.workers={workers}"]
    plain = loop.train(read_settings([*arguments, f"output={tmp_path / 'plain'}"]))
    options = [f"output={tmp_path / 'packed'}", f"data.waveform_cache={tmp_path / 'pack'}"]
    fast = loop.train(read_settings([*arguments, *options]))
    assert isinstance(fast.recordings, waveform_cache.CachedWaveforms) and list(
        (tmp_path / "pack").iterdir()
    )
    before, after = weights(plain), weights(fast)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert plain.best == fast.best
    with pytest.raises(SettingsError, match="the audio"):  # other samples would be rounded
        loop.train(read_settings([*arguments, f"output={tmp_path / 'packed'}"]))


def test_evaluation_from_a_pack_gives_the_same_scores_and_its_own_cache_keys(
    tiny, corpus, tmp_path
):
    model, processor = tiny
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    scores = []
    for options in ([], ["--waveform-cache", str(tmp_path / "pack")]):
        output = tmp_path / f"results{len(scores)}"
        arguments = [str(tmp_path / "model"), str(corpus), "--split", "dev", "-o", str(output)]
        arguments += ["--no-cache"]  # embeddings of other batches differ in the last bits
        assert evaluate.main([*arguments, *options]) == 0
        scores.append((output / "scores.yaml").read_text())
    assert scores[0] == scores[1] and list((tmp_path / "pack").glob("*.index"))
    table = read_corpus(corpus).iloc[:3]
    recordings = cache_waveforms(tmp_path / "pack", corpus, table.index.get_level_values("file"))
    first, second = (clip_keys(ClipDataset(table, where)) for where in (corpus, recordings))
    assert not set(first) & set(second)
