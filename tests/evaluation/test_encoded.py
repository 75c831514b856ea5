"""One cache of a speech encoder that is not trained, for training and evaluation."""

import copy
import itertools
import os

import pandas as pd
import pytest
import torch
from training_runs import FROZEN

from paraclap.audio.recordings import Files
from paraclap.cli import evaluate
from paraclap.corpora import table as corpora
from paraclap.data.dataset import CaptionDataset, CentreCrops, ClipDataset
from paraclap.data.loader import WorkerError
from paraclap.evaluation import encoded
from paraclap.evaluation.embed import embed_clips
from paraclap.evaluation.embedding_cache import DiskEmbeddingCache, clip_keys, encoder_fingerprint
from paraclap.evaluation.encoded import open_cache, pooled_clips
from paraclap.model.build import build_model, load_model
from paraclap.model.frozen import FrozenEncoder
from paraclap.settings import CaptionSettings, DataSettings
from paraclap.training import loop
from paraclap.training.config import read_settings
from tiny_models import TEXTS

BASE = {"audio": {"name": "some/encoder", "revision": None, "sha256": "0" * 64}}
SETTINGS = list(itertools.product(["mean", "mean_std"], ["last", "weighted", [1]]))


@pytest.fixture
def clips(corpus):
    return ClipDataset(corpora.read_corpus(corpus).iloc[:6], corpus, examine=True)


@pytest.fixture
def based(settings):
    """Return a model whose base encoder is the same for any pooling, and its processor."""

    def build(pooling="mean", layers="last"):
        settings.audio_pooling, settings.audio_layers = pooling, layers
        torch.manual_seed(0)
        model, processor = build_model(copy.deepcopy(settings), TEXTS)
        model.config.base_encoders = BASE
        return model.eval(), processor

    return build


@pytest.fixture
def encodings(monkeypatch):
    """Number of rows that were encoded."""
    counts = []
    original = FrozenEncoder.statistics
    monkeypatch.setattr(
        FrozenEncoder, "statistics", lambda *a: counts.append(len(a[1])) or original(*a)
    )
    return counts


def training_clips(corpus, captions, **options):
    settings = DataSettings(crop="centre", crop_seconds=options.pop("crop_seconds", 0.8))
    table = pd.read_parquet(captions).iloc[:6]
    return CaptionDataset(table, corpus, CaptionSettings(), settings, seed=1, **options)


@pytest.mark.parametrize("pooling, layers", SETTINGS)
def test_pooled_clips_are_bit_equal_to_those_of_the_model(based, clips, pooling, layers):
    model, processor = based(pooling, layers)
    pooled = pooled_clips(model, processor, clips)
    for row in range(len(clips)):
        inputs = processor.feature_extractor(
            clips.waveform(row), sampling_rate=16_000, return_tensors="pt"
        )
        with torch.no_grad():
            assert torch.equal(model.pool("audio", **_renamed(inputs))[0], pooled[row])


def _renamed(inputs):
    return {"inputs": inputs["input_values"], "mask": inputs["padding_mask"]}


def test_pooled_clips_are_of_float32_within_autocast(based, clips):
    parts = based()
    plain = pooled_clips(*parts, clips)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(pooled_clips(*parts, clips), plain)


def test_one_encoder_pass_serves_every_pooling_bit_for_bit(based, clips, tmp_path, encodings):
    for pooling, layers in SETTINGS:
        parts = based(pooling, layers)
        plain = embed_clips(*parts, clips)
        encodings.clear()
        filled = [embed_clips(*parts, clips, cache=open_cache(tmp_path, *parts)) for _ in range(2)]
        assert torch.equal(filled[0], plain) and torch.equal(filled[1], plain)
        assert sum(encodings) == (6 if (pooling, layers) == SETTINGS[0] else 0)


def test_cache_is_of_the_encoder_its_use_and_its_input(based, tmp_path):
    model, processor = based()
    names = {encoder_fingerprint(model, processor)}
    for part in (model, processor):
        part.save_pretrained(tmp_path)
    again = load_model(tmp_path)
    names.add(encoder_fingerprint(*again))
    with torch.no_grad():
        model.audio_projection.linear1.weight.add_(1)
    names.add(encoder_fingerprint(model, processor))
    assert len(names) == 1
    processor.feature_extractor.gain *= 2
    names.add(encoder_fingerprint(model, processor))
    with torch.no_grad():
        next(model.audio_branch.base.parameters()).mul_(1.01)
    names.add(encoder_fingerprint(model, processor))
    assert len(names) == 3


def test_crop_of_a_whole_clip_has_the_key_of_the_clip(corpus, captions):
    whole = ClipDataset(pd.read_parquet(captions).iloc[:6], corpus)
    keys = clip_keys(whole)
    for options in ({"crop_seconds": 60.0}, {"crop_seconds": float(whole.durations().max())}):
        assert clip_keys(CentreCrops(training_clips(corpus, captions, **options))) == keys
    shorter = CentreCrops(training_clips(corpus, captions))
    repeated = CentreCrops(training_clips(corpus, captions, crop_seconds=60.0, repeat_short=True))
    assert not {*clip_keys(shorter)} & {*keys} and not {*clip_keys(repeated)} & {*keys}
    file, start, end = whole.clips[0]
    whole.clips[0] = (file, 0.0, whole.durations([0])[0])
    assert clip_keys(whole) == keys


@pytest.mark.parametrize("repeat_short, seconds", [(False, 0.8), (True, 0.8), (True, 3.0)])
def test_crops_are_those_of_the_training(corpus, captions, repeat_short, seconds):
    training = training_clips(corpus, captions, crop_seconds=seconds, repeat_short=repeat_short)
    crops = CentreCrops(training)
    for row in range(len(crops)):
        assert (crops.waveform(row) == training.waveform(row)).all()


def test_what_was_encoded_before_a_stop_is_kept(based, clips, tmp_path, encodings, monkeypatch):
    monkeypatch.setattr(encoded, "BATCH_SIZE", 2)
    monkeypatch.setattr(encoded, "CHUNK", 4)
    parts = based()
    stops = iter([False, False, False, True, True])
    pooled_clips(*parts, clips, open_cache(tmp_path, *parts), stop=lambda: next(stops))
    assert sum(encodings) == 6 and len(open_cache(tmp_path, *parts)) == 6
    embed_clips(*parts, clips, cache=open_cache(tmp_path, *parts))
    assert sum(encodings) == 6


def test_lost_worker_is_an_error_that_names_its_clips(based, clips):
    model, processor = based()
    last = clips.clips[5][0]
    original = clips.recordings.read
    clips.recordings.read = lambda *a: os._exit(3) if a[0] == last else original(*a)
    with pytest.raises(WorkerError, match=rf"exited.*being read: .*{last}"):
        pooled_clips(model, processor, clips, workers=1)


def test_rows_of_another_size_are_not_used(tmp_path):
    cache = DiskEmbeddingCache(tmp_path, "model")
    cache.add([bytes(32)], torch.ones(1, 3))
    table = torch.zeros(1, 2)
    assert cache.fill(table, [bytes(32)], torch.tensor([0, 2]), 4) == [0]
    assert cache.fill(table, [bytes(32)], torch.tensor([0, 2]), 3) == []
    assert table.tolist() == [[1, 1]]


def test_a_second_run_and_its_evaluation_read_no_audio(
    corpus, captions, tmp_path, monkeypatch, encodings
):
    opened = []
    read = Files.read
    monkeypatch.setattr(Files, "read", lambda *a: opened.append(a) or read(*a))
    monkeypatch.setenv("PARACLAP_CACHE", str(tmp_path / "cache"))
    build = loop.Trainer.__init__

    def based_trainer(self, settings):
        build(self, settings)
        self.model.config.base_encoders = BASE

    monkeypatch.setattr(loop.Trainer, "__init__", based_trainer)
    config = ["configs/demo.yaml", f"data.root={corpus}", f"data.captions={captions}", *FROZEN]
    config += ["train.batch_size=8", "train.epochs=1", "data.crop_seconds=30", "train.device=cpu"]
    config += ["text_pretraining.steps=0"]
    first = loop.train(read_settings([*config, f"output={tmp_path / 'a'}"]))
    clips = len(first.data.train_table) + len(first.validate)
    assert sum(encodings) == len(opened) == clips
    other = ["model.audio_pooling=mean_std", "model.audio_layers=weighted"]
    loop.train(read_settings([*config, *other, f"output={tmp_path / 'b'}"]))
    assert sum(encodings) == len(opened) == clips
    for run in ("a", "b"):
        results = ["-o", str(tmp_path / "results"), "--split", "train"]
        assert evaluate.main([str(tmp_path / run), str(corpus), *results]) == 0
    assert sum(encodings) == len(opened) == clips
