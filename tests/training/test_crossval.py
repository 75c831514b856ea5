"""Cross-validation: speakers are tested once by models of others; restartable, as evaluate.py."""

import shutil

import pandas as pd
import pytest
import yaml
from sklearn.metrics import balanced_accuracy_score

from paraclap.cli import compare as cli_compare
from paraclap.cli import crossval as cli
from paraclap.corpora.table import read_corpus
from paraclap.data import trained_on
from paraclap.errors import ParaCLAPError
from paraclap.evaluation.tasks import tasks_for
from paraclap.training import crossval, loop

NAME = "paraclap-synthetic"


@pytest.fixture
def arguments(config, tmp_path):
    """Three folds of two speakers, each of two steps."""
    quick = ["train.epochs=1", "train.batch_size=12", "data.validation_speakers=1"]
    return [config, *quick, "folds=3", f"output={tmp_path / 'folds'}"]


def scores_of(folder):
    return yaml.safe_load((folder / "scores.yaml").read_text())


def test_each_speaker_is_tested_once_by_a_model_of_others(
    arguments, corpus, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(crossval, "RUN_FILES", ())
    assert cli.main(arguments) == 0
    output, table = tmp_path / "folds", read_corpus(corpus)
    predictions = pd.read_csv(output / f"{NAME}.csv", dtype={"speaker": str})
    assert predictions["file"].tolist() == table.index.get_level_values("file").tolist()
    assert predictions["speaker"].tolist() == table["speaker"].tolist()
    assert predictions["truth"].tolist() == table["emotion"].tolist()
    document = scores_of(output)
    figures, folds = document["corpora"][NAME], document["folds"][NAME]
    expected = balanced_accuracy_score(predictions["truth"], predictions["prediction"])
    assert figures["UAR"] == pytest.approx(expected) and figures["interval"]
    assert figures["clips"] == 72 and figures["speakers"] == 6 and figures["excluded"] == 0
    assert figures["trained_on"]["text"] == "none" and figures["prompt_set"] == "sentence"
    tested = [speaker for fold in folds for speaker in fold["speakers"]]
    assert sorted(tested) == sorted(table["speaker"].unique())
    for number, fold in enumerate(folds, start=1):
        folder = output / f"fold_{number}"
        record = trained_on.load(folder).clips
        parts = record.groupby("part")["speaker"].apply(set)
        assert parts["train"] | parts["validation"] | set(fold["speakers"]) == set(tested)
        assert parts["validation"] == set(fold["validation"]) and len(fold["validation"]) == 1
        assert not set(record["speaker"]) & set(fold["speakers"])
        rows = pd.read_csv(folder / f"{NAME}.csv", dtype={"speaker": str})
        assert set(rows["speaker"]) == set(fold["speakers"]) and fold["clips"] == len(rows)
        assert fold["UAR"] == pytest.approx(
            balanced_accuracy_score(rows["truth"], rows["prediction"])
        )
    printed, page = capsys.readouterr().out, (output / "scores.md").read_text()
    for shown in (printed, page):
        assert "tested speakers" in shown and f"{figures['UAR']:.3f}" in shown
    assert "recipe: " in page and "folds=3" in page
    assert (output / f"{NAME}.confusion.png").exists()


def test_finished_folds_are_not_run_again_and_interrupted_ones_are_resumed(
    arguments, tmp_path, monkeypatch, capsys
):
    output, whole = tmp_path / "folds", tmp_path / "whole"
    cli.main([*arguments, f"output={whole}"])
    plain, steps = loop.Trainer.training_step, []

    class Killed(Exception):  # noqa: N818
        pass

    def training_step(self, batch):
        if len(steps) == 5:  # of 3 steps per fold
            raise Killed
        steps.append(self.step)
        return plain(self, batch)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop.Trainer, "training_step", training_step)
        cli.main([*arguments, "train.save_every=1"])
    assert (output / "fold_1" / "scores.yaml").exists()
    assert not (output / "fold_2" / "scores.yaml").exists()
    before = (output / "fold_1" / "metrics.jsonl").stat().st_mtime_ns
    capsys.readouterr()
    assert cli.main([*arguments, "train.save_every=1"]) == 0
    printed = capsys.readouterr().out
    assert "fold 1 of 3" not in printed and "resumed" in printed and "fold 3 of 3" in printed
    assert (output / "fold_1" / "metrics.jsonl").stat().st_mtime_ns == before
    for name in (f"{NAME}.csv", f"{NAME}.confusion.png"):
        assert (output / name).read_bytes() == (whole / name).read_bytes()
    assert not [*output.rglob("*.safetensors"), *output.rglob("state.pt")]
    monkeypatch.setattr(crossval.loop, "train", lambda settings: pytest.fail("trained again"))
    page = (output / "scores.md").read_text()
    assert cli.main([*arguments, "train.save_every=1", "format=pdf"]) == 0
    assert (output / f"{NAME}.confusion.pdf").read_bytes().startswith(b"%PDF")
    assert (output / f"{NAME}.calibration.pdf").exists()
    assert (output / "scores.md").read_text() == page  # figures alone
    assert cli.main(arguments) == 0
    assert cli_compare.main([str(whole), str(output)]) == 0
    assert "| +0.000 [+0.000, +0.000] |" in capsys.readouterr().out
    with pytest.raises(ParaCLAPError, match="changed since its start: optim.lr; set another"):
        cli.main([*arguments, "optim.lr=0.02"])
    with pytest.raises(ParaCLAPError, match="changed since its start: folds; set"):
        cli.main([*arguments, "folds=2"])
    with pytest.raises(ParaCLAPError, match="changed since its start: max_steps; set"):
        cli.main([*arguments, "train.max_steps=1"])
    path = output / "fold_2" / f"{NAME}.csv"
    path.write_text(path.read_text().replace("cosine.", "score."))
    with pytest.raises(ParaCLAPError, match=r"score.CLASS, renamed to cosine.CLASS"):
        cli.main(arguments)
    path.write_text(path.read_text().replace("score.", "cosine.").replace("\naudio/", "\nother/"))
    with pytest.raises(ParaCLAPError, match="clips that the corpus does not have, such as other/"):
        cli.main(arguments)
    path.unlink()
    with pytest.raises(ParaCLAPError, match=f"{NAME}.csv cannot be read: No such file"):
        cli.main(arguments)
    (output / "fold_2" / "scores.yaml").write_text("")
    with pytest.raises(ParaCLAPError, match="no scores of .*; remove .*fold_2 to run the fold"):
        cli.main(arguments)
    (output / "crossval.yaml").write_text("[1]")
    with pytest.raises(ParaCLAPError, match="crossval.yaml is damaged; set another output or"):
        cli.main(arguments)


def test_changed_audio_is_noticed_and_never_starts_anew(
    arguments, corpus, captions, tmp_path, monkeypatch
):
    copy = tmp_path / "copy"
    shutil.copytree(corpus, copy)
    arguments = [*arguments, f"data.root={copy}", "folds=2", "train.max_steps=1"]
    cli.main(arguments)
    file = read_corpus(copy).index[0][0]
    (copy / file).write_bytes((copy / read_corpus(copy).index[1][0]).read_bytes())
    with pytest.raises(ParaCLAPError, match="changed since its start: data; set"):
        cli.main(arguments)
    assert cli.main([*arguments, "train.resume=never"]) == 0


def test_a_table_of_labels_with_segments_and_a_column_of_folds(config, corpus, tmp_path, capsys):
    rows = read_corpus(corpus).reset_index()[["file", "emotion", "speaker"]]
    rows["session"] = rows["speaker"].map(
        {s: n % 2 for n, s in enumerate(rows["speaker"].unique())}
    )
    rows["start"], rows["end"] = 0.05, [0.5, ""] * 36
    rows.loc[3, "speaker"], rows.loc[5, "emotion"] = "", ""
    rows.to_csv(tmp_path / "mine.csv", index=False)
    output = tmp_path / "folds"
    command = [config, f"data.captions={tmp_path / 'mine.csv'}", f"output={output}"]
    command += ["train.max_steps=1", "folds=session", "data.validation_speakers=0"]
    assert cli.main(command) == 0
    figures, folds = (scores_of(output)[key]["mine"] for key in ("corpora", "folds"))
    assert figures["clips"] == 70 and figures["excluded"] == 2 and len(folds) == 2
    assert "2 clips excluded (no label, no speaker, or no prompt" in capsys.readouterr().out
    predictions = pd.read_csv(output / "mine.csv", dtype={"speaker": str})
    assert set(predictions["start"]) == {"0 days 00:00:00.050000"}
    assert predictions["end"].isna().any() and predictions["end"].notna().any()
    assert rows["file"][3] not in set(predictions["file"])
    captioned = pd.read_parquet(output / "fold_1" / "captions.parquet").reset_index()
    assert captioned["split"].isna().sum() == 1


def test_labels_of_digits_line_breaks_in_names_and_whole_seconds_of_a_fold(
    config, corpus, tmp_path
):
    rows = read_corpus(corpus).reset_index()[["file", "emotion", "speaker"]]
    rows["emotion"] = pd.factorize(rows["emotion"])[0]
    rows["session"] = rows["speaker"].isin(rows["speaker"].unique()[:3]).astype(int)
    rows["start"] = rows["session"] * 0.05
    rows["file"] = ["a\nclip.wav", *(f"0{n}.wav" for n in range(1, len(rows)))]
    for old, new in zip(read_corpus(corpus).index, rows["file"], strict=True):
        shutil.copy(corpus / old[0], tmp_path / new)
    rows.to_csv(tmp_path / "mine.csv", index=False)
    output = tmp_path / "folds"
    command = [config, f"data.captions={tmp_path / 'mine.csv'}", f"data.root={tmp_path}"]
    command += ["train.max_steps=1", "folds=session", "data.validation_speakers=1"]
    assert cli.main([*command, f"output={output}"]) == 0
    figures = scores_of(output)["corpora"]["mine"]
    assert figures["clips"] == 72 and sorted(figures["support"]) == list("012345")
    assert cli_compare.main([str(output), str(output)]) == 0


def test_several_corpora_are_divided_and_scored_by_corpus(config, corpus, captions, tmp_path):
    output = tmp_path / "folds"
    corpora = {
        name: {"root": str(corpus), "captions": str(captions)} for name in ("first", "second")
    }
    settings = yaml.safe_load(open(config))
    settings["data"] = {"corpora": corpora, "crop_seconds": 1.0, "validation_speakers": 1}
    path = tmp_path / "several.yaml"
    path.write_text(yaml.safe_dump(settings))
    assert cli.main([str(path), "folds=2", "train.max_steps=1", f"output={output}"]) == 0
    scores = scores_of(output)
    assert set(scores["corpora"]) == set(scores["folds"]) == {"first", "second"}
    assert all(figures["clips"] == 72 for figures in scores["corpora"].values())


def test_tasks_have_the_names_of_evaluate(arguments, tmp_path):
    assert cli.main([*arguments, "folds=2", "train.max_steps=1", "train.target=gender"]) == 0
    scores = scores_of(tmp_path / "folds")
    (name,) = [task.name for task in tasks_for(NAME, ["gender"], ["sentence"])]
    assert [*scores["corpora"]] == [*scores["folds"]] == [name] == [f"{NAME}.gender"]
    assert len(pd.read_csv(tmp_path / "folds" / f"{name}.csv")) == 72


@pytest.mark.parametrize(
    "changes, message",
    [
        (["folds=1"], "folds is 1, expected at least 2"),
        (["folds="], "folds is empty, expected at least 2"),
        (["folds=00"], "folds is 00, expected at least 2"),
        (["folds=²"], "folds is '²', expected a number, speakers, or a column such"),
        (["folds=7"], "6 speakers cannot be divided into 7 folds"),
        (["folds=sessions"], "folds is 'sessions', expected a number, speakers, or a column such"),
        (["data.train_split=all"], "data.train_split has no effect in a cross-validation"),
        (["format=jpg"], "format is jpg, expected png, pdf or svg"),
        (["--format", "pdf"], "--format: settings are given as key=value, not as options"),
        (["--format=pdf"], "--format: settings are given as key=value, not as options"),
        (["train.target=mood"], "has no labels in mood, train.target"),
        (["train.target=arousal"], "train.target is arousal, whose labels are numbers"),
        (["train.resume=runs/x"], "train.resume: runs/x is not a folder"),
        (["data.validation_speakers=5"], "speakers can be held out for validation"),
        (["optim.lrr=1"], "optim.lrr is unknown"),
    ],
)
def test_faults_are_named_before_anything_is_trained(arguments, changes, message, monkeypatch):
    monkeypatch.setattr(crossval.loop, "train", lambda settings: pytest.fail("trained"))
    with pytest.raises(ParaCLAPError, match=message):
        cli.main([*arguments, *changes])


def test_folder_of_another_program_is_refused(arguments, tmp_path):
    (tmp_path / "folds").mkdir()
    (tmp_path / "folds" / "config.yaml").write_text("model: {}\n")
    with pytest.raises(ParaCLAPError, match="is no folder of a cross-validation"):
        cli.main(arguments)


def test_several_processes_write_the_same_scores(arguments, tmp_path, together):
    command = [*arguments, "folds=2", "train.max_steps=1"]
    run = together(2, cli.main, [*command, f"output={tmp_path / 'two'}"])
    assert run.codes == [0, 0], run.errors
    assert scores_of(tmp_path / "two")["corpora"][NAME]["clips"] == 72
