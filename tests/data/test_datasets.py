"""datasets.py: captions drawn, crops, batches; the same for any number of workers."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch.utils.data
from torch.testing import assert_close

from paraclap.audio.reading import Files, JoinedRecordings
from paraclap.data.captions import (
    Caption,
    draw_caption,
    equal_captions,
    group_phrases,
    match_matrix,
)
from paraclap.data.dataset import CaptionDataset, ClipDataset, Collate
from paraclap.data.sampler import TrainingBatches
from paraclap.settings import CaptionSettings

PHRASES = {
    "pitch": ["pitch is high", "the voice is high-pitched"],
    "intensity": ["intensity is low", "the voice is quiet"],
    "gender": ["gender is female"],
    "emotion": ["emotion is anger", "the speaker sounds angry"],
}
SECONDS = [0.02, 0.5, 1.0, 1.7, 3.0]


@pytest.fixture
def table(tmp_path):
    """Five clips, each of a constant level that tells which one it is."""
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


def dataset(table, **options):
    defaults = {"settings": CaptionSettings(), "crop_seconds": 1.0, "seed": 3}
    return CaptionDataset(table, table.attrs["root"], **(defaults | options))


def draws(count, **settings):
    rng = np.random.default_rng(0)
    options = CaptionSettings(**settings)
    return [draw_caption(PHRASES, options, rng).text for _ in range(count)]


# --- Captions ------------------------------------------------------------------------------------


def test_published_caption_joins_first_wordings():
    expected = "speaker pitch is high and intensity is low and gender is female and "
    assert set(draws(20, style="published")) == {expected + "emotion is anger"}


def test_emotion_caption_is_that_phrase_alone():
    assert set(draws(50, style="emotion")) == set(PHRASES["emotion"])
    assert set(draws(50, style="emotion", paraphrases=False)) == {"emotion is anger"}


def test_sampled_captions_follow_the_counts_and_keep_the_emotion():
    counts = [0.2, 0.5, 0.3]
    captions = draws(4000, phrase_count_probs=counts)
    seen = Counter(len(caption.split(" and ")) - 1 for caption in captions)
    for count, probability in enumerate(counts):
        assert seen[count] / 4000 == pytest.approx(probability, abs=0.03)
    for caption in captions[:200]:
        *others, emotion = caption.split(" and ")
        assert emotion in PHRASES["emotion"]
        kinds = [name for name, w in PHRASES.items() for phrase in others if phrase in w]
        assert len(kinds) == len(set(kinds)) == len(others)


def test_every_wording_is_reachable_and_first_wordings_alone_on_request():
    words = {phrase for caption in draws(500) for phrase in caption.split(" and ")}
    assert words == {phrase for wordings in PHRASES.values() for phrase in wordings}
    words = {phrase for c in draws(500, paraphrases=False) for phrase in c.split(" and ")}
    assert words == {wordings[0] for wordings in PHRASES.values()}


def test_clip_without_emotion_still_has_a_caption():
    rng = np.random.default_rng(0)
    phrases = {"pitch": ["pitch is low"]}
    settings = CaptionSettings(phrase_count_probs=[1.0])
    assert draw_caption(phrases, settings, rng) == Caption(
        "pitch is low", (("pitch", "pitch is low"),)
    )
    with pytest.raises(ValueError, match="no emotion"):
        draw_caption(phrases, CaptionSettings(style="emotion"), rng)


def test_shares_are_the_shares_of_captions_that_tell_a_descriptor():
    captions = draws(
        3000, phrase_count_probs=[0.5, 0.5], label_probs={"emotion": 0.7, "gender": 0.4}
    )
    for name, share in (("emotion", 0.7), ("gender", 0.4)):
        told = [c for c in captions if set(c.split(" and ")) & set(PHRASES[name])]
        assert len(told) / 3000 == pytest.approx(share, abs=0.03)
    assert all(captions)
    alone = draws(200, phrase_count_probs=[1.0], label_probs=dict.fromkeys(PHRASES, 0.1))
    assert all(alone)


WORDS = {("emotion", "emotion is anger"): ("anger", "angry"), ("emotion", "other"): ("fear",)}


def test_bare_words_stand_in_for_a_share_of_captions_and_claim_the_same():
    rng, settings = np.random.default_rng(0), CaptionSettings(bare=0.3)
    captions = [draw_caption(PHRASES, settings, rng, WORDS) for _ in range(2000)]
    bare = [caption for caption in captions if caption.text in ("anger", "angry")]
    assert len(bare) / 2000 == pytest.approx(0.3, abs=0.03)
    assert {caption.text for caption in bare} == {"anger", "angry"}
    assert {caption.attributes for caption in bare} == {(("emotion", "emotion is anger"),)}
    unnamed = draw_caption({"pitch": ["pitch is low"]}, CaptionSettings(bare=1.0), rng, WORDS)
    assert unnamed.text == "pitch is low"


def test_words_change_no_draw_unless_a_share_is_asked_for(table):
    plain = dataset(table)
    worded = dataset(table, words=WORDS)
    asked = dataset(table, words=WORDS, settings=CaptionSettings(bare=1.0))
    for draw in [(epoch, row) for epoch in range(4) for row in range(5)]:
        assert plain.unread(draw)["caption"] == worded.unread(draw)["caption"]
        assert asked.unread(draw)["caption"].text in ("anger", "angry")
    assert plain.text_batch(0, 8) == worded.text_batch(0, 8) != asked.text_batch(0, 8)


def test_text_batch_tells_apart_what_is_said_of_the_same_descriptors(table):
    items = dataset(table)
    captions = items.text_batch(step=4, size=20)
    assert len(captions) == 20
    names = [{name for name, _ in caption.attributes} for caption in captions]
    assert all(spoken == names[0] for spoken in names[10:])
    assert any(spoken != names[0] for spoken in names[1:10])
    assert items.text_batch(step=4, size=20) == captions != items.text_batch(step=5, size=20)


HIGH, LOW = ("pitch", "high"), ("pitch", "low")
ANGER, FEAR = ("emotion", "anger"), ("emotion", "fear")
UNKNOWN = float("nan")


def test_captions_agree_with_clips_by_the_claims_that_both_know():
    clips = [
        {"pitch": ["high"], "emotion": ["anger"]},
        {"pitch": ["low"], "emotion": ["anger"]},
        {"pitch": ["high"], "emotion": ["fear"]},
        {"emotion": ["fear"]},  # its pitch is not known
        {"pitch": ["low"]},
    ]
    captions = [
        Caption("", attributes) for attributes in ((ANGER,), (ANGER, LOW), (HIGH,), (FEAR,))
    ]
    expected = [
        [1, 0.5, 1, 0],
        [1, 1, 0, 0],
        [0, 0, 1, 1],
        [0, 0, UNKNOWN, 1],  # not angry at any pitch
        [UNKNOWN, UNKNOWN, 0, UNKNOWN],
    ]
    assert_close(match_matrix(clips, captions), torch.tensor(expected), equal_nan=True)


def test_a_caption_is_true_if_and_only_if_all_that_it_claims_is_known_and_holds():
    rng = np.random.default_rng(0)
    names = ["pitch", "emotion", "gender"]

    def drawn():
        return {name: str(rng.integers(2)) for name in names if rng.random() < 0.7}

    clips, captions = [drawn() for _ in range(40)], [drawn() or {"pitch": "0"} for _ in range(30)]
    found = match_matrix(
        [{name: [value] for name, value in clip.items()} for clip in clips],
        [Caption("", tuple(caption.items())) for caption in captions],
    )
    for clip, row in zip(clips, found.tolist(), strict=True):
        for caption, value in zip(captions, row, strict=True):
            judged = [clip[name] == caption[name] for name in caption if name in clip]
            is_known = not all(judged) or len(judged) == len(caption)
            expected = sum(judged) / len(judged) if is_known else UNKNOWN
            assert value == pytest.approx(expected, nan_ok=True)


def test_captions_are_equal_if_they_say_the_same():
    captions = [Caption("a", (ANGER, LOW)), Caption("b", (ANGER, LOW)), Caption("c", (ANGER,))]
    assert equal_captions(captions).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


def test_drawn_captions_of_one_clip_differ_in_words_and_not_in_claims():
    rng = np.random.default_rng(0)
    settings = CaptionSettings(phrase_count_probs=[0.0, 0.0, 0.0, 1.0])
    captions = [draw_caption(PHRASES, settings, rng) for _ in range(20)]
    assert len({caption.text for caption in captions}) > 10
    assert len({caption.attributes for caption in captions}) == 1
    assert equal_captions(captions).all()
    assert match_matrix([PHRASES] * 20, captions).all()


@pytest.mark.parametrize("phrases, style", [({}, "sampled"), (PHRASES, "poem")])
def test_impossible_captions_are_refused(phrases, style):
    with pytest.raises(ValueError, match=r"no caption|expected one of"):
        draw_caption(phrases, CaptionSettings(style=style), np.random.default_rng(0))


def test_phrases_are_grouped_by_descriptor():
    grouped = group_phrases(["a", "b", "c"], ["x", "y", "x"])
    assert grouped == {"x": ["a", "c"], "y": ["b"]}
    with pytest.raises(ValueError):
        group_phrases(["a"], [])


# --- Clips ---------------------------------------------------------------------------------------


def test_crop_is_a_part_of_its_clip_and_varies_by_epoch(table):
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
    heard = Collate(processor, seconds=1.0)([dataset(table)[0, row] for row in (0, 4)])
    monkeypatch.setattr(Files, "crop", None)
    silent = Collate(processor, seconds=1.0)([dataset(table, read=False)[0, row] for row in (0, 4)])
    assert set(heard) - set(silent) == {"input_values", "padding_mask"}
    assert torch.equal(silent["input_ids"], heard["input_ids"])
    assert silent["row"] == heard["row"] and silent["captions"] == heard["captions"]


def test_short_clips_stay_whole_or_are_repeated(table):
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


def test_table_without_captions_is_refused(table):
    with pytest.raises(ValueError, match="caption_descriptors"):
        dataset(table.drop(columns="caption_descriptors"))


@pytest.mark.torture(50, "clip of a captions table outside of the root")
def test_file_outside_the_root_is_refused(table, tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    table.index = table.index.set_levels(["../" + f for f in table.index.levels[0]], level=0)
    with pytest.raises(ValueError, match="outside|leaves"):
        CaptionDataset(table, inner, CaptionSettings(), 1.0, 0)[0, 1]


# --- Batches -------------------------------------------------------------------------------------


def read_batches(table, processor, workers, start=0):
    items = dataset(table)
    loader = torch.utils.data.DataLoader(
        items,
        batch_sampler=TrainingBatches(len(items), 2, 6, seed=5, start=start),
        num_workers=workers,
        collate_fn=Collate(processor, seconds=1.0),
        generator=torch.Generator(),
    )
    return list(loader)


def test_batches_are_the_same_for_any_number_of_workers_and_after_a_restart(table, tiny):
    _, processor = tiny
    plain = read_batches(table, processor, workers=0)
    assert len(plain) == 6
    others = read_batches(table, processor, workers=2)
    resumed = [None] * 3 + read_batches(table, processor, workers=1, start=3)
    for batch, other, late in zip(plain, others, resumed, strict=True):
        assert batch["captions"] == other["captions"] and batch["row"] == other["row"]
        assert torch.equal(batch["input_values"], other["input_values"])
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


def test_recordings_of_several_corpora_are_found_by_the_name_before_the_file(table, tmp_path):
    joined = JoinedRecordings({"one": Files(tmp_path), "two": Files(tmp_path)})
    plain = Files(tmp_path)
    file, limits = "clip3.wav", (None, None, 0.5, 0.3)
    for name in (f"one/{file}", f"two/{file}"):
        assert joined.seconds(name) == plain.seconds(file) == 1.7
        assert joined.hash(name) == plain.hash(file)
        assert np.array_equal(joined.read(name), plain.read(file))
        assert np.array_equal(joined.crop(name, *limits), plain.crop(file, *limits))
    assert joined.conditioning == plain.conditioning
