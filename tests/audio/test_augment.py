"""Augmentation: the transforms, the descriptors that they invalidate, and their random draws."""

import numpy as np
import pandas as pd
import pytest
import torch

from paraclap.audio.augment import (
    TRANSFORMS,
    Augmenter,
    add_noise,
    add_room,
    change_gain,
    change_speed,
    labels_of,
)
from paraclap.audio.recordings import Files
from paraclap.data.captions import match_matrix
from paraclap.data.dataset import CaptionDataset
from paraclap.settings import AugmentSettings, CaptionSettings, DataSettings, SettingsError

ALL = AugmentSettings(speed=1, reverb=1, noise=1, gain=1)
RATE = 16_000


def level(waveform):
    """Root mean square [dB]."""
    return 10 * np.log10(np.mean(np.square(waveform, dtype=np.float64)))


def tone(frequency=500.0, seconds=1.0):
    return (0.1 * np.sin(2 * np.pi * frequency * np.arange(seconds * RATE) / RATE)).astype("f4")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# --- Transforms ----------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.95, 1.0, 1.05])
def test_speed_scales_pitch_and_duration_but_not_the_level(rng, factor):
    changed = change_speed(tone(), factor, rng)
    assert len(changed) == pytest.approx(RATE / factor, abs=2)
    spectrum = np.abs(np.fft.rfft(changed * np.hanning(len(changed)), 16 * RATE))
    assert spectrum.argmax() / 16 == pytest.approx(500 * factor, abs=1)
    assert level(changed[1000:-1000]) == pytest.approx(level(tone()), abs=0.1)


def test_gain_changes_the_level_in_decibels_and_never_clips(rng):
    for decibels in (-6.0, 6.0):
        changed = change_gain(tone(), decibels, rng)
        assert level(changed) - level(tone()) == pytest.approx(decibels, abs=1e-3)
    assert np.abs(change_gain(tone(), 60.0, rng)).max() == pytest.approx(1.0)
    full = tone() * np.float32(10.0)
    assert level(change_gain(full, 6.0, rng)) == pytest.approx(level(full), abs=1e-3)
    assert not change_gain(np.zeros(9, "f4"), 6.0, rng).any()


@pytest.mark.parametrize("ratio", [0.0, 20.0])
def test_noise_has_the_signal_to_noise_ratio(rng, ratio):
    noise = add_noise(tone(), ratio, rng) - tone()
    assert level(tone()) - level(noise) == pytest.approx(ratio, abs=0.01)


def test_reverberation_decays_by_60_db_and_keeps_the_power(rng):
    click = np.zeros(RATE, "f4")
    click[0] = 0.5
    wet = add_room(click, 0.5, rng)
    assert level(wet) == pytest.approx(level(click), abs=1e-3)
    early, late = wet[100:900], wet[100 + RATE // 4 : 900 + RATE // 4]
    assert level(early) - level(late) == pytest.approx(30, abs=1.5)  # a quarter of a second
    assert wet[0] == pytest.approx(0.5 / np.sqrt(2), rel=1e-3)  # half of it is direct sound


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("samples", [1, 2, 400])
def test_short_and_silent_clips_stay_finite_float32(rng, name, samples):
    low, high = getattr(AugmentSettings(), f"{name}_range")
    for waveform in (np.zeros(samples, "f4"), np.full(samples, 0.5, "f4")):
        for value in (low, high):
            changed = TRANSFORMS[name].change(waveform, value, rng)
            assert changed.dtype == np.float32 and np.isfinite(changed).all()


# --- Invalidated descriptors ---------------------------------------------------------------------


CONTRADICTIONS = {
    "speed": {"pitch", "duration", "speaking_rate", "pauses", "jitter", "shimmer"},
    "reverb": {"jitter", "shimmer", "loudness", "noise", "pauses"},
    "noise": {"jitter", "shimmer", "loudness", "noise", "loudness_variation"},
    "gain": {"intensity", "loudness", "jitter", "shimmer"},
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_invalidate_what_they_change_but_no_label(name):
    augmenter = Augmenter(AugmentSettings(**{name: 1}), {"emotion", "gender"}, seed=1)
    drawn = augmenter.draw((0, 1), named=["emotion", "arousal"])
    assert [n for n, _ in drawn.values] == [name]
    for descriptor in {*CONTRADICTIONS[name], "breathy", "unlisted"}:
        assert drawn.invalidates(descriptor)
        assert not augmenter.draw((0, 1), named=["emotion", descriptor]).values
    for descriptor in ("emotion", "gender", "arousal", "valence", "dominance"):
        assert not drawn.invalidates(descriptor)


def test_skipped_transform_does_not_change_the_others():
    augmenter = Augmenter(ALL, {"emotion"}, seed=1)
    every = dict(augmenter.draw((3, 4), named=["emotion"]).values)
    assert list(every) == list(TRANSFORMS)
    skipped = dict(augmenter.draw((3, 4), named=["intensity"]).values)
    assert skipped == {name: every[name] for name in ("speed", "reverb", "noise")}
    without_speed = dict(augmenter.draw((3, 4), named=["pitch"]).values)
    assert without_speed.keys() == {"reverb", "noise", "gain"}


def test_column_named_like_a_descriptor_is_not_a_label():
    """RAVDESS has a column `intensity`: the acted strength of the emotion."""
    found = labels_of(["emotion", "intensity", "intensity_level", "pitch_level"])
    assert "emotion" in found and not found & {"intensity", "pitch"}


def test_transforms_follow_their_shares_and_ranges():
    augmenter = Augmenter(AugmentSettings(gain=0.25, gain_range=[-3.0, 3.0]), (), seed=1)
    drawn = [augmenter.draw((0, row), ()).values for row in range(2000)]
    values = [value for values in drawn for _, value in values]
    assert len(values) == pytest.approx(500, abs=60)
    assert -3 <= min(values) < -2.8 and 2.8 < max(values) <= 3


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"gain": 1.5}, "data.augment.gain is 1.5"),
        ({"speed_range": [1.05, 0.95]}, "speed_range"),
        ({"speed_range": [0.0, 1.0]}, "within 0.5 and 2"),
        ({"noise_range": [10.0]}, "noise_range"),
    ],
)
def test_invalid_settings_are_refused(options, reason):
    with pytest.raises(SettingsError, match=reason):
        Augmenter(AugmentSettings(**options), (), seed=1)


# --- Clips of a corpus ---------------------------------------------------------------------------


def clips_of(captions, corpus, augment=None):
    table = pd.read_parquet(captions).iloc[:16]
    settings = CaptionSettings(label_probs={"emotion": 0.5}, phrase_count_probs=[0.3, 0.4, 0.3])
    data = DataSettings(crop_seconds=0.5, augment=augment or AugmentSettings())
    return CaptionDataset(table, corpus, settings, data, seed=1)


def test_captions_stay_the_same_and_true_of_the_augmented_clip(captions, corpus):
    plain, changed = clips_of(captions, corpus), clips_of(captions, corpus, ALL)
    pairs = [(plain[0, row], changed[0, row]) for row in range(16)]
    assert [p["caption"] for p, _ in pairs] == [c["caption"] for _, c in pairs]
    seen = set()
    for row, (before, after) in enumerate(pairs):
        drawn = changed.augmenter.draw((0, row), [n for n, _ in after["caption"].attributes])
        seen |= {name for name, _ in drawn.values}
        gone = before["phrases"].keys() - after["phrases"].keys()
        assert gone == {name for name in before["phrases"] if drawn.invalidates(name)}
        assert {name for name, _ in after["caption"].attributes} <= after["phrases"].keys()
        assert np.array_equal(before["waveform"], after["waveform"]) == (not drawn.values)
        assert len(after["waveform"]) <= 8000
    assert seen == set(TRANSFORMS)
    after = [item for _, item in pairs]
    matches = match_matrix([i["phrases"] for i in after], [i["caption"] for i in after])
    assert (matches.diagonal() == 1).all()


def test_unread_items_have_the_same_valid_phrases(captions, corpus, monkeypatch):
    clips = clips_of(captions, corpus, ALL)
    read = [clips[2, row] for row in range(16)]
    monkeypatch.setattr(Files, "crop", None)
    for row, item in enumerate(read):
        unread = clips.unread((2, row))
        assert unread["phrases"] == item["phrases"] and unread["caption"] == item["caption"]


def test_augmentation_depends_on_seed_epoch_and_row_alone(captions, corpus):
    clips = clips_of(captions, corpus, ALL)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    first = [clips[0, row]["waveform"] for row in range(8)]
    np.random.seed(5)
    again = [clips[0, row]["waveform"] for row in reversed(range(8))][::-1]
    assert all(map(np.array_equal, first, again))
    assert not any(np.array_equal(first[row], clips[1, row]["waveform"]) for row in range(8))
    assert torch.equal(before[1], torch.get_rng_state())
