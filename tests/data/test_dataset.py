"""Crops and batches of captioned clips; the same for any number of workers."""

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch.utils.data
from torch.testing import assert_close

from paraclap.audio import AudioError
from paraclap.audio.recordings import Files, JoinedRecordings
from paraclap.audio.waveform_cache import cache_waveforms
from paraclap.data.captions import CaptionTableError
from paraclap.data.dataset import CaptionDataset, ClipDataset, Collate
from paraclap.data.loader import Loader
from paraclap.data.sampler import TrainingBatches
from paraclap.settings import AugmentSettings, CaptionSettings, DataSettings

PHRASES = {
    "pitch": ["pitch is high", "the voice is high-pitched"],
    "intensity": ["intensity is low", "the voice is quiet"],
    "gender": ["gender is female"],
    "emotion": ["emotion is anger", "the speaker sounds angry"],
}
SECONDS = [0.02, 0.5, 1.0, 1.7, 3.0]
NONE, SOME = AugmentSettings(), AugmentSettings(speed=0.7, reverb=0.7, noise=0.7, gain=0.7)


@pytest.fixture
def table(tmp_path):
    """Five clips, each a ramp with an offset of its own."""
    rng = np.random.default_rng(0)
    files = [f"clip{row}.wav" for row in range(len(SECONDS))]
    for row, (file, seconds) in enumerate(zip(files, SECONDS, strict=True)):
        ramp = np.linspace(0, 0.5, round(16_000 * seconds))
        noise = 0.01 * rng.standard_normal(len(ramp))
        soundfile.write(tmp_path / file, ramp + noise + 0.05 * row, 16_000)
    index = pd.MultiIndex.from_arrays(
        [files, [pd.Timedelta(0)] * 5, [pd.NaT] * 5], names=["file", "start", "end"]
    )
    flat = [(phrase, name) for name, wordings in PHRASES.items() for phrase in wordings]
    captions, descriptors = zip(*flat, strict=True)
    frame = pd.DataFrame(
        {"captions": [list(captions)] * 5, "caption_descriptors": [list(descriptors)] * 5}, index
    )
    frame.attrs["root"] = str(tmp_path)
    return frame


def dataset(table, crop_seconds=1.0, crop="random", augment=NONE, **options):
    data = DataSettings(crop_seconds=crop_seconds, crop=crop, augment=augment)
    return CaptionDataset(table, table.attrs["root"], CaptionSettings(), data, seed=3, **options)


# --- Clips ---------------------------------------------------------------------------------------


def test_crops_are_parts_of_their_clip_and_vary_by_epoch(table):
    clips, items = ClipDataset(table, table.attrs["root"]), dataset(table)
    whole = clips[4]["waveform"]
    starts = set()
    for epoch in range(20):
        crop = items[epoch, 4]["waveform"]
        assert len(crop) == 16_000
        matches = np.flatnonzero(whole[: len(whole) - 15_999] == crop[0])
        starts |= {s for s in matches if np.array_equal(whole[s : s + 16_000], crop)}
    assert len(starts) == 20


def test_centre_crop_is_the_same_in_every_epoch_and_never_too_long(table):
    items = dataset(table, crop="centre", crop_seconds=1.0)
    whole = ClipDataset(table, table.attrs["root"])[4]["waveform"]
    first = (len(whole) - 16_000) // 2
    for epoch in range(2):
        assert np.array_equal(items[epoch, 4]["waveform"], whole[first : first + 16_000])
    for samples in range(12_000, 12_010):  # limits between two samples
        items = dataset(table, crop="centre", crop_seconds=(samples + 0.4) / 16_000)
        assert len(items.waveform(4)) == samples


def test_items_without_waveforms_open_no_file(table, tiny, monkeypatch):
    _, processor = tiny
    read = Collate(processor, seconds=1.0)([dataset(table)[0, row] for row in (0, 4)])
    monkeypatch.setattr(Files, "crop", None)
    silent = Collate(processor, seconds=1.0)([dataset(table, read=False)[0, row] for row in (0, 4)])
    assert set(read) - set(silent) == {"input_values", "padding_mask"}
    assert torch.equal(silent["input_ids"], read["input_ids"])
    assert silent["row"] == read["row"] and silent["captions"] == read["captions"]


def test_short_clips_are_kept_or_repeated(table):
    whole = ClipDataset(table, table.attrs["root"])[1]["waveform"]
    assert np.array_equal(dataset(table)[0, 1]["waveform"], whole)
    repeated = dataset(table, repeat_short=True)[0, 1]["waveform"]
    assert np.array_equal(repeated, np.concatenate([whole, whole]))


def test_segments_limit_the_crop(table):
    start, end = pd.Timedelta("1s"), pd.Timedelta("2.5s")
    table.index = pd.MultiIndex.from_arrays(
        [["clip4.wav"] * 5, [start] * 5, [end] * 5], names=["file", "start", "end"]
    )
    clips = ClipDataset(table, table.attrs["root"])
    assert clips.durations() == pytest.approx(1.5)
    segment = clips[0]["waveform"]
    assert len(segment) == 24_000
    crop = dataset(table)[0, 0]["waveform"]
    windows = np.lib.stride_tricks.sliding_window_view(segment, len(crop))
    assert (windows == crop).all(axis=1).any()


def test_second_half_of_a_text_batch_has_the_descriptors_of_the_first_caption(table):
    items = dataset(table)
    captions = items.text_batch(step=4, size=20)
    assert len(captions) == 20
    names = [{name for name, _ in caption.attributes} for caption in captions]
    assert all(n == names[0] for n in names[10:])
    assert any(n != names[0] for n in names[1:10])
    assert items.text_batch(step=4, size=20) == captions != items.text_batch(step=5, size=20)


def test_table_without_captions_is_refused(table):
    with pytest.raises(CaptionTableError, match="caption_descriptors"):
        dataset(table.drop(columns="caption_descriptors"))


@pytest.mark.torture(50, "clip of a captions table outside of the root")
def test_file_outside_the_root_is_refused(table, tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    table.index = table.index.set_levels(["../" + f for f in table.index.levels[0]], level=0)
    with pytest.raises(AudioError, match="outside"):
        CaptionDataset(table, inner, CaptionSettings(), DataSettings(), 0)[0, 1]


# --- Batches -------------------------------------------------------------------------------------


def read_batches(items, processor, workers, start=0):
    batches = TrainingBatches(len(items), 2, 6, seed=5, start=start)
    return list(Loader(items, Collate(processor, seconds=1.0), batches, workers))


@pytest.mark.parametrize("is_cached", [False, True])
def test_batches_are_the_same_for_any_number_of_workers_and_after_a_restart(
    table, tiny, tmp_path, is_cached
):
    _, processor = tiny
    items = dataset(table, augment=SOME)
    if is_cached:
        files = table.index.unique("file")
        items.recordings = cache_waveforms(tmp_path / "cache", items.recordings.root, files)
    assert items.in_memory == is_cached
    plain = read_batches(items, processor, workers=0)
    assert len(plain) == 6
    others = read_batches(items, processor, workers=2)
    resumed = [None] * 3 + read_batches(items, processor, workers=1, start=3)
    for batch, other, late in zip(plain, others, resumed, strict=True):
        assert batch["captions"] == other["captions"] and batch["row"] == other["row"]
        assert torch.equal(batch["input_values"], other["input_values"])
        assert_close(batch["matches"], other["matches"], rtol=0, atol=0, equal_nan=True)
        if late is not None:
            assert batch["captions"] == late["captions"]
            assert torch.equal(batch["input_values"], late["input_values"])


def test_collate_pads_with_masks(table, tiny):
    _, processor = tiny
    items = dataset(table)
    batch = Collate(processor, seconds=1.0)([items[0, 1], items[0, 4]])
    assert batch["input_values"].shape == batch["padding_mask"].shape == (2, 16_000)
    assert batch["padding_mask"].sum(dim=1).tolist() == [8_000, 16_000]
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    assert batch["row"] == [1, 4]


def test_joined_recordings_are_found_by_corpus_and_file(table, tmp_path):
    joined = JoinedRecordings({"one": Files(tmp_path), "two": Files(tmp_path)})
    plain = Files(tmp_path)
    file, limits = "clip3.wav", (None, None, 0.5, 0.3)
    for name in (f"one/{file}", f"two/{file}"):
        assert joined.seconds(name) == plain.seconds(file) == 1.7
        assert joined.hash(name) == plain.hash(file)
        assert np.array_equal(joined.read(name), plain.read(file))
        assert np.array_equal(joined.crop(name, *limits), plain.crop(file, *limits))
    assert joined.conditioning == plain.conditioning
