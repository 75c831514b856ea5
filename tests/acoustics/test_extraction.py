import hashlib
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from paraclap.acoustics import egemaps, extraction
from paraclap.acoustics.extraction import SECOND, Clip
from paraclap.audio import AudioError, reading

REPOSITORY = Path(__file__).resolve().parents[2]
PITCH, LOUDNESS = extraction.VOICING, "loudness_sma3_amean"


@pytest.fixture(scope="module")
def extractor():
    return egemaps.Extractor("captions")


def only(records):
    (record,) = records
    return record


def named(extractor, record):
    assert not record.error, record
    return dict(zip(extractor.names, record.values.tolist(), strict=True))


def test_record_contains_values_duration_and_digest_of_the_samples(tmp_path, extractor, voice):
    signal = np.round(voice(0.6) * 32768).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", signal, 16_000)
    record = only(extraction.measure_clip(extractor, Clip(str(tmp_path), "a.wav")))
    expected = extractor.defined(extractor(signal / np.float32(32768)))
    np.testing.assert_array_equal(record.values, expected)
    assert (record.start, record.end, record.seconds, record.error) == (0, None, 0.6, "")
    assert record.digest == hashlib.sha256(signal.tobytes()).hexdigest()[:32]


def test_loud_float_file_has_the_values_of_its_16_bit_limit(tmp_path, extractor, voice):
    loud = voice() * 8
    soundfile.write(tmp_path / "a.wav", loud, 16_000, subtype="FLOAT")
    limited = np.clip(loud, -1, 32767 / 32768).astype(np.float32)
    record = only(extraction.measure_clip(extractor, Clip(str(tmp_path), "a.wav")))
    np.testing.assert_array_equal(record.values, extractor.defined(extractor(limited)))
    assert record.quality.startswith("clipped:0.")


@pytest.mark.parametrize("rate", [22_050, 44_100, 48_000, 96_000])
def test_rate_of_the_file_does_not_change_loudness_and_pitch(tmp_path, extractor, voice, rate):
    native = voice(2.0)
    soundfile.write(tmp_path / "a.wav", soxr.resample(native, 16_000, rate), rate, subtype="FLOAT")
    record = only(extraction.measure_clip(extractor, Clip(str(tmp_path), "a.wav")))
    copy = named(extractor, record)
    reference = named(extractor, extraction.measure(extractor, native.astype(np.float32)))
    assert reference[PITCH] == pytest.approx(12 * np.log2(120 / 27.5), abs=0.2)
    assert copy[PITCH] == pytest.approx(reference[PITCH], abs=0.1)
    assert copy[LOUDNESS] == pytest.approx(reference[LOUDNESS], rel=0.02)
    assert record.quality == f"resampled:{rate}"
    assert record.seconds == pytest.approx(2.0, abs=1e-3)


def test_values_of_a_segment_equal_those_of_the_cut_signal(tmp_path, extractor, voice):
    signal = voice(1.0, f0=150)
    soundfile.write(tmp_path / "a.wav", signal, 16_000, subtype="FLOAT")
    clip = Clip(str(tmp_path), "a.wav", SECOND // 4, 3 * SECOND // 4)
    part = extraction.measure(extractor, signal[4_000:12_000].astype(np.float32))
    record = only(extraction.measure_clip(extractor, clip))
    np.testing.assert_array_equal(record.values, part.values)
    assert (record.start, record.end) == (clip.start, clip.end)


@pytest.mark.parametrize("length", [0.0, 0.01, 0.059])
def test_below_60_ms_is_too_short(extractor, voice, length):
    with pytest.raises(AudioError) as caught:
        extraction.measure(extractor, voice(length).astype(np.float32))
    assert caught.value.reason == "too_short"


@pytest.mark.parametrize("level", [0.0, 0.5, 2e-5])
def test_clip_with_constant_16_bit_samples_is_silent(extractor, voice, level):
    quiet = np.full(16_000, level) if level != 2e-5 else voice() * level
    with pytest.raises(AudioError) as caught:
        extraction.measure(extractor, quiet.astype(np.float32))
    assert caught.value.reason == "silent"


def test_noise_is_flagged_as_unvoiced(extractor):
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    record = extraction.measure(extractor, noise, "mixed:2")
    assert record.quality == "mixed:2;unvoiced"
    assert np.isnan(named(extractor, record)[PITCH])


def test_messages_name_files_relative_to_the_root(tmp_path, extractor):
    record = only(extraction.measure_clip(extractor, Clip(str(tmp_path), "b/a.wav")))
    assert (record.stage, record.error, record.message) == (
        "read",
        "missing",
        "b/a.wav does not exist",
    )


def test_unexpected_error_becomes_a_record(tmp_path, monkeypatch, extractor, voice):
    soundfile.write(tmp_path / "a.wav", voice(0.2), 16_000)

    def fail(*arguments, **keywords):
        raise KeyError("surprise")

    monkeypatch.setattr(reading, "read_audio_with_report", fail)
    record = only(extraction.measure_clip(extractor, Clip(str(tmp_path), "a.wav")))
    assert record.error == "KeyError" and "surprise" in record.message


# --- Long files ----------------------------------------------------------------------------------


def test_long_clip_is_rejected_or_cut_into_equal_windows(tmp_path, monkeypatch, extractor, voice):
    monkeypatch.setattr(extraction, "MAX_SECONDS", 2.0)
    monkeypatch.setitem(reading.read_audio_with_report.__kwdefaults__, "max_seconds", 2.0)
    soundfile.write(tmp_path / "a.wav", voice(3.5), 16_000)
    whole = Clip(str(tmp_path), "a.wav")
    rejected = only(extraction.measure_clip(extractor, whole))
    assert (rejected.stage, rejected.error) == ("read", "too_long")

    records = extraction.measure_clip(extractor, whole._replace(longest=1.0))
    edges = [0, 875_000_000, 1_750_000_000, 2_625_000_000, 3_500_000_000]
    assert [(r.start, r.end) for r in records] == list(itertools.pairwise(edges))
    assert sum(record.seconds for record in records) == 3.5
    for record in records:
        part = whole._replace(start=record.start, end=record.end)
        alone = only(extraction.measure_clip(extractor, part))
        np.testing.assert_array_equal(record.values, alone.values)


def test_short_clip_is_never_cut(tmp_path, voice):
    soundfile.write(tmp_path / "a.wav", voice(0.5), 16_000)
    assert extraction.divide_long(Clip(str(tmp_path), "a.wav", longest=0.1)) == [(0, None)]
    segment = Clip("/nowhere", "a.wav", SECOND, 2 * SECOND, longest=0.1)
    assert extraction.divide_long(segment) == [(SECOND, 2 * SECOND)]


@pytest.mark.parametrize("longest, error", [(None, "too_long"), (10.0, None)])
def test_half_an_hour_takes_little_memory(tmp_path, voice, longest, error):
    """Silence with one second of voice: 44 kB as FLAC, 115 MB as float samples."""
    with soundfile.SoundFile(tmp_path / "a.flac", "w", 16_000, 1) as file:
        for minute in range(30):
            samples = np.zeros(60 * 16_000)
            samples[:16_000] = voice() if minute == 20 else 0
            file.write(samples)
    code = (
        "import resource, sys; from paraclap.acoustics import egemaps, extraction;"
        "extractor = egemaps.Extractor('egemaps');"
        f"clip = extraction.Clip(sys.argv[1], 'a.flac', longest={longest});"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "records = extraction.measure_clip(extractor, clip);"
        "print(len(records), *{r.error for r in records}, sum(not r.error for r in records),"
        "resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    ran = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    count, *errors, good, kilobytes = ran.stdout.split()
    assert int(kilobytes) < 40_000, "all samples would be 115 MB"
    if error:
        assert (count, errors, good) == ("1", [error], "0")
    else:
        assert (count, errors, good) == ("180", ["silent"], "1")
