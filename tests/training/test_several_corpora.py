"""Several corpora in one run: whose speakers, whose scores, what is drawn, what resuming checks."""

import json
import shutil

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from training_runs import rows, same_runs, train_until

from paraclap.audio.recordings import JoinedRecordings
from paraclap.captions.templates import default_descriptors, phrases_of
from paraclap.cli import template_creation
from paraclap.evaluation.prompt_sets import class_words
from paraclap.settings import CorpusSettings, Settings
from paraclap.training import loop, tables
from paraclap.training.config import SettingsError, changed_keys, read_settings
from paraclap.training.data import TrainingData
from paraclap.training.validation import SCORES, Validator


@pytest.fixture
def both(config, corpus, captions, tmp_path):
    """Arguments of a run on the synthetic corpus and on a smaller copy of it with fewer clips."""
    root = tmp_path / "copy"
    shutil.copytree(corpus, root)
    table = pq.read_table(captions)
    few = pa.concat_tables([table.slice(0, 24), table.slice(56)])  # 24 of dev, 16 of train
    pq.write_table(few, tmp_path / "few.parquet")
    return [
        config,
        "data.root=null",
        f"data.corpora.first={{root: {corpus}, captions: {captions}}}",
        f"data.corpora.second={{root: {root}, captions: {tmp_path / 'few.parquet'}}}",
    ]


def test_corpus_name_is_prepended_to_speakers_and_files(both, captions):
    run = loop.Trainer(read_settings(both))
    single = pd.read_parquet(captions)
    for table in (run.data.train_table, run.data.validation_table):
        assert set(table["corpus"]) == {"first", "second"}
        for (file, _, _), corpus, speaker in zip(
            table.index, table["corpus"], table["speaker"], strict=True
        ):
            assert file.startswith(f"{corpus}/") and speaker.startswith(f"{corpus}/")
    first = run.data.train_table[run.data.train_table["corpus"] == "first"]
    expected = single[single["split"] == "train"]
    assert [file for file, _, _ in first.index] == [
        f"first/{file}" for file, _, _ in expected.index
    ]
    assert not set(run.data.train_table["speaker"]) & set(run.data.validation_table["speaker"])
    assert isinstance(run.data.recordings, JoinedRecordings)
    assert run.model.config.provenance["corpora"] == ["first", "second"]


def test_equal_speaker_names_in_two_corpora_are_different_speakers(tmp_path):
    """One holds speaker 01 out, the other trains on its own 01."""
    index = pd.MultiIndex.from_tuples(
        [(f"{n}.wav", pd.Timedelta(0), pd.NaT) for n in range(4)], names=["file", "start", "end"]
    )
    columns = {"captions": [["a"]] * 4, "caption_descriptors": [["emotion"]] * 4}
    for name, splits in (
        ("x", ["train", "train", "dev", "dev"]),
        ("y", ["dev", "dev", "train", "train"]),
    ):
        table = pd.DataFrame(
            {"speaker": ["01", "01", "02", "02"], "split": splits, **columns}, index
        )
        table.to_parquet(tmp_path / f"{name}.parquet")
    settings = Settings()
    settings.data.corpora = {
        name: CorpusSettings(str(tmp_path), str(tmp_path / f"{name}.parquet")) for name in "xy"
    }
    training, validation = tables.read_tables(settings)
    assert set(training["speaker"]) == {"x/01", "y/02"}
    assert set(validation["speaker"]) == {"x/02", "y/01"}


def test_rows_of_a_shared_table_are_assigned_to_their_corpus(both, captions, tmp_path):
    table = pd.read_parquet(captions)
    table["corpus"] = ["first" if number % 2 else "second" for number in range(len(table))]
    table.to_parquet(tmp_path / "common.parquet")
    common = [
        f"data.corpora.{n}.captions={tmp_path / 'common.parquet'}" for n in ("first", "second")
    ]
    training, _ = tables.read_tables(read_settings([*both, *common]))
    known = table[table["split"] == "train"]["corpus"]
    assert training["corpus"].value_counts().to_dict() == known.value_counts().to_dict()
    absent = f"data.corpora.third={{root: ., captions: {tmp_path / 'common.parquet'}}}"
    with pytest.raises(SettingsError, match=r"third: .* no rows of this corpus.*first"):
        tables.read_tables(read_settings([*both, absent]))


def test_corpora_of_one_captions_table_are_validated_one_by_one(config, captions, tmp_path):
    table = pd.read_parquet(captions)
    table["corpus"] = ["ravdess" if number % 2 else "own" for number in range(len(table))]
    table["emotion"] = table["emotion"].replace({"boredom": "calm", "sadness": "sad"})
    table["emotion"] = table["emotion"].replace({"anger": "angry", "happiness": "happy"})
    table["emotion"] = table["emotion"].replace({"fear": "fearful"})
    stored = pa.Table.from_pandas(table)
    about = {"ravdess": {"corpus": "ravdess"}, "own": {"corpus": None}}
    metadata = {**stored.schema.metadata, b"paraclap": json.dumps({"corpora": about}).encode()}
    pq.write_table(stored.replace_schema_metadata(metadata), tmp_path / "joint.parquet")
    settings = read_settings([config, f"data.captions={tmp_path / 'joint.parquet'}"])
    data = TrainingData(settings)
    validator = Validator(data, settings.train)
    found = {name: part.attrs["corpus"] for name, part in validator.tables.items()}
    assert found == {"own": None, "ravdess": "ravdess"}
    recorded = data.trained_on.clips["corpus"]
    assert set(recorded.dropna()) == {"ravdess"} and recorded.isna().any()
    assert sum(map(len, validator.tables.values())) == len(validator) == 24


def test_scores_are_given_by_corpus_and_as_their_mean(both, tmp_path):
    run = loop.train(read_settings([*both, "train.epochs=1"]))
    validated = [row for row in rows(tmp_path / "run") if "UAR" in row]
    for row in validated:
        for figure in SCORES:
            parts = [row[f"{figure}.{name}"] for name in ("first", "second")]
            assert row[figure] == pytest.approx(sum(parts) / 2)
    assert run.best == max(row["UAR"] for row in validated)
    alone, _ = run.validate.score_corpus("first", run.model.eval(), run.processor)
    assert alone["UAR"] == validated[-1]["UAR.first"]


@pytest.mark.parametrize(
    "options",
    [
        ["train.bucket=true"],
        ["data.sampling_exponent=0", "data.class_sampling_exponent=0.5"],
    ],
)
def test_resumed_run_on_several_corpora_equals_an_uninterrupted_one(
    both, tmp_path, monkeypatch, options
):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    arguments = [*both, *options, "train.epochs=1", "train.validate_every=8"]
    loop.train(read_settings([*arguments, f"output={whole}"]))
    arguments += [f"output={parts}", f"data.waveform_cache={tmp_path / 'cache'}"]
    train_until(monkeypatch, 7, arguments)
    loop.train(read_settings([*arguments, "data.workers=2"]))
    assert same_runs(whole, parts)


def test_batches_of_similar_length_are_padded_to_their_longest(both):
    plain = loop.Trainer(read_settings([*both, "data.crop_seconds=9"]))
    run = loop.Trainer(read_settings([*both, "data.crop_seconds=9", "train.bucket=true"]))
    batch, other = next(iter(run.loader())), next(iter(plain.loader()))
    assert other["input_values"].shape[1] == 9 * 16_000
    assert batch["input_values"].shape[1] == batch["padding_mask"].sum(dim=1).max()
    padding = [1 - b["padding_mask"].float().mean().item() for b in (batch, other)]
    assert padding[0] < 0.2 < 0.5 < padding[1]


def test_moved_corpora_may_be_resumed_and_other_ones_may_not():
    def settings(name, root):
        return {"data": {"corpora": {name: {"root": root, "captions": "c.parquet"}}}}

    assert changed_keys(settings("a", "/x"), settings("a", "/y")) == []
    for key in ("sampling_exponent", "class_sampling_exponent"):
        assert changed_keys({"data": {key: 0}}, {"data": {key: 1}}) == [f"data.{key}"]


def test_resuming_with_another_table_of_one_corpus_is_refused(both, captions, tmp_path):
    loop.train(read_settings([*both, "train.epochs=1"]))
    pd.read_parquet(captions).iloc[10:].to_parquet(tmp_path / "few.parquet")
    with pytest.raises(SettingsError, match="captions table"):
        loop.train(read_settings([*both, "train.epochs=1"]))


@pytest.mark.parametrize(
    "change, message",
    [
        (["data.root=."], "both set"),
        (["data.corpora.third={captions: x}"], r"data\.corpora\.third\.root is not set"),
        (["data.corpora.third={root: .}"], r"data\.corpora\.third\.captions is not set"),
        (
            ["data.corpora.first.root=nowhere"],
            r"data\.corpora\.first\.root: nowhere is not a folder",
        ),
        (["data.corpora.first.rot=x"], "corpora.first.rot"),
        (["data.corpora.second.captions=nowhere"], r"second\.captions: nowhere does not exist"),
        (["data.sampling_exponent=-1"], r"data\.sampling_exponent is -1"),
        (["data.class_sampling_exponent=-1"], r"data\.class_sampling_exponent is -1"),
    ],
)
def test_impossible_corpora_are_refused_by_name(both, change, message):
    with pytest.raises(SettingsError, match=message):
        loop.train(read_settings([*both, *change]))


def test_missing_class_column_is_refused_by_name(config, captions, tmp_path):
    pd.read_parquet(captions).drop(columns="emotion").to_parquet(tmp_path / "less.parquet")
    given = [config, f"data.captions={tmp_path / 'less.parquet'}", "data.class_sampling_exponent=0"]
    with pytest.raises(SettingsError, match=r"class_sampling_exponent.* no column emotion"):
        loop.Trainer(read_settings(given))


def attribute(target, label):
    descriptor = next(d for d in default_descriptors() if d.name == target)
    return phrases_of(descriptor, label)[0]


@pytest.mark.parametrize("target", ["emotion", "gender"])
def test_labels_with_equal_prompts_have_equal_captions(target):
    """RAVDESS has the label angry, EmoDB anger; captions and prompts are the same."""
    attributes = {}
    for label, words in class_words(target).items():
        attributes.setdefault(words["adjective"], set()).add(attribute(target, label))
    assert all(len(found) == 1 for found in attributes.values()), attributes
    assert len(set.union(*attributes.values())) == len(attributes)  # and different classes are not
    assert attribute("emotion", "wistful") != attribute("emotion", "sad")


def recaptioned(measured, captions, folder):
    """Captions of a table of functionals, with the speakers of each part as in `captions`."""
    measured.attrs = {}
    measured.to_parquet(folder / "other.parquet")
    target = folder / "other.captions.parquet"
    speakers = pd.read_parquet(captions).groupby("split")["speaker"].unique()
    options = {"dev": "--validation-speakers", "test": "--test-speakers"}
    parts = [
        o
        for split in set(options) & set(speakers.index)
        for o in (options[split], ",".join(speakers[split]))
    ]
    assert template_creation.main([str(folder / "other.parquet"), "-o", str(target), *parts]) == 0
    return target


def test_levels_are_relative_to_each_corpus(both, captions, tmp_path):
    """A corpus that was recorded much louder is not a corpus of loud speakers."""
    measured = pd.read_parquet(captions.parent / "features.parquet")
    louder = measured.copy()
    for column in ("loudness_sma3_amean", "equivalentSoundLevel_dBp"):
        louder[column] += 40
    target = recaptioned(louder, captions, tmp_path)
    training, _ = tables.read_tables(
        read_settings([*both, f"data.corpora.second.captions={target}"])
    )
    levels = {name: part["intensity_level"] for name, part in training.groupby("corpus")}
    assert set(levels["second"]) == {"low", "normal", "high"}
    assert levels["first"].tolist() == levels["second"].tolist()


def test_corpora_with_different_labels_share_classes(both, captions, tmp_path):
    """ClassPrompts and matching captions know no corpus; each is validated by its own names."""
    measured = pd.read_parquet(captions.parent / "features.parquet")
    named = measured.assign(
        emotion=measured["emotion"].map(lambda label: class_words("emotion")[label]["adjective"])
    )
    assert not set(named["emotion"]) & {"anger", "happiness", "sadness"}
    target = recaptioned(named, captions, tmp_path)
    given = [*both, f"data.corpora.second.captions={target}", "loss.class_prompts=1"]
    run = loop.Trainer(read_settings(given))
    class_prompts = run.learner.gradients.class_prompts
    table = run.data.train_table
    assert len(set(table["emotion"])) > len(class_prompts.classes)
    assert len(class_prompts.classes) == len(set(measured["emotion"]))
    for label, number in zip(table["emotion"], class_prompts.labels.tolist(), strict=True):
        assert class_prompts.classes[number] == attribute("emotion", label)
    scores, _ = run.validate(run.model, run.processor)
    recalls = {name.removeprefix("recall/") for name in scores if name.startswith("recall/")}
    assert {"anger.first", "angry.second"} <= recalls
