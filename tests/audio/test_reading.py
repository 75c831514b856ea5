"""Reading audio files: samples, reports, refused files, crops and blocks."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import soxr
from audio_files import reason_of, tone, write

from paraclap.audio import SAMPLING_RATE, AudioError, reading
from paraclap.audio.conditioning import SAMPLE_LIMITS

# --- Samples -------------------------------------------------------------------------------------


def test_plus_one_equals_largest_16_bit_value(tmp_path):
    loud, limited = tone() * 3, np.clip(tone() * 3, -1, 32767 / 32768)
    loud, limited = (
        reading.read_audio(write(tmp_path / f"{name}.wav", samples, subtype="FLOAT"))
        for name, samples in (("loud", loud), ("limited", limited))
    )
    assert loud.max() == np.float32(32767 / 32768)
    assert loud.tobytes() == limited.tobytes()


def test_stereo_is_the_mean_of_its_channels(tmp_path):
    left, right = tone(), tone(frequency=330.0) * 0.3
    path = write(tmp_path / "a.wav", np.stack([left, right], axis=1), subtype="FLOAT")
    np.testing.assert_allclose(reading.read_audio(path), (left + right) / 2, atol=1e-7)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000, 96_000])
def test_other_rates_become_the_same_tone_at_16_khz(tmp_path, rate):
    waveform = reading.read_audio(write(tmp_path / "a.wav", tone(rate=rate), rate, subtype="FLOAT"))
    assert len(waveform) == SAMPLING_RATE
    inner = slice(800, -800)  # the resampling filter has no past and no future at the borders
    np.testing.assert_allclose(waveform[inner], tone()[inner], atol=1e-3)


@pytest.mark.parametrize("suffix", ["wav", "flac", "aiff", "au", "caf", "w64", "rf64"])
def test_lossless_containers_are_equal_and_the_suffix_does_not_matter(tmp_path, suffix):
    original = write(tmp_path / f"a.{suffix}", tone(), subtype="PCM_16")
    renamed = original.rename(tmp_path / "renamed.wav")
    integers = np.round(tone() * 32768) / 32768
    np.testing.assert_allclose(reading.read_audio(renamed), integers, atol=1 / 32768)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_segment_equals_the_same_part_of_the_whole(tmp_path, suffix):
    noise = np.random.default_rng(0).normal(0, 0.1, SAMPLING_RATE)
    path = write(tmp_path / f"a.{suffix}", noise)
    whole = reading.read_audio(path)
    np.testing.assert_allclose(reading.read_audio(path, 0.25, 0.75), whole[4000:12000], atol=1e-6)
    np.testing.assert_allclose(reading.read_audio(path, 0.25), whole[4000:], atol=1e-6)


def test_seconds_timedeltas_none_and_nat_mean_the_same(tmp_path):
    path = write(tmp_path / "a.wav", tone())
    part = reading.read_audio(path, 0.5, None)
    np.testing.assert_array_equal(part, reading.read_audio(path, pd.Timedelta("0.5s"), pd.NaT))
    np.testing.assert_array_equal(part, reading.read_audio(path, 0.5, 1.0))
    np.testing.assert_array_equal(reading.read_audio(path), reading.read_audio(path, pd.NaT))


def test_resampling_overshoot_stays_in_range(tmp_path):
    square = np.sign(tone(rate=48_000)) * 0.999
    assert np.abs(soxr.resample(square, 48_000, SAMPLING_RATE)).max() > 1, "the fault must be there"
    waveform = reading.read_audio(write(tmp_path / "a.wav", square, 48_000, subtype="FLOAT"))
    assert waveform.min() >= -1 and waveform.max() <= 32767 / 32768


# --- Report --------------------------------------------------------------------------------------


def flags_of(path: Path, *arguments) -> list[str]:
    waveform, report = reading.read_audio_with_report(path, *arguments)
    np.testing.assert_array_equal(waveform, reading.read_audio(path, *arguments))
    return report.flags()


def test_clean_recording_has_no_flags(tmp_path):
    assert flags_of(write(tmp_path / "a.wav", tone())) == []


def test_rate_channels_and_silent_channels_are_flagged(tmp_path):
    samples = np.stack([tone(rate=44_100), np.zeros(44_100), tone(rate=44_100)], axis=1)
    flags = flags_of(write(tmp_path / "a.wav", samples, 44_100))
    assert flags == ["resampled:44100", "mixed:3", "silent_channels:1"]


def test_clipped_share_is_counted_over_all_samples(tmp_path):
    samples = tone()
    samples[:160] = 1.0
    assert flags_of(write(tmp_path / "a.wav", samples)) == ["clipped:0.0100"]
    assert flags_of(tmp_path / "a.wav", 0.5) == [], "the other half is clean"
    samples[10:160] = 0.5
    assert flags_of(write(tmp_path / "a.wav", samples)) == [], "a peak is no clipping"


def test_offset_is_the_mean(tmp_path):
    assert flags_of(write(tmp_path / "a.wav", tone() * 0.5 - 0.25)) == ["offset:-0.250"]


@pytest.mark.parametrize("share, found", [(1.0, False), (0.99, True), (0.6, True)])
@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_cut_ogg_is_flagged(tmp_path, subtype, share, found):
    noise = np.random.default_rng(0).normal(0, 0.1, 3 * SAMPLING_RATE)
    path = write(tmp_path / "a.ogg", noise, format="OGG", subtype=subtype)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert ("truncated" in flags_of(path)) == found


# --- Refused -------------------------------------------------------------------------------------


def test_cut_flac_is_refused(tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.1, 5 * SAMPLING_RATE)
    path = write(tmp_path / "a.flac", noise)
    path.write_bytes(path.read_bytes()[:40_000])
    assert reason_of(path) in ("decoding", "truncated")


@pytest.mark.parametrize(
    "value, reason",
    [(np.nan, "non_finite"), (np.inf, "non_finite"), (9830.0, "range")],
)
def test_impossible_samples_are_refused(tmp_path, value, reason):
    samples = tone()
    samples[100] = value
    assert reason_of(write(tmp_path / "a.wav", samples, subtype="FLOAT")) == reason


@pytest.mark.parametrize(
    "start, end",
    [(-0.1, 0.5), (0.5, 0.5), (0.6, 0.4), (1.0, None), (2.0, 3.0), (0.0, 1.1), (0.5, 0.50001)],
)
def test_segments_outside_of_the_file_are_refused(tmp_path, start, end):
    for rate in (SAMPLING_RATE, 44_100):
        path = write(tmp_path / f"{rate}.wav", tone(rate=rate), rate)
        assert reason_of(path, start, end) == "segment"
        with pytest.raises(AudioError) as caught:
            reading.read_crop(path, start, end, 5.0, 0.5)
        assert caught.value.reason == "segment"


def test_segment_may_end_a_rounding_error_after_the_file(tmp_path):
    path = write(tmp_path / "a.wav", tone())
    assert len(reading.read_audio(path, 0.5, 1.01)) == SAMPLING_RATE // 2


def test_length_is_limited_before_decoding(tmp_path, monkeypatch):
    path = write(tmp_path / "a.flac", np.zeros(30 * SAMPLING_RATE, dtype=np.int16))
    monkeypatch.setattr(reading, "_mono_blocks", None)  # decoding would fail
    with pytest.raises(AudioError) as caught:
        reading.read_audio_with_report(path, max_seconds=20)
    assert caught.value.reason == "too_long"


# --- Crops and blocks ----------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"subtype": "FLOAT"}, {"subtype": "PCM_24"}])
@pytest.mark.parametrize("channels", [1, 2])
def test_crop_of_16_khz_file_equals_read_audio(tmp_path, options, channels):
    noise = np.random.default_rng(0).normal(0, 0.1, (3 * SAMPLING_RATE, channels))
    path = write(tmp_path / "a.wav", noise, **options)
    for place in (0.0, 0.37, 1.0):
        crop = reading.read_crop(path, 0.5, 2.5, 0.8, place)
        first = 0.5 + place * (2.0 - 0.8)
        np.testing.assert_array_equal(crop, reading.read_audio(path, first, first + 0.8))
    whole = reading.read_audio(path)
    np.testing.assert_array_equal(reading.read_crop(path, None, None, 9.0, 0.3), whole)


@pytest.mark.parametrize("rate", [4_000, 8_000, 12_345, 22_050, 44_100, 44_056, 48_000, 192_000])
def test_crop_of_another_rate_is_cut_from_the_resampled_file(tmp_path, rate):
    noise = np.random.default_rng(0).normal(0, 0.1, round(2.41 * rate))
    path = write(tmp_path / "a.wav", noise, rate, subtype="FLOAT")
    whole = reading.read_audio(path)
    for place in (0.0, 0.123, 0.5, 0.99, 1.0):
        crop = reading.read_crop(path, None, None, 0.7, place)
        first = round(place * (len(noise) / rate - 0.7) * SAMPLING_RATE)
        np.testing.assert_allclose(crop, whole[first : first + len(crop)], rtol=0, atol=1e-6)
        assert abs(len(crop) - 0.7 * SAMPLING_RATE) <= 1
    np.testing.assert_allclose(reading.read_crop(path, None, None, 9, 0), whole, rtol=0, atol=1e-6)


def test_segments_and_crops_decode_only_what_they_need(tmp_path, monkeypatch):
    path = write(tmp_path / "a.flac", tone(10))
    read_calls = []
    read = soundfile.SoundFile.read

    def counting(self, frames, **keywords):
        read_calls.append((frames, keywords["dtype"]))
        return read(self, frames, **keywords)

    monkeypatch.setattr(soundfile.SoundFile, "read", counting)
    reading.read_crop(path, None, None, 1.0, 0.5)
    reading.read_audio(path, 4, 5)
    assert read_calls == [(SAMPLING_RATE, "int16")] * 2
    read_calls.clear()
    reading.read_crop(write(tmp_path / "b.flac", tone(10, 44_100), 44_100), None, None, 1.0, 0.5)
    assert len(read_calls) == 1 and read_calls[0][0] < 1.2 * 44_100


@pytest.mark.parametrize("rate", [SAMPLING_RATE, 8_000, 44_100])
def test_joined_blocks_equal_the_whole_file(tmp_path, monkeypatch, rate):
    noise = np.random.default_rng(0).normal(0.02, 0.4, (round(2.3 * rate), 2))
    path = write(tmp_path / "a.wav", noise, rate, subtype="FLOAT")
    whole, report = reading.read_audio_with_report(path)
    monkeypatch.setattr(reading, "BLOCK_SECONDS", 0.5)
    blocks = []
    assert reading.read_in_blocks(path, blocks.append).flags() == report.flags()
    assert len(blocks) >= 5 and np.concatenate(blocks).tobytes() == whole.tobytes()
    again, other = reading.read_audio_with_report(path)
    assert again.tobytes() == whole.tobytes() and other.flags() == report.flags()


@pytest.mark.parametrize("suffix, channels", [("wav", 1), ("wav", 2), ("flac", 1), ("flac", 3)])
def test_16_bit_samples_are_exact(tmp_path, suffix, channels):
    samples = np.random.default_rng(0).integers(-32768, 32768, (5_000, channels)).astype(np.int16)
    samples[:2] = [[-32768], [32767]]
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, samples, 16_000)
    expected = (samples / np.float32(32768)).mean(axis=1)
    found = reading.read_audio(path)
    np.testing.assert_array_equal(found, np.clip(expected, *SAMPLE_LIMITS))
    assert found.dtype == np.float32
