import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import opensmile
import pandas as pd
import pyarrow.parquet as pq
import pytest
import soundfile
import soxr

import audio
import corpora
import features

REPOSITORY = Path(features.__file__).parent
PITCH = "F0semitoneFrom27.5Hz_sma3nz_amean"
LOUDNESS = "loudness_sma3_amean"


def voice(seconds: float = 1.0, rate: int = 16_000, f0: float = 120.0, seed: int = 0) -> np.ndarray:
    """Return a buzz with the spectrum of a vowel: harmonics that fall by 12 dB an octave."""
    time = np.arange(round(seconds * rate)) / rate
    harmonics = np.arange(1, int(7_000 / f0))
    phases = np.random.default_rng(seed).uniform(0, 2 * np.pi, len(harmonics))
    waves = np.sin(2 * np.pi * f0 * np.outer(harmonics, time) + phases[:, None])
    return 0.2 * (waves / harmonics[:, None] ** 2).sum(axis=0)


@pytest.fixture
def folder(tmp_path) -> Path:
    root = tmp_path / "clips"
    root.mkdir()
    for number in range(4):
        signal = voice(0.6, f0=100 + 40 * number, seed=number)
        soundfile.write(root / f"good{number}.wav", signal, 16_000)
    return root


def spoil(root: Path) -> dict[str, str]:
    """Add one bad clip of each kind to a folder and return file -> reason."""
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000)
    soundfile.write(root / "bad_nan.wav", np.append(noise, np.nan), 16_000, subtype="FLOAT")
    soundfile.write(root / "bad_short.wav", noise[:959], 16_000)
    soundfile.write(root / "bad_silent.wav", np.zeros(16_000), 16_000)
    soundfile.write(root / "bad_cut.wav", noise, 16_000)
    (root / "bad_cut.wav").write_bytes((root / "bad_cut.wav").read_bytes()[:9_000])
    (root / "bad_page.wav").write_text("<html>not found</html>")
    (root / "bad_empty.wav").touch()
    os.mkfifo(root / "bad_pipe.wav")
    return {
        "bad_cut.wav": "truncated",
        "bad_empty.wav": "empty",
        "bad_nan.wav": "non_finite",
        "bad_page.wav": "html",
        "bad_pipe.wav": "not_regular",
        "bad_short.wav": "too_short",
        "bad_silent.wav": "silent",
    }


def run(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, REPOSITORY / "features.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd="/")


# --- Values --------------------------------------------------------------------------------------


def test_values_are_those_of_opensmile_itself(folder):
    table, errors = features.extract(corpora.read_corpus(folder), folder, workers=0)
    assert errors.empty
    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
    expected = smile.process_file(str(folder / "good2.wav"))
    found = table.loc["good2.wav"]
    pd.testing.assert_frame_equal(
        found[smile.feature_names].reset_index(drop=True), expected.reset_index(drop=True)
    )
    assert len(smile.feature_names) == 88 and found["Duration"].item() == 0.6


def test_full_scale_samples_do_not_wrap():
    loud = np.clip(voice() * 8, -1, 1).astype(np.float32)
    limited = np.minimum(loud, np.float32(32767 / 32768))
    names = features.feature_names()
    wrapped, right = (dict(zip(names, features.measure(x), strict=True)) for x in (loud, limited))
    assert wrapped[LOUDNESS] > 1.2 * right[LOUDNESS], "the fault must be there"


def test_loud_float_file_has_the_features_of_its_16_bit_limit(tmp_path):
    loud = voice() * 8
    soundfile.write(tmp_path / "a.wav", loud, 16_000, subtype="FLOAT")
    limited = np.clip(loud, -1, 32767 / 32768).astype(np.float32)
    clip = features.Clip(str(tmp_path), "a.wav", pd.Timedelta(0), pd.NaT)
    np.testing.assert_array_equal(features.measure_clip(clip), features.measure(limited))


@pytest.mark.parametrize("rate", [22_050, 44_100, 48_000, 96_000])
def test_sampling_rate_of_the_file_does_not_change_loudness_and_pitch(tmp_path, rate):
    native = voice(2.0)
    soundfile.write(tmp_path / "a.wav", soxr.resample(native, 16_000, rate), rate, subtype="FLOAT")
    clip = features.Clip(str(tmp_path), "a.wav", pd.Timedelta(0), pd.NaT)
    names = features.feature_names()
    copy = dict(zip(names, features.measure_clip(clip), strict=True))
    reference = dict(zip(names, features.measure(native.astype(np.float32)), strict=True))
    assert reference[PITCH] == pytest.approx(12 * np.log2(120 / 27.5), abs=0.2)
    assert copy[PITCH] == pytest.approx(reference[PITCH], abs=0.1)
    assert copy[LOUDNESS] == pytest.approx(reference[LOUDNESS], rel=0.02)
    assert copy["Duration"] == pytest.approx(2.0, abs=1e-3)


def test_60_ms_are_enough_and_59_are_not():
    measured = features.measure(voice(0.06).astype(np.float32))
    assert np.isfinite(measured).all()
    with pytest.raises(audio.AudioError) as caught:
        features.measure(voice(0.059).astype(np.float32))
    assert caught.value.reason == "too_short"


def test_segment_has_the_features_of_its_part(folder):
    signal = voice(1.0, f0=150)
    soundfile.write(folder / "long.wav", signal, 16_000, subtype="FLOAT")
    clip = features.Clip(str(folder), "long.wav", pd.Timedelta("0.25s"), pd.Timedelta("0.75s"))
    part = signal[4_000:12_000].astype(np.float32)
    np.testing.assert_array_equal(features.measure_clip(clip), features.measure(part))


# --- Bad clips and worker processes --------------------------------------------------------------


def test_bad_clips_have_their_reason_and_change_no_other(folder):
    alone, none = features.extract(corpora.read_corpus(folder), folder, workers=0)
    reasons = spoil(folder)
    table = corpora.read_corpus(folder)
    for workers in (0, 1, 2):
        found, errors = features.extract(table, folder, workers)
        pd.testing.assert_frame_equal(found, alone, check_exact=True)
        assert dict(zip(errors["file"], errors["reason"], strict=True)) == reasons
        assert len(found) + len(errors) == len(table)
        assert errors["message"].str.len().gt(0).all()
    assert none.empty


def crash_on_good1(clip: features.Clip) -> features.Result:
    if clip.file == "good1.wav":
        os.abort()
    return np.full(89, len(clip.file), dtype=float)


def test_crash_of_a_worker_costs_only_its_clip(folder):
    table = corpora.read_corpus(folder)
    found, errors = features.extract(table, folder, 1, function=crash_on_good1)
    assert list(found.index.get_level_values("file")) == ["good0.wav", "good2.wav", "good3.wav"]
    assert errors[["file", "stage", "reason"]].to_numpy().tolist() == [
        ["good1.wav", "worker", "crash"]
    ]


def test_path_through_a_link_out_of_the_root_is_refused(folder, tmp_path):
    soundfile.write(tmp_path / "secret.wav", voice(0.3), 16_000)
    (folder / "link.wav").symlink_to(tmp_path / "secret.wav")
    _, errors = features.extract(corpora.read_corpus(folder), folder, workers=0)
    assert errors["reason"].tolist() == ["outside_root"]


def test_column_called_like_a_feature_is_refused(folder):
    table = corpora.read_corpus(folder).assign(Duration=1.0)
    with pytest.raises(corpora.CorpusError, match="Duration"):
        features.extract(table, folder, workers=0)


# --- Files and exit codes ------------------------------------------------------------------------


def test_script_writes_features_errors_and_exit_codes(folder, tmp_path):
    output, listing = tmp_path / "out" / "f.parquet", tmp_path / "out" / "f.errors.csv"
    page = folder / "page.wav"
    page.write_text("<html></html>")
    failed = run(folder, "-o", output, "--workers", 1)
    assert failed.returncode == 1 and "1 html" in failed.stderr and "clip/s" in failed.stderr
    first = output.read_bytes()
    errors = pd.read_csv(listing, dtype=str, keep_default_na=False)
    assert list(errors.columns) == features.ERROR_COLUMNS
    assert errors[["file", "stage", "reason"]].to_numpy().tolist() == [["page.wav", "read", "html"]]

    assert run(folder, "-o", output, "--workers", 2, "--keep-going").returncode == 0
    assert output.read_bytes() == first, "the number of workers must not change the file"
    assert listing.exists()

    page.unlink()
    assert features.main([str(folder), "-o", str(output), "--workers", "1"]) == 0
    assert not listing.exists(), "a list of failures that are none any more must go"
    assert sorted(path.name for path in output.parent.iterdir()) == ["f.parquet"]


def test_features_read_back_as_written(folder, tmp_path):
    table = corpora.read_corpus(folder).assign(emotion=["anger", "NA", "001", np.nan])
    found, errors = features.extract(table, folder, workers=0)
    features.write_features(found, errors, tmp_path / "f.parquet")
    again = features.read_features(tmp_path / "f.parquet")
    pd.testing.assert_frame_equal(again, found, check_exact=True, check_index_type=False)
    about = json.loads(pq.read_schema(tmp_path / "f.parquet").metadata[b"paraclap"])
    assert about["feature_set"] == "eGeMAPSv02" and about["sampling_rate"] == 16_000
    assert about["opensmile"] == opensmile.__version__ and about["root"] == str(folder)


def test_nothing_measured_is_a_failure_even_when_going_on(tmp_path):
    (tmp_path / "a.wav").write_text("<html></html>")
    arguments = [str(tmp_path), "-o", str(tmp_path / "f.parquet"), "--workers", "1"]
    assert features.main([*arguments, "--keep-going"]) == 1
    assert len(features.read_features(tmp_path / "f.parquet")) == 0


def test_wrong_root_ends_with_one_line(tmp_path):
    failed = run("ravdess=" + str(tmp_path), "-o", tmp_path / "f.parquet")
    assert failed.returncode == 1 and "Traceback" not in failed.stderr
    assert str(tmp_path) in failed.stderr and "Actor_01" in failed.stderr


def test_torch_is_never_imported():
    code = "import sys, features; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0
