"""Settings are merged and checked; docs/configuration.md is complete and up to date."""

import dataclasses
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from paraclap.model.modeling_paraclap import encoder_source
from paraclap.settings import SMALL_BERT, OptimSettings, Settings
from paraclap.training.config import (
    SettingsError,
    attribute_texts,
    flatten,
    read_settings,
    reference,
)
from paraclap.training.encoder_checks import check_layers

REPOSITORY = Path(__file__).resolve().parents[2]


def test_reference_in_the_documentation_is_up_to_date():
    page = (REPOSITORY / "docs" / "configuration.md").read_text()
    assert page == reference(), "run `python -m paraclap.training.config > docs/configuration.md`"


def test_reference_holds_every_key_with_a_default_that_can_be_given(tmp_path):
    cells = [line.split(" | ") for line in reference().splitlines() if line.startswith("| `")]
    given = {row[0].strip("| `"): row[1].strip("`") for row in cells}
    expected = flatten(dataclasses.asdict(Settings()))
    expected["model.audio.config"] = expected["model.text.config"] = {}
    for key in list(expected):
        if key.startswith("captions.label_probs."):
            expected["captions.label_probs"] = {"emotion": expected.pop(key)}
    assert given.keys() == expected.keys()
    assert {key: yaml.safe_load(text) for key, text in given.items()} == expected
    (tmp_path / "empty.yaml").write_text("{}")
    arguments = [f"{key}={text}" for key, text in given.items()]
    defaults = Settings()
    defaults.model.text.config = SMALL_BERT
    assert read_settings([str(tmp_path / "empty.yaml"), *arguments]) == defaults


def test_text_encoder_without_name_and_type_is_the_small_bert(tmp_path):
    path = tmp_path / "empty.yaml"
    path.write_text("{}")
    assert read_settings([str(path)]).model.text.config == SMALL_BERT
    wide = read_settings([str(path), "model.text.config.hidden_size=64"]).model.text.config
    assert wide == {**SMALL_BERT, "hidden_size": 64}
    for other in ("model.text.name=x", "model.start=x", "model.text.config={model_type: albert}"):
        assert "hidden_size" not in read_settings([str(path), other]).model.text.config


@pytest.mark.parametrize(
    "argument",
    [
        *("--help", "optim.lrr=1", "model.audio_layers=[2, 2]", "data.root=/nowhere"),
        "captions.phrase_count_probs=[0.5, 0.3]",
    ],
)
def test_help_and_wrong_settings_answer_without_importing_torch(argument):
    code = (
        "import sys; sys.path.append('.')\n"
        "import paraclap.cli; from paraclap.cli.train import main\n"
        f"paraclap.cli.run(lambda: main([{argument!r}]), 'train.py')\n"
        "sys.exit('torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert result.returncode == 0 and len(result.stdout + result.stderr) > 20, result.stderr


@pytest.mark.parametrize(
    "given, message",
    [
        ("train.thaw={audio: 0.3}", r"train.thaw(.audio)? was renamed to train.unfreeze"),
        ("text_stage.steps=3", "text_stage.steps was renamed to text_pretraining.steps"),
        ("train.dry_run=true", "train.dry_run was renamed to train.max_steps=2"),
        ("captions.bare=0.2", "captions.bare was removed"),
    ],
)
def test_former_keys_are_refused_with_their_new_name(tmp_path, given, message):
    key, _, value = given.partition("=")
    group, name = key.split(".")
    (tmp_path / "old.yaml").write_text(f"{group}: {{{name}: {value}}}")
    (tmp_path / "empty.yaml").write_text("{}")
    for arguments in ([str(tmp_path / "old.yaml")], [str(tmp_path / "empty.yaml"), given]):
        with pytest.raises(SettingsError, match=message):
            read_settings(arguments)


def test_field_without_description_and_description_without_field_are_named():
    @dataclass
    class Odd:
        """Odd.

        Attributes:
            described: but
                no field.
        """

        missing: int = 0

    with pytest.raises(ValueError, match=r"Odd: \['described', 'missing'\]"):
        attribute_texts(Odd)


def test_wrapped_description_is_one_text():
    @dataclass
    class Even:
        """Even.

        Attributes:
            first: one
                two.
            second: three.
        """

        first: int = 0
        second: int = 0

    assert attribute_texts(Even) == {"first": "one two.", "second": "three."}


@pytest.mark.slow
def test_command_prints_the_reference():
    command = [sys.executable, "-m", "paraclap.training.config"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert result.stdout == reference()


@pytest.mark.parametrize(
    "argument, message",
    [
        ("optim.lrr=1", "optim.lr"),
        ("optm.lr=1", "optim.lr"),
        ("train.epochs=many", "train.epochs"),
        ("loss.positives=some", "own"),
        ("loss.name=triplet", "sigmoid"),
        ("data.crop=center", "centre"),
        ("train.precision=fp8", "bf16"),
        ("train.epochs=0", "at least 1"),
        ("train.micro_batch=-1", "at least 0"),
    ],
)
def test_wrong_settings_are_named_with_what_is_expected(config, argument, message):
    with pytest.raises(SettingsError, match=message):
        read_settings([config, argument])


def test_arguments_override_the_file_and_the_file_overrides_defaults(config):
    settings = read_settings([config, "optim.lr=1e-4", "model.freeze=[text]"])
    assert settings.optim.lr == 1e-4 and settings.model.freeze == ["text"]
    assert settings.train.epochs == 2
    assert settings.optim.weight_decay == OptimSettings().weight_decay


@pytest.mark.torture(49, "!!python/object in a configuration")
def test_python_objects_in_a_configuration_are_refused(tmp_path):
    marker = tmp_path / "executed"
    path = tmp_path / "bad.yaml"
    path.write_text(f"output: !!python/object/apply:os.mkdir ['{marker}']\n")
    with pytest.raises(SettingsError, match="bad.yaml"):
        read_settings([str(path)])
    assert not marker.exists()


def test_missing_configuration_is_named():
    with pytest.raises(SettingsError, match=r"nowhere\.yaml"):
        read_settings(["nowhere.yaml"])


def test_training_without_a_data_root_stops_with_one_sentence():
    result = subprocess.run(
        [sys.executable, "train.py"], cwd=REPOSITORY, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 1
    assert result.stderr.strip().startswith("train.py: data.root is not set")
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "known, layers, limit",
    [
        ({"encoder_layers": 6, "num_hidden_layers": 6}, "[2, 7]", "0 to 6"),
        ({"num_hidden_layers": 24}, "[25]", "0 to 24"),
        ({}, "[2, 2]", "0"),
        ({}, "[-1]", "0"),
        ({}, "[1.5]", "0"),
        ({}, "[]", "0"),
        ({}, "first", "0"),
        ({"num_hidden_layers": 24}, "[0, 24]", None),
        ({}, "[99]", None),
    ],
)
@pytest.mark.parametrize(
    "place", ["folder", "hub", "settings", "encoder", "org--encoder", "encoder-encoder"]
)
def test_layers_that_an_encoder_lacks_are_refused_before_it_is_loaded(
    known, layers, limit, place, tmp_path, monkeypatch
):
    cached = tmp_path / "models--org--encoder"
    folder = cached / "snapshots" / "0"
    folder.mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("PARACLAP_ENCODERS", str(tmp_path / "local"))
    name = folder if place == "folder" else "org/encoder"
    if "encoder" in place:
        folder = tmp_path / "local" / place
        folder.mkdir(parents=True)
    given = [f"model.audio.name={name}", f"model.audio_layers={layers}"]
    if place == "settings":
        given += [f"model.audio.config.{key}={value}" for key, value in known.items()]
    else:
        (folder / "config.json").write_text(json.dumps(known))
    if "encoder" in place:
        assert encoder_source(name) == folder
    model = read_settings(given).model
    if limit is None:
        return check_layers(model)
    with pytest.raises(SettingsError) as refusal:
        check_layers(model)
    assert str(refusal.value) == (
        f"model.audio_layers is {yaml.safe_load(layers)!r}, expected last, weighted, or a list of "
        f"different layers from {limit}"
    )
