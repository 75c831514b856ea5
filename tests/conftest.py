"""Fixtures: tiny real towers and a small synthetic corpus with features and captions."""

import copy

import numpy as np
import pytest
import yaml

import corpora
import features
from models import ModelSettings, TowerSettings, build_model
from preprocessing import synthetic_corpus, template_creation

TINY_AUDIO = {
    "model_type": "wav2vec2",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "num_feat_extract_layers": 3,
    "conv_dim": [16, 24, 32],
    "conv_kernel": [40, 8, 4],
    "conv_stride": [20, 8, 4],
    "conv_bias": True,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "mask_time_length": 4,
    "layerdrop": 0.0,
}
TINY_TEXT = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
}
TEXTS = ["pitch is high and emotion is anger", "the speaker sounds sad", "the voice is loud"]


@pytest.fixture(scope="session", autouse=True)
def cache_of_embeddings(tmp_path_factory):
    """Keep the user's cache out of the tests, and the tests out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARACLAP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def settings():
    """Random tiny towers; free to change."""
    return ModelSettings(
        audio=TowerSettings(config=copy.deepcopy(TINY_AUDIO)),
        text=TowerSettings(config=copy.deepcopy(TINY_TEXT)),
        projection_dim=24,
        input_gain=10.0,
    )


@pytest.fixture
def tiny(settings):
    """A fresh tiny model in evaluation mode, and its processor."""
    model, processor = build_model(settings, TEXTS)
    return model.eval(), processor


@pytest.fixture
def waveforms():
    """Noise bursts of different length and level, (T,) float32 at 16 kHz."""
    rng = np.random.default_rng(7)
    return [
        (level * rng.standard_normal(samples)).astype(np.float32)
        for level, samples in [(0.1, 16_000), (0.02, 40_001), (0.3, 9_999), (0.05, 25_000)]
    ]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Synthetic audformat database: 6 speakers, 6 emotions, 72 clips; read only."""
    root = tmp_path_factory.mktemp("corpus") / "synthetic"
    synthetic_corpus.write_corpus(root, speakers=6, clips_per_emotion=2, seed=1)
    return root


@pytest.fixture(scope="session")
def captions(corpus, tmp_path_factory):
    """Captions table of `corpus`; read only."""
    folder = tmp_path_factory.mktemp("captions")
    table = corpora.read_corpus(corpus)
    measured, errors = features.extract(table, corpus, workers=2)
    assert errors.empty
    features.write_features(measured, errors, folder / "features.parquet")
    arguments = [str(folder / "features.parquet"), "-o", str(folder / "captions.parquet")]
    assert template_creation.main(arguments) == 0
    return folder / "captions.parquet"


@pytest.fixture
def config(captions, corpus, tmp_path):
    """Arguments of a short run: 24 clips to train on, 8 steps."""
    audio = {**TINY_AUDIO, "hidden_dropout": 0.2, "mask_time_prob": 0.2}
    settings = {
        "output": str(tmp_path / "run"),
        "model": {
            "audio": {"config": audio},
            "text": {"config": TINY_TEXT},
            "projection_dim": 24,
            "input_gain": 10.0,
        },
        "data": {"root": str(corpus), "captions": str(captions), "crop_seconds": 1.0},
        "optim": {"lr": 0.01, "audio_lr": 0.001, "text_lr": 0.001, "warmup_steps": 2},
        "train": {
            "epochs": 2,
            "batch_size": 5,
            "validate_every": 4,
            "save_every": 3,
            "log_every": 1,
            "precision": "fp32",
            "device": "cpu",
        },
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    return str(path)
