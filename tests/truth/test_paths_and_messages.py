"""Paths, tables and messages name what is wrong."""

import dataclasses
import datetime
import io
import re
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from corpus_files import message_of, touch, warnings_of, write
from paraclap import cli
from paraclap.captions.sources import open_file
from paraclap.cli import app, evaluate, features, models, predict, search, template_creation, train
from paraclap.cli.options import output_file, path_of
from paraclap.corpora.table import read_clips, read_corpus
from paraclap.data.functionals import read_functionals
from paraclap.data.label_captions import with_captions
from paraclap.errors import ParaCLAPError
from paraclap.evaluation import run as evaluation
from paraclap.inference.index import ClipIndex
from paraclap.inference.measurement import check_labels, groups_of_edges, measured_levels
from paraclap.model.build import load_model
from paraclap.model.hashes import weights_hash
from paraclap.model.towers import ALPHABET, SPECIAL_TOKENS
from paraclap.settings import DataSettings, Settings, SettingsError, TrainSettings
from paraclap.training import loop
from paraclap.training.config import CONFIGS, RANGES, flatten, read_settings
from paraclap.training.given import type_of
from paraclap.training.tables import read_captions
from small_corpora import make_corpus, run

# --- Paths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("linked", ["root", "file", "neither"])
def test_absolute_paths_inside_the_root_are_relative(tmp_path, linked):
    touch(tmp_path, "real/sub/a.wav", "real/sub/b.wav")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    names = {"root": "real", "file": "link", "neither": "real"}
    root = tmp_path / ("link" if linked == "root" else "real")
    text = f"file\n{tmp_path / names[linked]}/sub/a.wav\nsub/b.wav\n"
    table = read_corpus(write(tmp_path, "labels.csv", text), root)
    assert list(table.index.get_level_values("file")) == ["sub/a.wav", "sub/b.wav"]


@pytest.mark.parametrize("file", ["/etc/hosts", "{root}/../other.wav", "{root}2/a.wav"])
def test_absolute_paths_outside_the_root_are_refused_with_the_option(tmp_path, file):
    touch(tmp_path, "root/a.wav", "root2/a.wav", "other.wav")
    text = f"file\na.wav\n{file.format(root=tmp_path / 'root')}\n"
    message = message_of(write(tmp_path, "root/labels.csv", text))
    assert "leaves" in message and "--root" in message


def test_audio_of_a_table_may_lie_elsewhere(tmp_path, monkeypatch):
    touch(tmp_path, "audio/a.wav")
    path = write(tmp_path, "tables/labels.csv", "file\na.wav\n")
    assert "set by --root" in message_of(path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for root in (tmp_path / "audio", "~/audio"):
        assert read_corpus(path, root).attrs["root"] == str(tmp_path / "audio")
        assert read_clips([str(path)], root)["root"].tolist() == [str(tmp_path / "audio")]


def test_home_is_expanded_in_options_and_sources(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    touch(tmp_path, "data/wav/03a01Fa.wav")
    assert path_of("~/results") == tmp_path / "results"
    assert output_file(".csv")("~/a.csv") == tmp_path / "a.csv"
    for source in ("~/data", "emodb=~/data"):
        with pytest.warns(UserWarning):
            assert read_corpus(source).attrs["root"] == str(tmp_path / "data")
    assert read_clips(["~/data/*/*.wav"])["root"].tolist() == [str(tmp_path / "data/wav")]


def test_a_table_or_database_can_be_named(tmp_path):
    for name in ("one", "two"):
        write(tmp_path, f"{name}/labels.csv", "file\na.wav\n")
        touch(tmp_path, f"{name}/a.wav")
        table = read_corpus(f"{name}={tmp_path}/{name}/labels.csv")
        assert table.attrs["name"] == name and table.attrs["corpus"] is None
    assert read_corpus(f"mine={tmp_path}/one").attrs["name"] == "mine"
    assert f"{tmp_path}/labels.csv does not exist" in message_of(f"mine={tmp_path}/labels.csv")


def test_a_folder_of_a_known_corpus_gives_a_hint(tmp_path):
    touch(tmp_path, "wav/03a01Fa.wav", "wav/16b10Wb.wav")
    _, warned = warnings_of(read_corpus, tmp_path)
    assert warned == [f"{tmp_path} is read without labels; emodb={tmp_path} reads those of emodb"]


# --- Tables --------------------------------------------------------------------------------------

TABLES = {
    "separator at the end of rows": "file,emotion\na.wav,anger,\nb.wav,fear,\n",
    "separator at the end of all lines": "file;emotion;\r\na.wav;anger;\r\nb.wav;fear;\r\n",
    "numbers of rows": ",file,emotion\n0,a.wav,anger\n1,b.wav,fear\n",
    "tabs": "file\temotion\t\na.wav\tanger\t\nb.wav\tfear\t\n",
}


@pytest.mark.parametrize("text", TABLES.values(), ids=TABLES.keys())
def test_surplus_separators_do_not_shift_columns(tmp_path, text):
    touch(tmp_path, "a.wav", "b.wav")
    table = read_corpus(write(tmp_path, "labels.csv", text))
    assert list(table.index.get_level_values("file")) == ["a.wav", "b.wav"]
    assert table["emotion"].tolist() == ["anger", "fear"]


def test_json_lines_are_a_table(tmp_path):
    touch(tmp_path, "a.wav")
    rows = '{"file": "a.wav", "start": 0, "end": 1.5, "speaker": 7, "age": null}\n'
    rows += '\n{"file": "a.wav", "start": 2, "end": 3, "emotion": "Anger"}\n'
    table = read_corpus(write(tmp_path, "labels.jsonl", rows))
    assert table["speaker"].fillna("").tolist() == ["7", ""]
    assert table["emotion"].fillna("").tolist() == ["", "anger"]
    assert table.index.get_level_values("end").total_seconds().tolist() == [1.5, 3]


@pytest.mark.parametrize(
    "file, content, part",
    [
        ("labels.xlsx", b"PK\x03\x04", "is a spreadsheet, save it as CSV"),
        ("labels.csv", b"PK\x03\x04\xff\xfe", "a spreadsheet? save it as CSV"),
        ("labels.csv", b"file,emotion\na.wav,fr\xf6hlich\n", "save it as CSV in UTF-8"),
        ("labels.txt", b"file\na.wav\n", "is a file of another kind"),
        ("labels.csv", b"file,emotion\na.wav,anger,x\n", "a.wav has more fields than the header"),
        ("labels.csv", b"file,emotion,emotion\na.wav,anger,x\n", "the column emotion occurs twice"),
        ("labels.jsonl", b'{"file": "a.wav"\n', "cannot be read as a table"),
        ("labels.jsonl", b'["a.wav"]\n', "line 1 is not a JSON object"),
        ("labels.parquet", b"PAR1", "cannot be read"),
        ("labels.csv", b"path\na.wav\n", "--column file=NAME"),
    ],
)
def test_unusable_tables_are_named(tmp_path, file, content, part):
    touch(tmp_path, "a.wav")
    assert part in message_of(write(tmp_path, file, content))


def test_a_column_twice_in_parquet_is_an_error(tmp_path):
    table = pa.Table.from_arrays([pa.array(["a.wav"])] * 3, names=["file", "emotion", "emotion"])
    pq.write_table(table, tmp_path / "labels.parquet")
    assert "the column emotion occurs twice" in message_of(tmp_path / "labels.parquet")


def test_times_of_day_are_positions(tmp_path):
    touch(tmp_path, "a.wav")
    rows = {"file": ["a.wav"], "start": [datetime.time(0, 0, 4, 500000)], "end": [None]}
    pd.DataFrame(rows).to_parquet(tmp_path / "labels.parquet")
    start = read_corpus(tmp_path / "labels.parquet").index.get_level_values("start")
    assert start.total_seconds().tolist() == [4.5]


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
        *(("captions.mix", "1.5", "at most 1"), ("captions.label_probs.mood", "-1", "at least 0")),
        *(
            ("captions.phrase_count_probs", probs, "sum is 1")
            for probs in ("[0.5]", "[2, -1]", "[]")
        ),
    ],
)
def test_numbers_out_of_range_are_named_with_the_bound(key, wrong, bound):
    wrong = {"nan": ".nan", "inf": ".inf"}.get(wrong, wrong)
    with pytest.raises(SettingsError, match=rf"{key} is .*, expected .*{bound}"):
        given(key, f"{key}={wrong}")


def test_every_number_has_a_range():
    ranged = {key for keys in RANGES.values() for key in keys}
    for key in flatten(dataclasses.asdict(Settings())):
        number = type_of(key) in (int, float, float | None, int | str)
        assert number == (key in ranged) or key.startswith("captions.label_probs"), key


@pytest.mark.parametrize("device", ["meta", "mps", "xpu", "cuda:99", "cuda:1000", "gpu"])
def test_missing_devices_are_named_before_data_are_read(config, capsys, monkeypatch, device):
    monkeypatch.setattr(loop, "train", None)
    assert cli.run(lambda: train.main([config, f"train.device={device}"]), "train.py") == 1
    error = capsys.readouterr().err
    assert device in error and re.search(
        "not a device|not available|does not exist|cannot be used", error
    )


def test_missing_checkpoints_are_named_before_data_are_read(config, capsys):
    assert cli.run(lambda: train.main([config, "train.resume=nowhere"]), "train.py") == 1
    assert "train.resume: nowhere is not a folder, expected auto" in capsys.readouterr().err


def test_smallest_vocabulary_holds_all_characters():
    assert f"[{len(SPECIAL_TOKENS) + 2 * len(ALPHABET)}, inf)" in RANGES


# --- Arguments of evaluate.py --------------------------------------------------------------------


@pytest.fixture
def nothing_embedded(monkeypatch):
    """Fail the test if a clip is embedded."""

    def refuse(*_, **__):
        raise AssertionError("a clip was embedded")

    monkeypatch.setattr(evaluation, "embed_clips", refuse)


@pytest.fixture
def labels(corpus, tmp_path):
    """A table of labels in a folder of its own, with copies of its audio."""
    table = read_corpus(corpus).reset_index()[["file", "emotion", "speaker"]].iloc[::3]
    (tmp_path / "mine").mkdir()
    for file in table["file"]:
        shutil.copy(corpus / file, tmp_path / "mine")
    table["file"] = table["file"].map(lambda file: file.rpartition("/")[2])
    table.to_csv(tmp_path / "mine" / "labels.csv", index=False)
    return tmp_path / "mine" / "labels.csv"


def prompt_file(folder, text):
    (folder / "mine.yaml").write_text(text)
    return ["--prompts", str(folder / "mine.yaml")]


NO_CAPTIONS = "it is no parquet file, or damaged; expected a captions table"
PROMPT_FAULTS = {
    "anger: x\nneutral: x\n": "'anger' and 'neutral' have the prompts 'x' and 'x'",
    "anger: X\nneutral: x\n": "have the prompts 'X' and 'x', which are the same",
    "anger: rage\n": "emotion has prompts for one class, anger",
    "joyless: a\npeevish: b\n": "no clip of labels has a label in emotion for which",
    "anger: the speaker sounds {}\nfear: b\n": "'the speaker sounds {}' contains a placeholder",
    "anger: [rage, 7]\nfear: b\n": "must both be text",
}


@pytest.mark.parametrize("text, message", PROMPT_FAULTS.items())
def test_faulty_prompt_files_stop_before_a_clip_is_embedded(
    labels, model_folder, tmp_path, nothing_embedded, text, message
):
    command = [str(model_folder), str(labels), "-o", str(tmp_path / "r")]
    with pytest.raises(ParaCLAPError) as caught:
        evaluate.main([*command, *prompt_file(tmp_path, text)])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "change, options, message",
    [
        (None, ["--targets", "mood"], "has no mood, its columns are"),
        ("one class", [], "emotion has prompts for one class, anger"),
        ("many classes", [], "emotion has 1001 classes, expected at most 1000"),
        ("one speaker", ["--closed-set"], "two speakers and two classes, given 1 and 4"),
        ("no speaker", ["--closed-set"], "--closed-set requires the speakers of labels"),
        (None, ["--speakers", "s99"], "has no speaker"),
        (None, ["--split", "test"], "has no column 'split'"),
        (None, ["--retrieval", "labels.csv"], "emotion, speaker, expected a column 'caption', or"),
        (None, ["--split-from", "labels.csv"], f"labels.csv cannot be read: {NO_CAPTIONS}"),
        (None, ["--split-from", "x.parquet"], "x.parquet does not exist"),
        (None, ["--retrieval", "x.parquet"], "x.parquet does not exist"),
        (None, ["--device", "meta"], "'meta' cannot be used, expected auto, cpu, cuda"),
        (None, ["--device", "cuda:99"], "cuda:99 does not exist"),
        (None, ["-o", "labels.csv"], "labels.csv cannot be created"),
        (None, ["-o", "labels.csv/results"], "labels.csv/results cannot be created"),
    ],
)
def test_faulty_arguments_stop_before_a_clip_is_embedded(
    labels, model_folder, tmp_path, nothing_embedded, monkeypatch, change, options, message
):
    monkeypatch.chdir(labels.parent)
    table = pd.read_csv(labels)
    match change:
        case "one class":
            table["emotion"] = "anger"
        case "many classes":
            table = pd.concat([table] * 42, ignore_index=True).iloc[:1001]
            table["start"], table["end"] = np.arange(1001) / 1000, np.arange(1, 1002) / 1000
            table["emotion"] = [f"class {number}" for number in range(1001)]
        case "one speaker":
            table["speaker"] = "s01"
        case "no speaker":
            table["speaker"] = None
    table.to_csv(labels, index=False)
    with pytest.raises(ParaCLAPError) as caught:
        evaluate.main([str(model_folder), "labels.csv", "-o", str(tmp_path / "r"), *options])
    assert message in str(caught.value)


@pytest.mark.parametrize("script", [evaluate, predict, search])
@pytest.mark.parametrize("value", ["0", "nan", "-1", "inf"])
def test_impossible_sizes_of_batches_are_refused(script, value, capsys):
    first = ["index"] if script is search else []
    command = [*first, "model", "source", "-o", "x.csv", "--batch-seconds", value]
    with pytest.raises(SystemExit):
        script.main([*command, *(["--prompts", "a"] if script is predict else [])])
    assert f"{value} must be from 0.1 to 1e+06" in capsys.readouterr().err


def test_labels_without_words_or_prompts_are_counted_before_a_clip_is_embedded(
    labels, model_folder, tmp_path, monkeypatch
):
    table = pd.read_csv(labels)
    table.loc[table["emotion"] == "anger", "emotion"] = "Ang"
    table.loc[table["emotion"] == "boredom", "emotion"] = "scared!"
    table.to_csv(labels, index=False)
    with pytest.warns(UserWarning) as caught:
        evaluate.main([str(model_folder), str(labels), "-o", str(tmp_path / "r")])
    texts = " ".join(str(warning.message) for warning in caught)
    assert "labels: the prompt sets have no words for emotion ang (6), scared! (6)" in texts
    options = prompt_file(tmp_path, "neutral: a\nscared!: b c\n")
    with pytest.warns(UserWarning, match=r"has no prompt for emotion ang \(6\), happiness \(6\)"):
        evaluate.main([str(model_folder), str(labels), "-o", str(tmp_path / "r"), *options])


@pytest.mark.parametrize("source", ["runs/ravdess", "mine/ravdess", "no-such-folder"])
@pytest.mark.parametrize("script", [evaluate, predict])
def test_unknown_run_folders_are_named(script, source, labels, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # with a folder `mine`, without `runs`
    with pytest.raises(ParaCLAPError, match=f"{source} does not exist"):
        script.main([source, str(labels), *(["--prompts", "a", "b"] if script is predict else [])])


def test_a_name_that_the_hub_does_not_have_is_called_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParaCLAPError, match="someone/small is no folder here, and cannot be"):
        load_model("someone/small")


SCORES_FAULTS = {
    "corpora: {7: {UAR: 0.5}}": "7 is no corpus with scores",
    "corpora: {mine: 0.5}": "'mine' is no corpus with scores",
    **{
        f"corpora: {{mine: {{{figures}}}}}": f"{figures.split(':')[0]} of mine is"
        for figures in (
            "UAR: high",
            "UAR: '0.5'",
            "ACC: null",
            "F1: true",
            "interval: [a, b]",
            "interval: ab",
            "interval: [0.5]",
            "interval: 0.5",
            "interval: {a: 1, b: 2}",
            "clips: [1]",
            "classes: 0.5",
            "speakers: [[a]]",
            "target: [a]",
            "trained_on: [a]",
            "trained_on: {text: [1]}",
        )
    },
    "prompt_set: 3\ncorpora: {}": "prompt_set is 3",
    "prompt_set: [3]\ncorpora: {}": "prompt_set is [3]",
    "corpora: [mine]": "has no `corpora`",
}


@pytest.mark.parametrize("text, message", SCORES_FAULTS.items())
def test_other_scores_are_not_published(model_folder, tmp_path, text, message):
    (tmp_path / "scores.yaml").write_text(f"weights: {weights_hash(model_folder)}\n{text}")
    command = ["publish", str(model_folder), str(tmp_path / "out")]
    with pytest.raises(ParaCLAPError) as caught:
        models.main([*command, "--scores", str(tmp_path / "scores.yaml")])
    assert message in str(caught.value) and not (tmp_path / "out").exists()


def test_two_tables_of_one_name_are_distinguished(labels, model_folder, tmp_path, nothing_embedded):
    other = shutil.copytree(labels.parent, tmp_path / "other") / "labels.csv"
    command = [str(model_folder), "-o", str(tmp_path / "r")]
    with pytest.raises(ParaCLAPError, match="both be reported as labels; NAME=TABLE names a table"):
        evaluate.main([*command, str(labels), str(other)])
    with pytest.raises(AssertionError, match="a clip was embedded"):  # which is the next step
        evaluate.main([*command, str(labels), f"second={other}"])


def test_equal_descriptions_are_refused(labels, model_folder, tmp_path):
    assert search.main(["index", str(model_folder), str(labels), "-o", str(tmp_path / "i")]) == 0
    with pytest.raises(ParaCLAPError, match="'X Y' and 'x y' have the prompts"):
        search.main(["query", str(tmp_path / "i"), "X Y", "x y"])


# --- Messages of inference -----------------------------------------------------------------------


PROMPTS = ["--prompts", "angry", "calm"]
DESCRIBE = ["x.wav", "--describe", "--edges", "e.json"]


def stopped(main, arguments, capsys):
    """Exit code and last line of a command line that stops before a model is loaded."""
    try:
        code = cli.run(lambda: main([str(a) for a in arguments]), "script")
    except SystemExit as end:
        code = end.code
    return code, capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([*DESCRIBE, "-o", "x.csv"], "--describe cannot be combined with --output"),
        ([*DESCRIBE, "--format", "json"], "--describe cannot be combined with --format"),
        ([*DESCRIBE, "--windows", "1"], "--describe cannot be combined with --windows"),
        ([*DESCRIBE, "--template", "a {}"], "--describe cannot be combined with --template"),
        (["x.wav", *PROMPTS, "--windows", "0.00001"], "a window of 0.06 to 600 s"),
        (["x.wav", *PROMPTS, "--windows", "1", "--hop", "1e-9"], "a hop of at least 0.01 s"),
        (["x.wav", *PROMPTS, "--windows", "1", "--hop", "0"], "a hop of at least 0.01 s"),
        (["x.wav", *PROMPTS, "--windows", "nan"], "window nan s"),
        (["x.wav", *PROMPTS, "--windows", "inf"], "window inf s"),
        (["x.wav", *PROMPTS, "--windows", "1", "--plot", "list.csv"], "list.csv cannot be created"),
        (["x.wav", *PROMPTS, "-o", "a.wav"], "a.wav must end in .csv"),
        (["x.wav", *PROMPTS, "-o", "."], ". must end in .csv"),
        (["list.csv", *PROMPTS, "-o", "list.csv"], "list.csv would replace an input"),
        (["list.csv", *PROMPTS, "-o", "./list.csv"], "list.csv would replace an input"),
    ],
)
def test_wrong_options_of_predict_are_named(
    tmp_path, monkeypatch, capsys, model_folder, arguments, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.csv").write_text("file\nx.wav\n")
    (tmp_path / "x.wav").touch()
    code, line = stopped(predict.main, [model_folder, *arguments], capsys)
    assert code in (1, 2) and message in line
    assert (tmp_path / "list.csv").read_text() == "file\nx.wav\n"


@pytest.mark.parametrize(
    "groups, message",
    [
        (["colour=red"], "fitted for all clips together, not by colour"),
        (["gender=female", "age=old"], "fitted for all clips together, not by gender, age"),
    ],
)
def test_labels_that_edges_do_not_use_are_named(captions, model_folder, capsys, groups, message):
    edges = captions.with_name("captions.edges.json")
    options = ["x.wav", "--describe", "--edges", edges, "--group", *groups]
    assert stopped(predict.main, [model_folder, *options], capsys) == (
        1, f"script: {edges} holds edges that were {message}"
    )  # fmt: skip


def test_empty_stream_is_named(model_folder, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"")))
    options = ["--stdin-pcm", "16000", "--windows", "1", *PROMPTS]
    code, line = stopped(predict.main, [model_folder, *options], capsys)
    assert code == 1 and line == "script: the stream ended without a sample"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["x", "--page", "clip.wav"], "clip.wav must end in .html"),
        (["x", "-o", "hits.json"], "hits.json must end in .csv"),
        (["--like", "list.csv", "-o", "list.csv"], "list.csv would replace an input"),
    ],
)
def test_results_of_a_search_overwrite_no_input(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    for name in ("clip.wav", "list.csv"):
        (tmp_path / name).write_text(name)
    code, line = stopped(search.main, ["query", "index", *arguments], capsys)
    assert code == (1 if "replace" in message else 2) and message in line
    assert all((tmp_path / n).read_text() == n for n in ("clip.wav", "list.csv"))


@pytest.mark.parametrize("repeated", ["same", "subfolder", "link"])
def test_clip_that_is_named_twice_is_indexed_once(model_folder, tmp_path, voice, capsys, repeated):
    folder, index = tmp_path / "a", tmp_path / "index"
    (folder / "b").mkdir(parents=True)
    soundfile.write(folder / "b" / "c.wav", voice(0.5), 16_000)
    (tmp_path / "link").symlink_to(folder)
    other = {"same": folder, "subfolder": folder / "b", "link": tmp_path / "link"}[repeated]
    command = ["index", str(model_folder), str(folder), str(other), "-o", str(index)]
    assert search.main(command) == 0
    assert "1 clips are given more than once" in capsys.readouterr().out
    assert len(ClipIndex(index)) == 1


@pytest.mark.parametrize(
    "options, message",
    [
        (["nope"], "nope does not exist"),
        (["--port", "99999999"], "99999999, expected 1 to 65535"),
        (["--port", "-1"], "-1, expected 1 to 65535"),
        (["--port", "TAKEN"], "another program uses it, choose another --port"),
        (["--host", "192.0.2.1"], "192.0.2.1:7860 cannot be used"),
        (["--edges", "BAD"], "bad.txt"),
        (["--edges", "EDGES", "--features", "BAD"], "bad.txt"),
        (["--edges", "EDGES", "--features", "CAPTIONS"], "captions.parquet has no column"),
        (["--index", "FOLDER"], "is not an index"),
    ],
)
def test_page_names_wrong_arguments_before_the_model_is_loaded(
    tmp_path, model_folder, captions, capsys, monkeypatch, options, message
):
    bad = tmp_path / "bad.txt"
    bad.write_text("text")
    monkeypatch.setattr(app, "_serve", lambda *arguments: pytest.fail("served"))
    monkeypatch.setattr(app.importlib.util, "find_spec", lambda name: name)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        places = {
            "TAKEN": taken.getsockname()[1],
            "BAD": bad,
            "EDGES": captions.with_name("captions.edges.json"),
            "CAPTIONS": captions,
            "FOLDER": tmp_path,
        }
        model = [] if options == ["nope"] else [model_folder]
        given = [*model, *(places.get(option, option) for option in options)]
        given += [] if "--port" in options or "--host" in options else ["--port", _free_port()]
        code, line = stopped(app.main, given, capsys)
    assert code in (1, 2) and message in line


def _free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


# --- Messages of captions and features -----------------------------------------------------------


@pytest.fixture
def wrong_files(tmp_path, monkeypatch):
    """A folder with features, captions, their edges and files that are none of these."""
    monkeypatch.chdir(tmp_path)
    make_corpus().to_parquet("features.parquet")
    make_corpus().iloc[:0].to_parquet("empty.parquet")
    assert run("features.parquet", "-o", "captions.parquet") == 0
    Path("scores.json").write_text('{"format": 2, "scores": 3}')
    Path("table.csv").write_text("file,emotion\na.wav,sad\n")
    Path("phrases.yaml").write_text("pitch: high")
    return tmp_path


NOT_FEATURES = "it is no parquet file, or damaged; expected a table of features.py"
NOT_EDGES = "not a file of edges, expected the captions.edges.json of template_creation.py"
NAMES = "expected extended, five_levels, paraclap, published, wordings or a YAML file"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("captions.edges.json -o x.parquet", f"captions.edges.json cannot be read: {NOT_FEATURES}"),
        ("table.csv -o x.parquet", f"table.csv cannot be read: {NOT_FEATURES}"),
        ("empty.parquet -o x.parquet", "empty.parquet has no rows"),
        ("captions.parquet -o x.parquet", "as captions tables have, expected a features table"),
        ("features.parquet -o x.parquet --edges features.parquet", NOT_EDGES),
        ("features.parquet -o x.parquet --edges captions.parquet", NOT_EDGES),
        ("features.parquet -o x.parquet --edges table.csv", NOT_EDGES),
        ("features.parquet -o x.parquet --edges scores.json", NOT_EDGES),
        (
            "features.parquet -o x.parquet --edges absent.json",
            "absent.json cannot be read: No such",
        ),
        ("features.parquet -o x.parquet --edges .", ". cannot be read: Is a directory"),
        ("features.parquet -o x.parquet --templates extneded", f"'extneded' do not exist, {NAMES}"),
        ("features.parquet -o x.parquet --templates table.csv", "expected a mapping of descriptor"),
        ("features.parquet -o x.parquet --templates phrases.yaml", "phrases.yaml: pitch: 'high'"),
        ("features.parquet -o x.parquet --templates captions.parquet", "it is not text in UTF-8"),
        ("features.parquet -o x.csv", "-o is x.csv, expected a name ending in .parquet"),
        ("features.parquet -o .", "-o is ., expected a name ending in .parquet"),
    ],
)
def test_wrong_files_of_captions_are_named(wrong_files, capsys, arguments, message):
    assert run(*arguments.split()) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("template_creation.py: ") and message in error
    for word in ("magic bytes", "KeyError", "TypeError", "codec"):
        assert word not in error
    assert not list(wrong_files.glob("x.*"))


@pytest.mark.parametrize(
    "read, expected",
    [
        (read_functionals, "a table of features.py"),
        (read_captions, "a captions table"),
        (read_corpus, "a table of files and labels"),
        (open_file, "a table of features.py"),
    ],
)
def test_files_that_are_not_parquet_are_named_by_every_reader(wrong_files, read, expected):
    path = wrong_files / "x.parquet"
    for content in (b"", b"file,emotion\n", (wrong_files / "captions.parquet").read_bytes()[:-9]):
        path.write_bytes(content)
        message = (
            f"x.parquet cannot be read: it is no parquet file, or damaged; expected {expected}"
        )
        with pytest.raises(ParaCLAPError, match=message):
            read(path)
    path.unlink()
    with pytest.raises(ParaCLAPError, match=r"x\.parquet does not exist"):
        read(path)


@pytest.mark.parametrize("name", ["features.parquet", "captions.parquet", "scores.json"])
def test_wrong_edges_are_named_by_every_reader(wrong_files, name):
    readers = (
        lambda: measured_levels(np.zeros(16000, np.float32), name),
        lambda: check_labels(name, {}),
        lambda: groups_of_edges(name),
    )
    for read in readers:
        with pytest.raises(ParaCLAPError, match=f"{name}: {NOT_EDGES}"):
            read()


@pytest.mark.parametrize(
    "arguments",
    [
        "features.parquet -o features.parquet",
        "features.parquet -o ./other/../features.parquet",
        "features.parquet -o link.parquet",
        ". -o new.parquet",
        "features.parquet -o captions.parquet --edges captions.edges.json --descriptors pitch",
    ],
)
def test_captions_replace_no_input(wrong_files, capsys, arguments):
    Path("other").mkdir()
    Path("link.parquet").symlink_to("features.parquet")
    before = {path: path.read_bytes() for path in wrong_files.glob("*.*")}
    assert run(*arguments.split()) == 1
    assert "would replace" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in wrong_files.glob("*.*")} == before


def test_outputs_of_captions_may_be_in_new_folders(wrong_files):
    assert run("features.parquet", "-o", "new/c.parquet", "--plot", "plots/a/c.png") == 0
    assert Path("new/c.edges.json").is_file() and Path("plots/a/c.png").is_file()


@pytest.mark.parametrize("templates", [["extneded"], ["extended"], []])
def test_templates_beside_a_captions_table_are_refused(captions, templates):
    data = DataSettings(captions=str(captions), templates=templates)
    with pytest.raises(SettingsError, match="data.templates is .* has captions already"):
        with_captions(Settings(data=data))


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


def exit_code(script, *arguments):
    """Run a command line as from the shell; returns its exit code."""
    try:
        return cli.run(lambda: script.main([str(a) for a in arguments]), "script.py")
    except SystemExit as error:
        return error.code


OVERWRITING = {
    "evaluate over its table": (evaluate, "MODEL labels.csv -o .", "labels.csv"),
    "evaluate over its captions": (evaluate, "MODEL f.parquet -o . --retrieval f.csv", "f.csv"),
    "predict over a recording": (predict, "MODEL a.wav --prompts x y -o a.wav", "a.wav"),
    "predict over a table": (predict, "MODEL labels.csv --prompts x y -o labels.csv", "labels.csv"),
    "page over a recording": (search, "query index x --page a.wav", "a.wav"),
    "hits over captions": (search, "query index x -o f.parquet", "f.parquet"),
    "hits over examples": (search, "query index --like labels.csv -o labels.csv", "labels.csv"),
    "features over a recording": (features, "a.wav -o a.wav", "a.wav"),
    "features over their table": (features, "f.parquet -o f.parquet", "f.parquet"),
    "captions over features": (template_creation, "f.parquet -o f.parquet", "f.parquet"),
    "captions as CSV": (template_creation, "f.parquet -o labels.csv", "labels.csv"),
    "edges over edges": (
        template_creation,
        "f.parquet -o x.parquet --edges x.edges.json",
        "x.edges.json",
    ),
}


@pytest.mark.parametrize("case", OVERWRITING)
def test_no_output_replaces_an_input(case, labels, model_folder, monkeypatch, capsys):
    script, command, file = OVERWRITING[case]
    monkeypatch.chdir(labels.parent)
    soundfile.write("a.wav", torch.linspace(-0.5, 0.5, 16_000).numpy(), 16_000)
    table = pd.read_csv("labels.csv")
    table.to_parquet("f.parquet")
    table.assign(caption=table["emotion"]).to_csv("f.csv", index=False)
    (labels.parent / "x.edges.json").write_text("{}")
    before = {path.name: path.read_bytes() for path in labels.parent.iterdir()}
    words = [str(model_folder) if word == "MODEL" else word for word in command.split()]
    assert exit_code(script, *words) in (1, 2)
    after = {path.name: path.read_bytes() for path in labels.parent.iterdir()}
    assert after == before
    printed = capsys.readouterr().err
    assert re.search("would replace|must end in|ending in .parquet", printed)
    assert file is None or file in printed


@pytest.mark.parametrize("script", [predict, search])
def test_missing_folders_of_outputs_are_created(script, labels, model_folder, tmp_path):
    folder = tmp_path / "not" / "yet"
    if script is predict:
        command = [model_folder, next(labels.parent.glob("*.wav")), "--prompts", "x y", "a b"]
    else:
        assert exit_code(search, "index", model_folder, labels, "-o", tmp_path / "index") == 0
        command = ["query", tmp_path / "index", "anger"]
    assert exit_code(script, *command, "-o", folder / "scores.csv") == 0
    assert len(pd.read_csv(folder / "scores.csv"))
