"""Paths, tables and messages name what is wrong."""

import dataclasses
from pathlib import Path

import pandas as pd
import pytest
import soundfile

from paraclap import cli
from paraclap.cli import features
from paraclap.model.towers import ALPHABET, SPECIAL_TOKENS
from paraclap.settings import Settings, SettingsError, TrainSettings
from paraclap.training.config import CONFIGS, RANGES, flatten, read_settings
from paraclap.training.given import type_of

# --- Paths ---------------------------------------------------------------------------------------

# --- Tables --------------------------------------------------------------------------------------

# --- Settings ------------------------------------------------------------------------------------


def given(key, *arguments):
    """Value of a setting, with configs/small.yaml."""
    settings = read_settings([str(CONFIGS / "small.yaml"), *arguments])
    return flatten(dataclasses.asdict(settings))[key]


@pytest.mark.parametrize(
    "key, text, value",
    [
        ("output", "runs/exp #3", "runs/exp #3"),
        ("output", "runs/a: b", "runs/a: b"),
        ("output", "runs/[x", "runs/[x"),
        ("output", "null", "null"),
        ("data.train_split", "007", "007"),
        ("data.train_split", "1e3", "1e3"),
        ("data.validation_split", "no", "no"),
        ("train.target", "2024-01-01", "2024-01-01"),
        ("data.root", "null", None),
        ("data.corpora.a.root", "010", "010"),
        ("output", "~/runs", str(Path.home() / "runs")),
        ("data.root", "~", str(Path.home())),
        ("data.corpora.a.captions", "~/c.parquet", str(Path.home() / "c.parquet")),
        ("data.templates", "[paraclap, ~/t.yaml]", ["paraclap", str(Path.home() / "t.yaml")]),
        ("train.target", "~", "~"),
    ],
)
def test_texts_are_kept_as_typed_and_paths_start_at_home(key, text, value):
    assert given(key, f"{key}={text}") == value


def test_home_is_expanded_in_files_too(tmp_path):
    (tmp_path / "a.yaml").write_text("output: ~/runs\ndata: {root: ~/data}\n")
    settings = read_settings([str(tmp_path / "a.yaml")])
    assert settings.output == str(Path.home() / "runs")
    assert settings.data.root == str(Path.home() / "data")


@pytest.mark.parametrize(
    "argument, message",
    [
        ("traim.epochs=3", r"traim\.epochs is unknown; did you mean train\.epochs"),
        ("optm={lr: 1}", r"optm is unknown; did you mean optim\.lr"),
        ("train.epoch.x=3", r"train\.epoch\.x is unknown"),
        ("=3", "'=3' has no key, expected key=value"),
        ("model.start=", "model.start has no value; None is written model.start=null"),
        ("train.epochs=[1", r"train\.epochs=\[1 cannot be read: line"),
        ("train.epochs={a: {b: [}", r"train\.epochs=.* cannot be read: line"),
        ("train=3", r"train is a group of settings, expected train\.NAME=3"),
        ("train.epochs=many", r"^train\.epochs: Value 'many' [^;]*Integer$"),
        ("train.loggers=wandb", r"train\.loggers is 'wandb', expected a list, .*=\[wandb\]"),
        ("model.freeze=[1]", r"model\.freeze is read as 1, expected text"),
        ("output=${oc.env:HOME}/runs", r"output is '\$\{oc\.env:HOME\}/runs'"),
        ("model.audio.config.x=${oc.env:HOME}", r"model\.audio\.config\.x is '\$"),
        ("model.start=x", r"model\.start defines .* model\.audio\.config\.model_type, .* more"),
    ],
)
def test_wrong_arguments_are_named_in_one_line(argument, message):
    with pytest.raises(SettingsError, match=message) as caught:
        read_settings([str(CONFIGS / "small.yaml"), argument])
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "text, message",
    [
        ("data: {train_split: 007}", r"data\.train_split is read as 7, expected text; .* quotes"),
        ("data: {train_split: no}", r"data\.train_split is read as False"),
        ("- a\n- b\n", "has no keys"),
        ("train: [1\noutput: b", "line 2"),
        ("train:\n  epochs: 3\n  epochs: 4\n", "epochs"),
        ("1: 2", "1 is unknown"),
        ("output: ${oc.env:HF_TOKEN}", r"expected a value without \$\{\.\.\.\}"),
    ],
)
def test_wrong_files_are_named_in_one_line(tmp_path, text, message):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(SettingsError, match=message) as caught:
        read_settings([str(tmp_path / "a.yaml")])
    assert len(str(caught.value).splitlines()) == 1


def test_groups_without_settings_are_left_at_their_defaults(tmp_path):
    (tmp_path / "a.yaml").write_text("train:\nmodel:\n  # audio\n")
    assert read_settings([str(tmp_path / "a.yaml")]).train == TrainSettings()


@pytest.mark.parametrize(
    "key, wrong, bound",
    [
        *(("optim.lr", "-1", "at least 0"), ("optim.weight_decay", "-1", "at least 0")),
        *(("train.seed", "-1", "at least 0"), ("train.batch_size", "1", "at least 2")),
        ("text_pretraining.batch_size", "0", "at least 2"),
        *(("model.mel.bins", "0", "at least 1"), ("model.mel.stride", "0", "at least 1")),
        *(("model.vocabulary_size", "3", "at least 141"), ("model.input_gain", "0", "more than 0")),
        ("model.projection_dropout", "1", "less than 1"),
        *(("data.sampling_exponent", "nan", "finite"), ("optim.lr", "inf", "finite")),
        ("data.augment.gain_range", "[0, .nan]", "finite"),
        ("model.audio.config.layerdrop", "nan", "finite"),
        *(("data.crop_seconds", "0", "at least 0.05"), ("train.timeout", "1e300", "at most 1e6")),
        *(("optim.layer_decay", "0", "more than 0"), ("data.augment.gain", "1.1", "at most 1")),
    ],
)
def test_numbers_out_of_range_are_named_with_the_bound(key, wrong, bound):
    wrong = {"nan": ".nan", "inf": ".inf"}.get(wrong, wrong)
    with pytest.raises(SettingsError, match=rf"{key} is .*, expected .*{bound}"):
        given(key, f"{key}={wrong}")


def test_every_number_has_a_range():
    ranged = {key for keys in RANGES.values() for key in keys}
    for key in flatten(dataclasses.asdict(Settings())):
        number = type_of(key) in (int, float, float | None)
        assert number == (key in ranged) or key.startswith("captions.label_probs"), key


def test_smallest_vocabulary_holds_all_characters():
    assert f"[{len(SPECIAL_TOKENS) + 2 * len(ALPHABET)}, inf)" in RANGES


# --- Arguments of evaluate.py --------------------------------------------------------------------

# --- Messages of inference -----------------------------------------------------------------------

# --- Messages of captions and features -----------------------------------------------------------

# --- Outputs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["labels", "database", "captions", "damaged", "folder"])
def test_features_replace_no_other_table(tmp_path, voice, kind):
    soundfile.write(tmp_path / "a.wav", voice(0.3), 16_000)
    output = tmp_path / "table.parquet"
    if kind == "folder":
        output.mkdir()
    elif kind == "damaged":
        output.write_bytes(b"PAR1")
    else:
        table = pd.DataFrame({"file": ["a.wav"], "emotion": "joy"})
        table["captions" if kind == "captions" else "quality"] = ""
        table.to_parquet(output)
    content = output.is_file() and output.read_bytes()
    source = output if kind == "labels" else tmp_path
    code = cli.run(lambda: features.main([str(source), "-o", str(output)]), "features.py")
    assert code == 1 and (output.is_dir() or output.read_bytes() == content)
    assert not (tmp_path / "table.parts").exists()
