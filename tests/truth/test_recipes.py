"""Recipes, splits and settings do what they state."""

import copy
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
import yaml
from training_runs import rows as rows_of
from training_runs import train_until
from transformers import AutoConfig, AutoModel

from corpus_files import warnings_of
from paraclap import cli
from paraclap.cli import evaluate, features, train
from paraclap.corpora import CorpusError
from paraclap.corpora import table as corpora
from paraclap.corpora.catalogue import CORPORA, Corpus
from paraclap.corpora.labels import in_split, normalise_labels, split_name, split_names
from paraclap.data.captions import draw_caption, group_phrases
from paraclap.data.functionals import read_functionals, standards
from paraclap.data.label_captions import with_captions
from paraclap.evaluation import metrics
from paraclap.evaluation.bootstrap import cluster_interval
from paraclap.model.build import build_model, load_model
from paraclap.model.engines import has_bfloat16
from paraclap.model.sources import ModelError
from paraclap.settings import DataSettings, ModelSettings, Settings, SettingsError, TowerSettings
from paraclap.training import loop, validation
from paraclap.training.config import CONFIGS, read_settings
from paraclap.training.data import TrainingData
from paraclap.training.tables import read_captions, split_table
from paraclap.training.validation import Validator
from small_corpora import make_corpus, run, write
from tiny_models import TEXTS, TINY_AUDIO, TINY_MEL, TINY_TEXT, embed, save_encoders

# --- Splits --------------------------------------------------------------------------------------

SPEAKER_HELD_OUT = Settings(data=DataSettings(validation_speakers=1))
SPLIT_NAMES = {
    "train": "train Train TRAIN training trn TR train_set train-clean-100",
    "dev": "dev Dev devel development Development val validation valid Validation dev-other"
    " Validierung cv tuning",
    "test": "test Test test1 test2 Test3 test_1 TE testing eval Evaluation heldout held-out",
}


@pytest.mark.parametrize(
    "name, split", [(name, split) for split in SPLIT_NAMES for name in SPLIT_NAMES[split].split()]
)
def test_names_of_splits_are_one_vocabulary(name, split):
    assert split_name(name) == split
    table = normalise_labels(pd.DataFrame({"split": [f" {name}", None]}), report=False)
    assert table["split"].tolist()[0] == split and table["split"].isna().tolist() == [False, True]


@pytest.mark.parametrize("name", ["train_dev", "fold 1", "left out", "Ohm", "2", "\u8bad\u7ec3"])
def test_other_names_of_splits_are_kept(name):
    assert split_name(name) == name.lower().replace("_", " ")


@pytest.mark.parametrize("name", ["evaluation", "Held_Out"])
def test_evaluation_is_development_beside_a_test_part(name):
    assert split_name(name, ["train", name, "test"]) == "dev"


def test_parts_of_a_split_stay_distinguishable():
    table = normalise_labels(
        pd.DataFrame({"split": ["Train", "Test1", "test2", "Development"]}), report=False
    )
    assert table["split"].tolist() == ["train", "test", "test", "dev"]
    wanted = {"test1": [1], "Test2": [2], "test": [1, 2], "validation": [3], "test3": []}
    for name, rows in wanted.items():
        assert table.index[in_split(table, name)].tolist() == rows, name
    assert {"test1", "test2", "dev"} <= set(split_names(table))


@pytest.mark.parametrize("written", ["development", "val", "validation", "Dev", "devel"])
@pytest.mark.parametrize("named", ["development", "validation", None])
def test_validation_uses_the_split_whatever_its_name(written, named):
    rows = {"speaker": list("aabbcc"), "split": ["Train", "train", written, written, "test", "TE"]}
    table = normalise_labels(pd.DataFrame(rows), report=False)
    settings = Settings(data=DataSettings(validation_split=named))
    train, validation = split_table(table, settings)
    assert train.index.tolist() == [0, 1] and validation.index.tolist() == [2, 3]


@pytest.mark.parametrize("key", ["train_split", "validation_split"])
def test_a_named_split_without_rows_is_an_error_with_those_found(key):
    table = normalise_labels(
        pd.DataFrame({"speaker": list("abcd"), "split": ["train", "train", "test1", "dev"]})
    )
    settings = Settings(data=DataSettings(**{key: "left-out"}))
    with pytest.raises(SettingsError, match=rf"data.{key}: no row has split 'left-out', found: "):
        split_table(table, settings)
    unsplit = table.drop(columns=["split", "original_split"])
    with pytest.raises(SettingsError, match=f"data.{key}.*the column split is missing"):
        split_table(unsplit, settings)
    with pytest.raises(SettingsError, match="data.train_split: .*only empty values"):
        split_table(unsplit.assign(split=None), settings)


@pytest.mark.parametrize("name", ["evaluation", "Held-out"])
def test_parts_named_for_evaluation_are_found_by_their_name(name):
    table = normalise_labels(pd.DataFrame({"split": ["train", name]}), report=False)
    assert table["split"].tolist() == ["train", "test"]
    assert in_split(table, name).tolist() == in_split(table, "test").tolist() == [False, True]


@pytest.mark.parametrize(
    "name, warned",
    [
        ("tuned", "3 clips .*: tuned \\(2\\), no split \\(1\\)"),
        ("test", "1 clips .*: no split \\(1\\)"),
    ],
)
def test_clips_in_no_part_are_counted(name, warned):
    rows = {"speaker": list("aabbccd"), "split": [*["train"] * 4, name, name, None]}
    table = normalise_labels(pd.DataFrame(rows), report=False)
    with pytest.warns(UserWarning, match=f"{warned}$"):
        split_table(table, Settings(data=DataSettings(validation_speakers=1)))
    found, texts = warnings_of(split_table, table.dropna().iloc[:4], SPEAKER_HELD_OUT)
    assert not texts and sum(map(len, found)) == 4


def test_clips_without_a_speaker_beside_speakers_held_out_are_counted(capsys):
    table = pd.DataFrame({"speaker": ["a", "b", None, None]})
    split_table(table, SPEAKER_HELD_OUT)
    assert "; 2 clips without a speaker remain in training" in capsys.readouterr().out
    split_table(table.dropna(), SPEAKER_HELD_OUT)
    assert "without" not in capsys.readouterr().out


@pytest.mark.parametrize("names", [("1", "2", "3"), ("\u8bad\u7ec3", "\u9a8c\u8bc1", "rest")])
def test_labels_with_other_names_of_splits_are_trained_on(config, corpus, names, tmp_path):
    rows = pd.DataFrame({"split": [*names] * 10})
    rows["file"] = next(corpus.rglob("*.wav")).relative_to(corpus).as_posix()
    rows["start"], rows["end"] = np.arange(30) / 100, np.arange(1, 31) / 100
    rows["emotion"], rows["arousal"] = ["anger", "sadness"] * 15, np.arange(30) / 30
    rows.to_csv(tmp_path / "labels.csv", index=False)
    given = [f"data.captions={tmp_path / 'labels.csv'}", f"data.root={corpus}"]
    chosen = [f"data.train_split={names[0]}", f"data.validation_split={names[1]}"]
    settings = with_captions(read_settings([config, f"output={tmp_path}", *given, *chosen]))
    train, validation = split_table(read_captions(settings.data.captions), settings)
    assert set(train["split"]) == {names[0]} and set(validation["split"]) == {names[1]}
    assert train["arousal_level"].value_counts().to_dict() == {"normal": 4, "low": 3, "high": 3}
    with pytest.raises(CorpusError, match="data.train_split: no row of .* found: "):
        with_captions(read_settings([config, f"output={tmp_path}", *given]))


def test_labels_that_no_caption_has_are_named_before_the_first_step(config, recwarn):
    loop.Trainer(read_settings([config, "captions.label_probs={mood: 0, emotion: 1}"]))
    assert not [w for w in recwarn if "label_probs" in str(w.message)]
    with pytest.warns(
        UserWarning, match="no training clip has a phrase about mood, only about .*,"
    ):
        loop.Trainer(read_settings([config, "captions.label_probs={mood: 1, emotion: 1}"]))


# --- Selecting rows for captions -----------------------------------------------------------------

MISSING = [None, "", " ", "N/A", "nan", "Unknown", "no agreement", "No_Agreement", "X", "xxx"]


@pytest.mark.parametrize("missing", MISSING)
def test_labelled_only_drops_rows_without_a_label(tmp_path, capsys, missing):
    table = make_corpus()
    table["emotion"] = table["emotion"].replace({"no agreement": missing, "sad": "other"})
    output = tmp_path / "captions.parquet"
    assert run(write(table, tmp_path / "f.parquet"), "-o", output, "--labelled-only") == 0
    assert "rows dropped: without an emotion 15" in capsys.readouterr().out
    counts = pd.read_parquet(output)["emotion"].value_counts(dropna=False).to_dict()
    assert counts == {"anger": 15, "other": 15, "neutral": 15}


def test_synonyms_are_dropped_from_all_tables(tmp_path, capsys):
    table, output = make_corpus(), tmp_path / "captions.parquet"
    first = write(table.replace({"emotion": {"anger": "angry"}}), tmp_path / "f.parquet")
    second, dropped = write(table, tmp_path / "g.parquet"), ["--filter-emotions", "Angry,anger"]
    assert run(first, second, "-o", output, *dropped) == 0
    assert "rows dropped: Angry 30\n" in capsys.readouterr().out
    assert not set(pd.read_parquet(output)["emotion"]) & {"anger", "angry"}


def test_rows_dropped_by_emotion_are_counted(tmp_path, capsys):
    features, output = write(make_corpus(), tmp_path / "f.parquet"), tmp_path / "captions.parquet"
    arguments = ["--labelled-only", "--filter-emotions", "Sad,anger"]
    assert run(features, "-o", output, *arguments) == 0
    printed = capsys.readouterr().out
    assert "rows dropped: Sad 15, anger 15, without an emotion 15" in printed
    assert set(pd.read_parquet(output)["emotion"]) == {"neutral"}
    assert run(features, "-o", output, "--filter-emotions", "sad") == 0
    assert pd.read_parquet(output)["emotion"].isna().sum() == 15


@pytest.mark.parametrize("name", ["joy", "no agreement", "ange"])
def test_an_emotion_that_no_row_has_cannot_be_dropped(tmp_path, capsys, name):
    features, output = write(make_corpus(), tmp_path / "f.parquet"), tmp_path / "captions.parquet"
    assert run(features, "-o", output, "--filter-emotions", f"sad,{name}") == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert f"no row has the emotion '{name}', found anger, neutral, sad" in message
    assert "15 rows without a label are dropped by --labelled-only" in message
    assert not output.exists()


# --- The published recipe ------------------------------------------------------------------------


def msp_like() -> pd.DataFrame:
    """Return features like those of MSP-Podcast, a quarter of them without a consensus label."""
    table = make_corpus(80)
    emotions, splits = ["happiness", "other", None, "neutral"], ["Train", "Development", "Test1"]
    return table.assign(
        emotion=[emotions[row % 4] for row in range(80)],
        split=[splits[max(row // 20 - 1, 0)] for row in range(80)],
        speaker=[str(row // 20) for row in range(80)],
    )


def commands(path: Path) -> dict[str, list[str]]:
    """Return script -> arguments of the commands in the header of a configuration."""
    lines = re.findall(r"^#   python (\S+) (.*)$", path.read_text(), re.M)
    return {script: shlex.split(arguments) for script, arguments in lines}


def test_commands_of_the_published_recipe_make_its_training_set(tmp_path, monkeypatch):
    given = commands(CONFIGS / "paper.yaml")
    monkeypatch.chdir(tmp_path)
    write(msp_like(), tmp_path / "features.parquet")
    assert run(*given["preprocessing/template_creation.py"]) == 0
    arguments = [argument for argument in given["train.py"][1:] if "data.root" not in argument]
    settings = read_settings([str(CONFIGS / "paper.yaml"), *arguments, "data.root=."])
    train, validation = split_table(read_captions(settings.data.captions), settings)
    assert (len(train), len(validation)) == (30, 15)
    assert set(train["emotion"]) == {"happiness", "neutral", "other"}
    assert set(validation["original_split"]) == {"development"}
    phrases = group_phrases(*train[["captions", "caption_descriptors"]].iloc[0])
    caption = draw_caption(phrases, settings.captions, np.random.default_rng(0)).text
    assert re.match(r"speaker has a (low|normal|high) pitch and has a ", caption)
    assert caption.count(" and ") == 11 and "expresses happiness" in caption


def test_published_recipe_names_every_known_difference():
    header = (CONFIGS / "paper.yaml").read_text().partition("output:")[0]
    listed = header.partition("Differences from the published code:\n")[2].splitlines()
    assert len(listed) == 6
    for word in ("normalisation", "exp(100)", "test1", "training mode", "words", "loudness"):
        assert word in header


# --- Validation and evaluation -------------------------------------------------------------------


def arousal_of(clips):
    """Numbers of clips, in their own order, some of them missing."""
    numbers = np.random.default_rng(0).normal(size=len(clips))
    return np.where(np.arange(len(clips)) % 11, numbers, np.nan)


@pytest.fixture
def merged(monkeypatch, corpus, captions, tmp_path):
    """The synthetic corpus as one whose classes are merged, and its captions table."""

    def read(root):
        rows = corpora.read_corpus(root).reset_index()
        return rows.assign(arousal=arousal_of(rows))

    classes = {"anger": "anger", "fear": "anger", "happiness": "joy", "sadness": "sadness"}
    classes |= {"neutral": "neutral", "boredom": None}
    published = {name: f"a voice of {name}" for name in ("anger", "joy", "neutral", "sadness")}
    toy = Corpus("toy", "Toy", read, "", classes=classes, published=published)
    monkeypatch.setitem(CORPORA, "toy", toy)
    table = pq.read_table(captions)
    numbers = pd.Series(arousal_of(range(len(table))), corpora.read_corpus(corpus).index)
    frame = table.to_pandas().assign(arousal=numbers)
    path = tmp_path / "captions.parquet"
    frame.to_parquet(path)
    stored = pq.read_table(path)
    about = json.dumps({"name": "toy", "corpus": "toy"}).encode()
    pq.write_table(
        stored.replace_schema_metadata({**stored.schema.metadata, b"paraclap": about}), path
    )
    return f"toy={corpus}", path


@pytest.mark.parametrize(
    "target, prompts",
    [("emotion", "published"), ("emotion", "sentence"), ("gender", "word"), ("arousal", "caption")],
)
def test_validation_gives_the_figures_of_evaluation(
    merged, model_folder, config, tmp_path, target, prompts
):
    source, captions = merged
    options = f"train.target={target}", f"train.prompts={prompts}", f"data.captions={captions}"
    settings = read_settings([config, *options])
    logged, _ = Validator(TrainingData(settings), settings.train)(*load_model(model_folder))
    command = [str(model_folder), source, "--split", "dev", "-o", str(tmp_path / "results")]
    evaluate.main([*command, "--targets", target, "--prompts", prompts])
    scores = yaml.safe_load((tmp_path / "results" / "scores.yaml").read_text())["corpora"]
    (figures,) = scores.values()
    figures |= {f"recall/{name}": recall for name, recall in figures["recall"].items()}
    logged = {n: value for n, value in logged.items() if "R@" not in n and "rank" not in n}
    assert logged == pytest.approx({name: figures[name] for name in logged})
    assert figures["classes"] == {"emotion": 4, "gender": 2, "arousal": 2}[target]
    assert ("Spearman" in logged) == (target == "arousal")


def test_validation_uses_the_workers_and_the_precision_of_the_run(
    config, model_folder, monkeypatch
):
    settings = read_settings([config, "data.workers=2"])
    model, processor = load_model(model_folder)
    used, plain = [], validation.embed_clips

    def noting(model, processor, clips, **options):
        used.append((torch.is_autocast_enabled("cpu"), options["workers"]))
        return plain(model, processor, clips, **options)

    monkeypatch.setattr(validation, "embed_clips", noting)
    validate = Validator(TrainingData(settings), settings.train)
    (exact, _), (rounded, answers) = (validate(model, processor, b) for b in (False, True))
    assert used == [(False, 2), (True, 2)]
    assert exact.keys() == rounded.keys() and np.isfinite(list(rounded.values())).all()
    assert not model.training and len(answers[""]) == len(validate)


# --- Settings on resuming ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        *("optim.lr=0.5", "optim.audio_lr=0.2", "optim.text_projection_lr=0.3"),
        *("optim.weight_decay=0.3", "optim.weight_decay=0", "optim.layer_decay=0.5"),
        *("optim.name=adam", "optim.schedule=constant", "optim.warmup_steps=0"),
        *("model.freeze=[text]", "train.epochs=5", "model.projection_dropout=0.1"),
    ],
)
def test_forced_settings_apply_to_a_resumed_run(config, change):
    settings = [config, "data.crop=centre"]
    before = loop.Trainer(read_settings(settings))
    batches = iter(before.loader())
    for _ in range(2):
        before.training_step(next(batches))
    after = loop.Trainer(read_settings([*settings, change]))
    groups = [{**group, "params": None} for group in after.learner.optimizer.param_groups]
    after.restore(copy.deepcopy(before.state()))
    optimizer = after.learner.optimizer
    assert groups == [{**group, "params": None} for group in optimizer.param_groups]
    moments = {name: state for name, state in before.state()["optimizer"].items() if state}
    assert len(moments) > 20
    for name, parameter in after.learner._optimized():
        if name in moments:
            same = torch.equal(optimizer.state[parameter]["exp_avg"], moments[name]["exp_avg"])
            assert same, name


def test_forced_learning_rate_is_that_of_the_next_step(config, tmp_path, monkeypatch):
    settings = [config, "optim.schedule=constant"]
    train_until(monkeypatch, 4, settings)
    loop.train(read_settings([*settings, "train.force=true", "optim.lr=0.5"]))
    lr = {row["step"]: row["lr"] for row in rows_of(tmp_path / "run") if "lr" in row}
    assert lr[3] == 0.01 and lr[4] == lr[8] == 0.5


@pytest.mark.parametrize(
    "change, message",
    [
        ("text_pretraining.steps=3", "text_pretraining.steps, with an effect on the first step"),
        ("model.projection_dim=32", "weights of the checkpoint do not fit the settings"),
        ("model.vocabulary_size=150", "model.vocabulary_size, with an effect on the first step"),
        ("data.captions=OTHER", "vocabulary"),
    ],
)
def test_settings_that_cannot_apply_are_refused_although_forced(
    config, captions, tmp_path, monkeypatch, change, message
):
    train_until(monkeypatch, 4, [config])
    table = pd.read_parquet(captions)
    table["captions"] = [[f"{text} zyzzyva" for text in texts] for texts in table["captions"]]
    table.to_parquet(tmp_path / "other.parquet")
    change = change.replace("OTHER", str(tmp_path / "other.parquet"))
    with pytest.raises(SettingsError, match=message):
        loop.train(read_settings([config, change, "train.force=true"]))


def test_changed_settings_are_refused_before_the_data_are_read(config, monkeypatch):
    train_until(monkeypatch, 4, [config])
    monkeypatch.setattr(loop, "Trainer", None)
    with pytest.raises(SettingsError, match=r"changed since its checkpoint: optim\.lr;"):
        loop.train(read_settings([config, "optim.lr=0.5"]))


# --- Encoders and precision ----------------------------------------------------------------------


ENCODERS = {
    "wav2vec2": TINY_AUDIO,
    "wav2vec2-bert": {**TINY_MEL, "feature_projection_input_dim": 161},
    "bert": {**TINY_TEXT, "vocab_size": 150},
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ENCODERS)
def test_encoders_stored_in_half_precision_compute_in_float32(
    kind, dtype, settings, tiny, waveforms, tmp_path
):
    AutoModel.from_config(AutoConfig.for_model(**ENCODERS[kind])).to(dtype).save_pretrained(
        tmp_path
    )
    if kind == "bert":
        tiny[1].tokenizer.save_pretrained(tmp_path)
        settings.text = TowerSettings(name=str(tmp_path))
    else:
        settings.audio = TowerSettings(name=str(tmp_path))
    model, processor = build_model(settings, TEXTS)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert embed(model.eval(), processor, waveforms).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_models_stored_in_half_precision_compute_in_float32(dtype, tiny, waveforms, tmp_path):
    for part in (tiny[0].to(dtype), tiny[1]):
        part.save_pretrained(tmp_path)
    model, processor = load_model(tmp_path)
    start, _ = build_model(ModelSettings(start=str(tmp_path)), TEXTS)
    for loaded in (model, start):
        assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert embed(model, processor, waveforms).dtype == torch.float32


def test_precision_of_weights_is_no_setting(settings):
    settings.audio.config["dtype"] = "float16"
    with pytest.raises(ModelError, match=r"model\.audio\.config\.dtype: weights are float32"):
        build_model(settings, TEXTS)


def test_audio_encoder_as_text_encoder_is_refused(settings):
    settings.text.config = TINY_AUDIO
    with pytest.raises(ModelError, match=r"model\.text: .* wav2vec2 does not read tokens"):
        build_model(settings, TEXTS)


@pytest.mark.parametrize("name", ["avx512_bf16", "amx_bf16", "bf16", None])
def test_automatic_precision_is_bfloat16_where_a_processor_has_it(monkeypatch, name, config):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {name: True, "avx2": True})
    assert has_bfloat16(torch.device("cpu")) == (name is not None)
    trainer = loop.Trainer(read_settings([config, "train.precision=auto"]))
    assert trainer.learner.bfloat16 == (name is not None)


def test_emulated_bfloat16_of_a_gpu_is_not_used(monkeypatch):
    def is_bf16_supported(including_emulation=True):
        return including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    assert not has_bfloat16(torch.device("cuda"))


# --- Intervals -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def speakers_that_differ():
    """Truth, predictions and speakers of 300 clips; half of the ten speakers are at chance."""
    truth = np.tile(["a", "b", "c"], 100)
    speakers = np.repeat([f"{number}" for number in range(10)], 30).astype(object)
    at_chance = speakers < "5"
    return truth, np.where(at_chance, "a", truth), speakers


@pytest.mark.parametrize("unknown, tolerance", [(1, 0.02), (10, 0.05)])
@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_unknown_speakers_leave_the_interval_over_the_known_ones(
    speakers_that_differ, unknown, tolerance, missing
):
    truth, prediction, speakers = speakers_that_differ
    expected = metrics.score(truth, prediction, speakers)["interval"]
    some = speakers.copy()
    some[:: len(some) // unknown] = missing
    scores = metrics.score(truth, prediction, some)
    assert scores["interval"] == pytest.approx(expected, abs=tolerance)
    assert (scores["speakers"], scores["unknown_speakers"]) == (10, unknown)
    value = (prediction == truth).astype(float)
    for speaker in (speakers, some):  # ranks and retrieval
        interval = cluster_interval(lambda rows: value[rows].mean(), speaker)
        assert interval == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize(
    "unknown, remark",
    [(1, "1 of 72 clips have no speaker; each counts as a"), (72, "no speakers are known, so")],
)
def test_report_states_unknown_speakers(model_folder, corpus, tmp_path, capsys, unknown, remark):
    table = corpora.read_corpus(corpus).reset_index()
    table.loc[: unknown - 1, "speaker"] = None
    table = table[["file", "emotion", "speaker"]]
    path = corpus.parent / f"unknown{unknown}.csv"
    table.assign(file="synthetic/" + table["file"]).to_csv(path, index=False)
    options = ["-o", str(tmp_path / "results"), *(["--closed-set"] if unknown == 1 else [])]
    assert evaluate.main([str(model_folder), str(path), *options]) == 0
    assert f"unknown{unknown}: {remark}" in capsys.readouterr().out
    assert remark in (tmp_path / "results" / "scores.md").read_text()
    scores = yaml.safe_load((tmp_path / "results" / "scores.yaml").read_text())
    if unknown == 1:
        assert scores["closed_set"][f"unknown{unknown}"]["embeddings"]["clips"] == 71


# --- Fine-tuning from every recipe ---------------------------------------------------------------


RECIPES = sorted(
    path.stem
    for path in CONFIGS.glob("*.yaml")
    if "start" not in (yaml.safe_load(path.read_text())["model"]) and path.stem != "finetune"
)
SMALLER = {
    "wav2vec2": TINY_AUDIO,
    "wav2vec2-bert": {**TINY_MEL, "conv_depthwise_kernel_size": 5},
    "egemaps": {"model_type": "egemaps", "hidden_size": 16},
}


@pytest.fixture(params=RECIPES)
def start(request, corpus, captions, tmp_path):
    """Run folder of a recipe, trained for one step with smaller encoders."""
    recipe = yaml.safe_load((CONFIGS / f"{request.param}.yaml").read_text())
    model = recipe["model"]
    audio = (model["audio"].get("config") or {}).get("model_type", "wav2vec2")
    model["audio"], model["text"] = {"config": SMALLER[audio]}, {"config": TINY_TEXT}
    model["projection_dim"] = 24
    if "audio_layers" in model:
        model["audio_layers"] = [0, 1, 2]
    if model.get("audio_standardise"):
        model["audio"] = {"name": str(save_encoders(tmp_path / "encoders") / "tiny-speech")}
    recipe["text_pretraining"] = {"steps": 0}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(recipe))
    data = [f"data.root={corpus}", f"data.captions={captions}", "data.workers=0"]
    if audio == "egemaps":
        data.append(f"data.features={captions.parent / 'features.parquet'}")
    steps = ["train.max_steps=1", "train.batch_size=4", "train.loggers=[]", "train.device=cpu"]
    arguments = [*data, *steps, "train.validate_every=1", f"output={tmp_path / 'start'}"]
    loop.train(read_settings([str(tmp_path / "small.yaml"), *arguments]))
    return tmp_path / "start"


def test_every_recipe_can_be_fine_tuned_as_documented(start, tmp_path, voice, capsys):
    rows = ["file,emotion,speaker"]
    for number in range(6):
        name = f"clip{number}.wav"
        soundfile.write(tmp_path / name, voice(0.5, f0=100 + 20 * number), 16_000)
        rows.append(f"{name},{['anger', 'sadness'][number % 2]},{'abc'[number // 2]}")
    (tmp_path / "my.csv").write_text("\n".join(rows) + "\n")
    arguments = [str(CONFIGS / "finetune.yaml"), f"model.start={start}"]
    arguments += [f"data.captions={tmp_path / 'my.csv'}", f"output={tmp_path / 'mine'}"]
    arguments += ["data.validation_speakers=1", "train.batch_size=2", "train.max_steps=2"]
    arguments += ["train.loggers=[]", "train.device=cpu"]
    arguments += ["model.freeze=[audio_convolutions,text]", "data.crop=random"]
    run = loop.train(read_settings(arguments))
    has_convolutions = run.model.has_convolutions
    assert ("audio_convolutions is skipped" in capsys.readouterr().out) != has_convolutions
    assert run.model.frozen == (("audio_convolutions", "text") if has_convolutions else ("text",))
    load_model(tmp_path / "mine")
    if run.data.functionals is not None:  # as features.py measures them
        output = tmp_path / "f.parquet"
        assert features.main([str(tmp_path / "my.csv"), "-o", str(output), "--workers", "1"]) == 0
        table = read_functionals(output)
        measured = run.data.functionals.reindex(columns=table.columns)
        assert table.loc[measured.index].astype("float32").equals(measured)


def test_functionals_other_than_those_of_the_start_are_refused(settings, tmp_path):
    table = pd.DataFrame({"a": [1.0, 3.0], "b": [5.0, 6.0]})
    settings.audio.config = {"model_type": "egemaps", "hidden_size": 16}
    for part in build_model(settings, ["loud"], standards(table)):
        part.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="other functionals than those of"):
        build_model(ModelSettings(start=str(tmp_path)), [], standards(table[["b", "a"]]))


def test_fine_tuning_without_a_start_is_named(capsys):
    assert cli.run(lambda: train.main([str(CONFIGS / "finetune.yaml")]), "train.py") == 1
    assert "model.start is not set; set it to a trained model" in capsys.readouterr().err
