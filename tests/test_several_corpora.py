"""Several corpora in one run: whose speakers, whose scores, what is drawn, what resuming checks."""

import json
import shutil

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import train
import training_run
import training_tables
from audio import JoinedRecordings
from datasets import Caption, agreement, group_phrases
from preprocessing.captioning.phrases import phrases_of
from preprocessing.captioning.templates import default_descriptors
from settings import CorpusSettings, Settings, SettingsError, changed_keys, read_settings


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


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_speakers_and_files_are_those_of_their_corpus(both, captions):
    run = train.Run(read_settings(both))
    single = pd.read_parquet(captions)
    for table in (run.train_table, run.validation_table):
        assert set(table["corpus"]) == {"first", "second"}
        for (file, _, _), corpus, speaker in zip(
            table.index, table["corpus"], table["speaker"], strict=True
        ):
            assert file.startswith(f"{corpus}/") and speaker.startswith(f"{corpus}/")
    first = run.train_table[run.train_table["corpus"] == "first"]
    expected = single[single["split"] == "train"]
    assert [file for file, _, _ in first.index] == [
        f"first/{file}" for file, _, _ in expected.index
    ]
    assert not set(run.train_table["speaker"]) & set(run.validation_table["speaker"])
    assert isinstance(run.recordings, JoinedRecordings)
    assert run.model.config.provenance["corpora"] == ["first", "second"]


def test_equal_names_in_two_corpora_are_no_shared_speaker(tmp_path):
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
    training, validation = training_tables.read_tables(settings)
    assert set(training["speaker"]) == {"x/01", "y/02"}
    assert set(validation["speaker"]) == {"x/02", "y/01"}


def test_rows_of_a_common_table_go_to_their_corpus(both, captions, tmp_path):
    table = pd.read_parquet(captions)
    table["corpus"] = ["first" if number % 2 else "second" for number in range(len(table))]
    table.to_parquet(tmp_path / "common.parquet")
    common = [
        f"data.corpora.{n}.captions={tmp_path / 'common.parquet'}" for n in ("first", "second")
    ]
    training, _ = training_tables.read_tables(read_settings([*both, *common]))
    known = table[table["split"] == "train"]["corpus"]
    assert training["corpus"].value_counts().to_dict() == known.value_counts().to_dict()
    absent = f"data.corpora.third={{root: ., captions: {tmp_path / 'common.parquet'}}}"
    with pytest.raises(SettingsError, match=r"third: no row is of this corpus.*first"):
        training_tables.read_tables(read_settings([*both, absent]))


def test_scores_are_those_of_each_corpus_and_their_mean(both, tmp_path):
    run = train.train(read_settings([*both, "train.epochs=1"]))
    validated = [row for row in rows(tmp_path / "run") if "UAR" in row]
    for row in validated:
        for figure in training_run.FIGURES:
            parts = [row[f"{figure}.{name}"] for name in ("first", "second")]
            assert row[figure] == pytest.approx(sum(parts) / 2)
    assert run.best == max(row["UAR"] for row in validated)
    table = run.validation_table
    alone, _ = run._validate(
        table[table["corpus"] == "first"].loc[lambda t: t.index.isin(run.classes.index)]
    )
    assert alone["UAR"] == validated[-1]["UAR.first"]


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("options", [["train.bucket=true"], ["data.temperature=0"]])
def test_resumed_run_on_several_corpora_equals_an_uninterrupted_one(
    both, tmp_path, monkeypatch, options
):
    options = [*options, "train.epochs=1", "train.validate_every=8"]
    whole = train.train(read_settings([*both, *options, f"output={tmp_path / 'whole'}"]))
    original = train.Run.training_step

    def training_step(self, batch):
        if self.step == 7:
            raise StoppedError
        return original(self, batch)

    arguments = [
        *both,
        *options,
        f"output={tmp_path / 'parts'}",
        f"data.packed={tmp_path / 'pack'}",
    ]
    with monkeypatch.context() as patch:
        patch.setattr(train.Run, "training_step", training_step)
        with pytest.raises(StoppedError):
            train.train(read_settings(arguments))
    resumed = train.train(read_settings([*arguments, "data.workers=2"]))
    first, second = whole.model.state_dict(), resumed.model.state_dict()
    assert resumed.step == whole.steps and all(torch.equal(first[n], second[n]) for n in first)


def test_batches_of_similar_length_are_padded_to_their_longest(both):
    plain = train.Run(read_settings([*both, "data.crop_seconds=9"]))
    run = train.Run(read_settings([*both, "data.crop_seconds=9", "train.bucket=true"]))
    batch, other = next(iter(run.loader())), next(iter(plain.loader()))
    assert other["input_values"].shape[1] == 9 * 16_000
    assert batch["input_values"].shape[1] == batch["padding_mask"].sum(dim=1).max()
    padding = [1 - b["padding_mask"].float().mean().item() for b in (batch, other)]
    assert padding[0] < 0.2 < 0.5 < padding[1]


def test_moved_corpora_may_be_resumed_and_other_ones_may_not():
    def settings(name, root):
        return {"data": {"corpora": {name: {"root": root, "captions": "c.parquet"}}}}

    assert changed_keys(settings("a", "/x"), settings("a", "/y")) == []
    then = {"data": {"temperature": 1.0}}
    assert changed_keys(then, {"data": {"temperature": 0.5}}) == ["data.temperature"]


def test_resuming_with_another_table_of_one_corpus_is_refused(both, captions, tmp_path):
    train.train(read_settings([*both, "train.epochs=1"]))
    pd.read_parquet(captions).iloc[10:].to_parquet(tmp_path / "few.parquet")
    with pytest.raises(SettingsError, match="captions table"):
        train.train(read_settings([*both, "train.epochs=1"]))


@pytest.mark.parametrize(
    "change, message",
    [
        (["data.root=."], "both set"),
        (["data.corpora.third={captions: x}"], r"data\.corpora\.third\.root is not set"),
        (["data.corpora.third={root: .}"], r"data\.corpora\.third\.captions is not set"),
        (["data.corpora.first.root=nowhere"], r"data\.corpora\.first\.root: nowhere is no folder"),
        (["data.corpora.first.rot=x"], "corpora.first.rot"),
        (["data.corpora.second.captions=nowhere"], "second: .*no table nowhere"),
        (["data.temperature=-1"], "temperature"),
    ],
)
def test_impossible_corpora_are_refused_by_name(both, change, message):
    with pytest.raises(SettingsError, match=message):
        train.train(read_settings([*both, *change]))


def test_captions_of_two_corpora_match_although_their_labels_differ():
    """RAVDESS says angry where EmoDB says anger; template_creation.py words both as one."""
    emotion = next(d for d in default_descriptors() if d.name == "emotion")
    phrases = []
    for label in ("angry", "anger"):
        wordings = phrases_of(emotion, label)
        phrases.append(group_phrases(wordings, ["emotion"] * len(wordings)))
    claims = tuple(("emotion", p["emotion"][0]) for p in phrases)
    captions = [Caption("", (claim,)) for claim in claims]
    assert agreement(phrases, captions).all()
