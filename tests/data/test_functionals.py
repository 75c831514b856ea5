"""The tower on functionals: equal embeddings from tables and waveforms, and a whole run."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from transformers import AutoModel, AutoProcessor

from paraclap.audio.reading import read_audio
from paraclap.cli import evaluate
from paraclap.data.dataset import ClipDataset
from paraclap.data.functionals import FunctionalsError, functionals_of, read_functionals, standards
from paraclap.evaluation.embed import embed_clips
from paraclap.model.build import build_model, load_model
from paraclap.model.engines import fast_model
from paraclap.training import loop
from paraclap.training.config import read_settings


@pytest.fixture(scope="module")
def measured(captions):
    """Feature table of the synthetic corpus and its path."""
    path = captions.parent / "features.parquet"
    table = pd.read_parquet(path)
    return path, functionals_of(read_functionals(path), table.index)


@pytest.fixture
def tower(settings, measured):
    """A fresh tower on functionals, its processor and the functionals of all clips."""
    settings.audio.config = {"model_type": "egemaps", "hidden_size": 16}
    torch.manual_seed(0)
    model, processor = build_model(settings, ["the voice is loud"], standards(measured[1]))
    return model.eval(), processor, measured[1]


def arguments(config, measured, tmp_path):
    """Arguments of a short run with a tower on functionals."""
    settings = yaml.safe_load(Path(config).read_text())
    settings["model"]["audio"]["config"] = {"model_type": "egemaps", "hidden_size": 16}
    settings["data"]["features"] = str(measured[0])
    path = tmp_path / "egemaps.yaml"
    path.write_text(yaml.safe_dump(settings))
    return [str(path)]


def test_waveforms_and_tables_give_the_same_embeddings(tower, corpus):
    model, processor, table = tower
    some = table.iloc[:3]
    measured_now = embed_clips(model, processor, ClipDataset(some, corpus))
    known = embed_clips(model, processor, ClipDataset(some, corpus, some.to_numpy(np.float32)))
    torch.testing.assert_close(measured_now, known, rtol=0, atol=1e-6)  # in other batches


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_engine_supports_the_tower(tower, corpus, precision):
    model, processor, table = tower
    clips = ClipDataset(table.iloc[:3], corpus, table.iloc[:3].to_numpy(np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a processor without bfloat16
        fast = fast_model(model, "eager", precision)
    expected = embed_clips(model, processor, clips)
    atol = 1e-6 if precision == "fp32" else 0.05
    torch.testing.assert_close(embed_clips(fast, processor, clips), expected, atol=atol, rtol=0)


def test_undefined_functionals_are_nan(tower):
    _, processor, table = tower
    noise = 0.1 * np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    values = processor.feature_extractor(noise, sampling_rate=16_000)["input_values"][0]
    voiced = table.columns.get_loc("F0semitoneFrom27.5Hz_sma3nz_amean")
    loudness = table.columns.get_loc("loudness_sma3_amean")
    assert np.isnan(values[voiced]) and np.isfinite(values[loudness])


def test_missing_and_constant_functionals_count_as_average(settings):
    table = pd.DataFrame({"a": [1.0, 3.0, np.nan], "b": [5.0, 5.0, 5.0]})
    settings.audio.config = {"model_type": "egemaps", "hidden_size": 16}
    encoder = build_model(settings, ["loud"], standards(table))[0].audio_branch.base.eval()
    seen = []
    encoder.first.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    encoder(torch.tensor([[3.0, 5.0], [torch.nan, 7.0], [1e9, torch.nan]]))
    assert torch.equal(seen[0], torch.tensor([[1.0, 0.0], [0.0, 0.0], [4.0, 0.0]]))


def test_excluded_functionals_have_no_effect(settings):
    table = pd.DataFrame({"loudness_a": [1.0, 3.0], "pitch": [2.0, 6.0]})
    settings.audio.config = {"model_type": "egemaps", "exclude": ["loudness"]}
    encoder = build_model(settings, ["loud"], standards(table))[0].audio_branch.base.eval()
    quiet, loud, high = torch.tensor([[1.0, 2.0], [99.0, 2.0], [1.0, 6.0]])
    states = [encoder(x[None]).last_hidden_state for x in (quiet, loud, high)]
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])
    settings.audio.config["exclude"] = ["loudnes_"]
    with pytest.raises(ValueError, match="no functional starts with 'loudnes_'"):
        build_model(settings, ["loud"], standards(table))


def test_too_short_clips_are_refused(tower):
    short = pytest.warns(UserWarning, match="too short")
    with short, pytest.raises(ValueError, match="60 ms"):
        tower[1].feature_extractor(np.full(160, 0.1, np.float32), sampling_rate=16_000)
    with pytest.raises(ValueError, match="8000 Hz given"):
        tower[1].feature_extractor(np.full(16_000, 0.1, np.float32), sampling_rate=8_000)


def test_saved_tower_loads_here_and_through_auto_classes(tower, tmp_path, corpus):
    model, processor, table = tower
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    wave = read_audio(corpus / table.index[0][0])
    inputs = processor.feature_extractor(wave, sampling_rate=16_000, return_tensors="pt")
    expected = model.get_audio_features(**inputs).pooler_output
    loaded, own = load_model(tmp_path)
    again = own.feature_extractor(wave, sampling_rate=16_000, return_tensors="pt")
    assert torch.equal(loaded.get_audio_features(**again).pooler_output, expected)
    auto = AutoModel.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(auto[0], type(model)) and isinstance(auto[1], type(processor))


def test_a_run_trains_and_is_evaluated(config, measured, corpus, tmp_path):
    run = loop.train(read_settings(arguments(config, measured, tmp_path)))
    results = ["-o", str(tmp_path / "results"), "--split", "test"]
    assert evaluate.main([str(run.output), str(corpus), *results]) == 0
    assert (tmp_path / "results" / "scores.yaml").is_file()


def test_tower_and_table_belong_together(config, measured, tmp_path):
    given = arguments(config, measured, tmp_path)
    with pytest.raises(ValueError, match="egemaps require each other"):
        loop.Trainer(read_settings([*given, "data.features=null"]))
    with pytest.raises(ValueError, match="model_type egemaps"):
        loop.Trainer(read_settings([config, f"data.features={measured[0]}"]))
    with pytest.raises(FunctionalsError, match="elsewhere.parquet does not exist"):
        loop.Trainer(read_settings([*given, "data.features=elsewhere.parquet"]))


def test_table_without_a_clip_is_refused(measured, tmp_path):
    table = pd.read_parquet(measured[0])
    table.iloc[1:].to_parquet(tmp_path / "fewer.parquet")
    with pytest.raises(FunctionalsError, match="1 of 72 clips have no functionals"):
        functionals_of(read_functionals(tmp_path / "fewer.parquet"), table.index)
    with pytest.raises(FunctionalsError, match="no functionals"):
        table[["emotion"]].to_parquet(tmp_path / "labels.parquet")
        read_functionals(tmp_path / "labels.parquet")


@pytest.mark.parametrize("fault", ["text", "infinite", "twice", "no index"])
def test_impossible_functionals_are_named(measured, tmp_path, fault):
    table, name = pd.read_parquet(measured[0]), "loudness_sma3_amean"
    if fault == "text":
        table[name] = table[name].astype("str")
    elif fault == "infinite":
        table.iloc[0, table.columns.get_loc(name)] = np.inf
    else:
        table = pd.concat([table, table[:1]]) if fault == "twice" else table.reset_index()
    table.to_parquet(tmp_path / "f.parquet")
    faulty = fault in ("text", "infinite")
    message = f"{name} .* other values than finite" if faulty else "one row for each file"
    with pytest.raises(FunctionalsError, match=rf"f\.parquet.* {message}"):
        read_functionals(tmp_path / "f.parquet")
