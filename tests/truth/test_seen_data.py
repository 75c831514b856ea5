"""Scores on training data are marked as such."""

import json
import re
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import soundfile
import yaml
from safetensors.torch import load_file, save_file

import paraclap.cli
from paraclap.cli import evaluate as evaluate_cli
from paraclap.cli import models as models_cli
from paraclap.cli import predict, search
from paraclap.corpora.table import read_corpus
from paraclap.data.trained_on import (
    RECORD,
    TYPES,
    TrainedOn,
    clips_of,
    load,
    trained_attributes,
    untrained,
    untrained_classes,
    words_of,
)
from paraclap.evaluation.prompt_sets import PROMPT_SETS, class_prompts, class_words
from paraclap.inference.api import ParaCLAP
from paraclap.inference.description import descriptor_prompts
from paraclap.inference.page import Analyzer
from paraclap.model.modeling_paraclap import PUBLISHED_CONFIG, ParaCLAPConfig
from paraclap.model.sources import PUBLISHED_MODEL, ModelError, read_object
from paraclap.settings import SettingsError
from paraclap.training import loop
from paraclap.training.config import read_settings


@pytest.fixture
def run(config, tmp_path):
    """Folder of a run of two steps on the small corpus."""
    loop.train(read_settings([config, "train.max_steps=2", "text_pretraining.steps=0"]))
    return tmp_path / "run"


# --- The record of a run -------------------------------------------------------------------------


def clips(*rows):
    """A table of clips as in `clips_of`: (hash, start, end, speaker), all of one corpus."""
    table = pd.DataFrame(rows, columns=["hash", "start", "end", "speaker"])
    return table.assign(corpus="emodb").astype(TYPES)


@pytest.mark.parametrize(
    "clip, seen, same_speaker",
    [
        (("a", 0.0, np.inf, "1"), True, True),
        (("a", 3.0, 4.0, "1"), False, True),
        (("a", 1.9, 2.5, "1"), True, True),
        (("a", 2.0, 3.0, "x"), False, False),
        (("a", 8.5, 8.6, "x"), True, True),
        (("b", 9.0, 9.5, "x"), True, True),
        (("c", 0.0, np.inf, "1"), False, True),
        (("c", 0.0, np.inf, "2 "), False, False),
        (("c", 0.0, np.inf, None), False, False),
        ((None, 0.0, np.inf, None), False, False),
    ],
)
def test_clips_are_seen_by_content_and_segment_and_speakers_also_by_name(clip, seen, same_speaker):
    known = clips(("a", 0.0, 2.0, "1"), ("a", 8.0, 9.0, None), ("b", 0.0, np.inf, "2"))
    record = TrainedOn(known.assign(part="train"), complete=True)
    found = record.overlap(clips(clip)).iloc[0]
    assert (found["clip"], found["speaker"]) == (seen, same_speaker)
    other = record.overlap(clips(clip).assign(corpus="ravdess")).iloc[0]
    assert (other["clip"], other["speaker"]) == (seen, seen and clip[3] is not None)
    assert not record.overlap(clips(clip), part="validation").any(axis=None)


@pytest.mark.parametrize("name", ["best", "last"])
def test_run_records_clips_speakers_and_classes(run, corpus, captions, name):
    record = load(run / name)
    table = read_corpus(corpus)
    splits = pd.read_parquet(captions)["split"].reindex(table.index)
    overlap = record.overlap(clips_of(table))
    assert record.complete and record.corpora == (table.attrs["name"],)
    assert (overlap["clip"].to_numpy() == splits.isin(["train", "dev"]).to_numpy()).all()
    assert (overlap["speaker"] == overlap["clip"]).all()
    parts = record.clips["part"].value_counts()
    assert (
        parts.to_dict() == splits.replace("dev", "validation").value_counts()[parts.index].to_dict()
    )


def test_copies_and_new_names_of_trained_files_are_found(run, corpus, tmp_path):
    shutil.copytree(corpus / "audio", tmp_path / "copy", dirs_exist_ok=True)
    copied = read_corpus(tmp_path / "copy")
    original = load(run).overlap(clips_of(read_corpus(corpus)))
    assert load(run).overlap(clips_of(copied))["clip"].sum() == original["clip"].sum() > 0
    wav = next((tmp_path / "copy").rglob("*.wav"))
    wav.write_bytes(wav.read_bytes()[:-2] + b"\1\1")
    assert load(run).overlap(clips_of(copied))["clip"].sum() >= original["clip"].sum() - 1


def test_models_without_a_record_are_unknown(run):
    (run / "best" / RECORD).unlink()
    record = load(run)
    assert record.clips is None and not record.complete and len(record.corpora) == 1


def test_speakers_of_tables_of_ones_own_are_compared_by_name_alone():
    own = {"corpus": None}
    known = clips(("a", 0.0, np.inf, "s1"), ("b", 0.0, np.inf, "s2")).assign(part="train")
    found = clips(("c", 0.0, np.inf, "S1"), ("d", 0.0, np.inf, "x"), ("b", 0.0, np.inf, "s2"))
    overlap = TrainedOn(known.assign(**own), complete=True).overlap(found.assign(**own))
    assert overlap["namesake"].tolist() == [True, False, False]
    assert overlap["speaker"].tolist() == [False, False, True]
    for left, right in ((known, found.assign(**own)), (known.assign(**own), found)):
        overlap = TrainedOn(left, complete=True).overlap(right)
        assert not overlap["namesake"].any() and overlap["speaker"].sum() == 1


# --- Evaluation ----------------------------------------------------------------------------------


@pytest.fixture
def labels(corpus, tmp_path):
    """Table of the labels of the small corpus without its splits, beside a copy of the audio."""
    shutil.copytree(corpus / "audio", tmp_path / "mine" / "audio")
    table = read_corpus(corpus)[["emotion", "speaker"]].reset_index()[
        ["file", "emotion", "speaker"]
    ]
    table.to_csv(tmp_path / "mine" / "labels.csv", index=False)
    return tmp_path / "mine" / "labels.csv"


@pytest.fixture
def scored(run, tmp_path, capsys):
    """Function that evaluates the run; returns scores of the only task, and what is printed."""

    def evaluate(*arguments, model=run):
        output = tmp_path / "scores"
        options = ["-o", str(output), "--device", "cpu", "--prompts", "sentence"]
        code = paraclap.cli.run(
            lambda: evaluate_cli.main([str(model), *map(str, arguments), *options]), "evaluate.py"
        )
        printed = capsys.readouterr()
        if code:
            return {}, printed.err
        document = yaml.safe_load((output / "scores.yaml").read_text())
        assert (output / "scores.md").read_text().count("| trained on |") == 1
        return next(iter(document["corpora"].values())), printed.out

    return evaluate


def test_scores_state_how_much_of_them_is_training_data(scored, labels):
    scores, printed = scored(labels)
    assert scores["clips"] == 72 and scores["split"] is None
    text = "48 of 72 clips, 4 of 6 speakers"
    assert scores["trained_on"] == {"clips": 48, "speakers": 4, "complete": True, "text": text}
    assert "trained or validated on 48 of 72 clips, 4 of 6 speakers; --unseen" in printed
    scores, printed = scored(labels, "--unseen")
    assert scores["clips"] == 24 and scores["trained_on"]["clips"] == 0
    assert "none" in printed and "--unseen" not in printed
    assert "48 clips of the training, or of its speakers, are left out" in printed


def test_classes_that_no_caption_describes_are_named(scored, labels):
    labels.write_text(labels.read_text().replace(",sadness", ",pride"))
    scores, printed = scored(labels)
    assert scores["untrained"] == ["pride"]
    recall = scores["recall"]
    others = np.mean([recall[label] for label in recall if label != "pride"])
    assert (
        "labels: no caption of the training describes pride; the mean recall of these classes is "
        f"{recall['pride']:.3f}, of the others {others:.3f}\n"
    ) in printed


def test_classes_that_the_installed_model_lacks_are_scored_and_reported_apart(scored, labels, tiny):
    """With prompts for all classes; the record is that of the model in the package."""
    model, processor = tiny
    model.config.provenance = read_object(PUBLISHED_MODEL / "config.json")["provenance"]
    for part in tiny:
        part.save_pretrained(labels.parent / "model")
    text = labels.read_text().replace(",sadness", ",contempt").replace(",fear", ",Verachtung")
    labels.write_text(text)
    scores, printed = scored(labels, model=labels.parent / "model")
    assert scores["untrained"] == ["contempt"] and scores["classes"] == 5
    assert scores["prompts"]["contempt"] == ["the speaker sounds contemptuous"]
    assert scores["support"]["contempt"] == 24 and scores["clips"] == 72
    assert "describes contempt; the mean recall of these classes is " in printed
    labels.write_text(re.sub(",contempt|,Verachtung", ",anger", text))
    scores, printed = scored(labels, model=labels.parent / "model")
    assert not scores["untrained"] and "mean recall" not in printed


@pytest.mark.parametrize(
    "arguments, clips, seen",
    [
        ([], 24, 0),
        (["--split", "train,dev,test"], 72, 48),
        (["--split", "train"], 24, 24),
        (["--speakers", "s01,s02,s03,s04,s05,s06"], 72, 48),
    ],
)
def test_the_test_split_is_scored_unless_rows_are_selected(scored, corpus, arguments, clips, seen):
    scores, printed = scored(corpus, *arguments)
    assert (scores["clips"], scores["trained_on"]["clips"]) == (clips, seen)
    assert ("only the test split is scored" in printed) == (not arguments)


def test_splits_can_be_those_of_the_captions(scored, labels, captions):
    scores, printed = scored(labels, "--split-from", captions)
    assert scores["clips"] == 24 and scores["trained_on"]["clips"] == 0
    assert "only the test split is scored" in printed
    scores, _ = scored(labels, "--split-from", captions, "--split", "dev")
    assert scores["trained_on"]["clips"] == scores["clips"] == 24


def test_speakers_are_seen_by_name_without_any_of_their_trained_clips(scored, run, corpus):
    record = load(run)
    known = record.clips[record.clips["part"] == "train"].groupby("speaker").head(1)
    record = TrainedOn(known, complete=True)
    record.save(run / "best")
    scores, _ = scored(corpus, "--split", "train")
    assert scores["trained_on"]["text"] == "2 of 24 clips, 2 of 2 speakers"
    assert "all 24 clips" in scored(corpus, "--split", "train", "--unseen")[1]


@pytest.fixture
def converted(labels):
    """The table of labels beside FLAC copies of its clips, of which no content is known."""
    for wav in labels.parent.rglob("*.wav"):
        soundfile.write(wav.with_suffix(".flac"), *soundfile.read(wav, dtype="int16"))
        wav.unlink()
    path = labels.with_name("converted.csv")
    path.write_text(labels.read_text().replace(".wav", ".flac"))
    return path


@pytest.mark.parametrize("name", ["", "mine="])
def test_speakers_of_another_table_are_seen_by_name(scored, converted, name):
    scores, printed = scored(f"{name}{converted}")
    text = "0 of 72 clips, 4 of 6 speakers by name"
    assert scores["trained_on"] == {"clips": 0, "speakers": 4, "complete": True, "text": text}
    assert f"{text}; --unseen" in printed
    scores, _ = scored(f"{name}{converted}", "--unseen")
    assert scores["clips"] == 24 and scores["trained_on"]["text"] == "none"


def test_one_trained_clip_leaves_the_other_speakers_by_name(scored, run, labels):
    known = load(run).clips
    TrainedOn(known.assign(hash=known["hash"].where(known.index == 0)), True).save(run / "best")
    assert scored(labels)[0]["trained_on"]["text"] == (
        "1 of 72 clips, 4 of 6 speakers, 3 of them by name"
    )


def test_unknown_speakers_are_not_called_unseen(scored, run, converted):
    pd.read_csv(converted).drop(columns="speaker").to_csv(converted, index=False)
    text = "at least 0 of 72 clips; speakers are unknown"
    assert scored(converted)[0]["trained_on"]["text"] == text


@pytest.mark.parametrize("fault", ["missing", "incomplete", "no splits", "no clips", "damaged"])
def test_unknown_training_is_stated_and_impossible_selections_are_refused(
    scored, run, labels, captions, tmp_path, fault
):
    table = pd.read_parquet(captions)
    if fault == "missing":
        (run / "best" / RECORD).unlink()
        scores, printed = scored(labels)
        assert scores["trained_on"]["text"] == "unknown"
        assert "no complete record" in printed and "corpora: paraclap-synthetic" in printed
        assert "needs the record of the training clips" in scored(labels, "--unseen")[1]
    elif fault == "incomplete":
        TrainedOn(load(run).clips, complete=False).save(run / "best")
        assert "at least 48 of 72 clips" in scored(labels)[1]
    elif fault == "no splits":
        table.drop(columns="split").to_parquet(tmp_path / "x.parquet")
        assert "has no column split" in scored(labels, "--split-from", tmp_path / "x.parquet")[1]
    elif fault == "no clips":
        table[:0].to_parquet(tmp_path / "x.parquet")
        assert "none of the 72 clips" in scored(labels, "--split-from", tmp_path / "x.parquet")[1]
    else:
        content = bytearray((run / "best" / RECORD).read_bytes())
        content[len(content) // 4] ^= 255
        (run / "best" / RECORD).write_bytes(content)
        assert f"{RECORD} cannot be read" in scored(labels)[1]


# --- Fine-tuning ---------------------------------------------------------------------------------


@pytest.fixture
def fine_tuning(config, run, tmp_path):
    """Function that fine-tunes the run for a step; returns the trainer."""

    def train(*arguments, start=run):
        steps = ["train.max_steps=1", f"output={tmp_path / 'tuned'}"]
        settings = yaml.safe_load(Path(config).read_text())
        del settings["model"]
        (tmp_path / "tuning.yaml").write_text(yaml.safe_dump(settings))
        given = [tmp_path / "tuning.yaml", f"model.start={start}", *steps, *arguments]
        return loop.train(read_settings([str(argument) for argument in given]))

    return train


def test_fine_tuning_is_not_validated_on_speakers_that_the_start_was_trained_on(
    fine_tuning, captions, corpus, tmp_path
):
    table = pd.read_parquet(captions)
    trained = sorted(table["speaker"][table["split"] == "train"].unique())
    table.drop(columns="split").to_parquet(tmp_path / "all.parquet")
    every = f"data.captions={tmp_path / 'all.parquet'}"
    with pytest.raises(SettingsError, match="trained on 2 of the 6 speakers; set .*speakers=4"):
        fine_tuning(every, "data.validation_speakers=5")
    for seed in range(3):
        shutil.rmtree(tmp_path / "tuned", ignore_errors=True)
        run = fine_tuning(every, "data.validation_speakers=2", f"train.seed={seed}")
        validated = run.data.validation_table["speaker"].unique()
        assert len(validated) == 2 and not set(validated) & set(trained)
    record = load(tmp_path / "tuned")
    overlap = record.overlap(clips_of(read_corpus(corpus)))
    assert record.complete and overlap["clip"].sum() == 72, "those of the start are included"
    (tmp_path / "tuned").rename(tmp_path / "start")
    with pytest.raises(SettingsError, match="trained on 4 of the 6"):
        fine_tuning(every, "data.validation_speakers=3", start=tmp_path / "start")


def test_validation_clips_of_the_start_are_left_out(fine_tuning, captions, tmp_path):
    table = pd.read_parquet(captions)
    swapped = {"train": "dev", "dev": "train"}
    table["split"] = table["split"].replace(swapped)
    table.to_parquet(tmp_path / "swapped.parquet")
    with pytest.raises(SettingsError, match="trained on all 24 validation clips"):
        fine_tuning(f"data.captions={tmp_path / 'swapped.parquet'}")
    some = sorted(table["speaker"][table["split"] == "test"].unique())[:1]
    table.loc[table["speaker"].isin(some), "split"] = "dev"
    table.to_parquet(tmp_path / "mixed.parquet")
    with pytest.warns(UserWarning, match="24 of 36 validation clips are left out"):
        run = fine_tuning(f"data.captions={tmp_path / 'mixed.parquet'}")
    assert set(run.data.validation_table["speaker"]) == set(some)


@pytest.fixture
def flac_captions(captions, converted):
    """The table of captions, and settings, of FLAC copies of the clips."""
    table = pd.read_parquet(captions)
    files = table.index.levels[0].str.replace(".wav", ".flac")
    path = converted.with_name("flac.parquet")
    arguments = [f"data.captions={path}", f"data.root={converted.parent}"]
    return table.set_axis(table.index.set_levels(files, level=0)), path, arguments


def test_validation_on_namesakes_of_trained_speakers_is_stated(fine_tuning, flac_captions):
    table, path, arguments = flac_captions
    table["split"] = table["split"].replace({"train": "dev", "dev": "train"})
    table.to_parquet(path)
    with pytest.warns(UserWarning, match="same names as s0., s0.; .* are too high"):
        run = fine_tuning(*arguments)
    assert len(run.data.validation_table) == 24


def test_held_out_speakers_are_no_namesakes_of_trained_ones_if_there_are_others(
    fine_tuning, flac_captions, tmp_path
):
    table, path, arguments = flac_captions
    trained = set(table["speaker"][table["split"] == "train"])
    table.drop(columns="split").to_parquet(path)
    for number in (2, 4, 5):
        shutil.rmtree(tmp_path / "tuned", ignore_errors=True)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run = fine_tuning(*arguments, f"data.validation_speakers={number}")
        shared = trained & set(run.data.validation_table["speaker"])
        assert bool(shared) == (number == 5)
        assert any("same names" in str(warning.message) for warning in caught) == bool(shared)


def test_start_without_a_record_is_stated(fine_tuning, run, tmp_path):
    (run / "best" / RECORD).unlink()
    with pytest.warns(UserWarning, match="no complete record of its training clips"):
        fine_tuning()
    assert not load(tmp_path / "tuned").complete


# --- Publishing ----------------------------------------------------------------------------------


def published(source, output, *arguments):
    """Publish a model; returns the text of its card."""
    assert models_cli.main(["publish", str(source), str(output), *map(str, arguments)]) == 0
    return (output / "README.md").read_text()


def test_scores_of_another_model_are_not_published(scored, run, labels, model_folder, tmp_path):
    scored(labels)
    scores = tmp_path / "scores" / "scores.yaml"
    text = published(run, tmp_path / "out", "--scores", scores)
    assert "| 48 of 72 clips, 4 of 6 speakers |" in text
    for source in (model_folder, run / "last"):
        if source == run / "last":  # equal to best/ after so few steps
            weights = load_file(source / "model.safetensors")
            weights["logit_scale"] += 1
            save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
            (source / "SHA256SUMS").unlink()
        with pytest.raises(ModelError, match="those of other weights, of the model"):
            published(source, tmp_path / "other", "--scores", scores)
    document = yaml.safe_load(scores.read_text())
    scores.write_text(yaml.safe_dump({**document, "weights": None}))
    with pytest.raises(ModelError, match="no hash of the evaluated weights"):
        published(run, tmp_path / "other", "--scores", scores)
    assert not (tmp_path / "other").exists()


def test_published_folders_have_no_names_of_speakers(run, scored, labels, tmp_path):
    text = published(run, tmp_path / "plain")
    assert not (tmp_path / "plain" / RECORD).exists() and "speakers: 2" in text
    assert scored(labels, model=tmp_path / "plain")[0]["trained_on"]["text"] == "unknown"
    published(run, tmp_path / "full", "--with-record")
    assert load(tmp_path / "full").clips["speaker"].isna().all()
    scores, _ = scored(labels, model=tmp_path / "full")
    text = "at least 48 of 72 clips, 4 of 6 speakers; not all speakers are recorded"
    assert scores["trained_on"]["text"] == text
    with pytest.raises(ModelError, match="no record"):
        published(tmp_path / "plain", tmp_path / "again", "--with-record")


def test_other_clips_of_speakers_without_names_are_not_called_unseen(
    fine_tuning, run, scored, converted, tmp_path
):
    published(run, tmp_path / "full", "--with-record")
    scores, _ = scored(converted, model=tmp_path / "full")
    text = "at least 0 of 72 clips, 0 of 6 speakers; not all speakers are recorded"
    assert scores["trained_on"]["text"] == text
    with pytest.warns(UserWarning, match="no complete record of its training clips and speakers"):
        fine_tuning("data.validation_split=test", start=tmp_path / "full")


# --- Untrained prompts ---------------------------------------------------------------------------

EMOTIONS = {name: ["emotion", *words] for name, words in {
    "anger": ["anger", "angry"], "fear": ["fear", "fearful"], "happiness": ["happiness", "happy"],
}.items()}  # fmt: skip
LEVELS = {level: ["pitch", level] for level in ("low", "normal", "high")}


@pytest.mark.parametrize(
    "prompt, trained",
    [
        ("angry", True),
        ("the speaker sounds angry", True),
        ("an angry, tearful voice", True),
        ("emotion is anger", True),
        ("pitch is high", True),
        ("a person is speaking", True),
        ("calm", False),
        ("emotion is calm", False),
        ("the speaker sounds calm", False),
        ("gender: female", False),
        ("female", False),
        ("jitter is high", False),
        ("a tearful voice", False),
        ("生气", False),
    ],
)
def test_prompts_about_nothing_in_the_captions_are_untrained(prompt, trained):
    provenance = {"attributes": {"emotion": EMOTIONS, "pitch": LEVELS}}
    config = SimpleNamespace(provenance=provenance)
    assert untrained(config, [prompt]) == ([] if trained else [prompt])
    fine_tuned = {"attributes": {"pitch": LEVELS}, "before": {"attributes": {"emotion": EMOTIONS}}}
    config = SimpleNamespace(provenance=fine_tuned)
    assert untrained(config, {"name": (prompt,)}) == ([] if trained else ["name"])
    for unknown in (None, {}, {"attributes": {"pitch": LEVELS}, "before": {}}):
        assert untrained(SimpleNamespace(provenance=unknown), [prompt]) == []


def test_prompts_in_the_words_of_free_captions_are_trained():
    provenance = {"attributes": {"emotion": EMOTIONS}, "free_words": ["calm", "man", "weeps"]}
    config = SimpleNamespace(provenance={"attributes": {}, "before": provenance})
    prompts = ["a calm man", "a calm woman", "angry", "she weeps", "an angry robot"]
    assert untrained(config, prompts) == ["a calm woman", "she weeps"]


@pytest.mark.parametrize("target, label, described", [
    ("emotion", "disgust", "disgust"),
    ("emotion", "disgusted", "disgust"),
    ("emotion", "disgust", "Disgusted"),
    ("emotion", "calm", "calm"),
    ("emotion", "calmness", "calm"),
    ("gender", "female", "female"),
    ("arousal", "low", "low"),
])  # fmt: skip
@pytest.mark.parametrize("prompt_set", PROMPT_SETS)
def test_a_described_class_is_trained_with_any_prompt(target, label, described, prompt_set):
    """Captions "expresses disgust" describe the class of the prompt "disgusted"."""
    attributes = {target: {described: sorted(words_of(described))}, "pitch": LEVELS}
    config = SimpleNamespace(provenance={"attributes": attributes})
    prompts = {
        name: class_prompts(name, target, prompt_set) for name in (label, "proud and contented")
    }
    assert label not in untrained_classes(config, target, prompts)
    if target != "arousal":
        config.provenance["attributes"][target] = {}
        assert label in untrained_classes(config, target, prompts)


def test_published_weights_are_trained_on_what_the_paper_describes():
    prompts = descriptor_prompts() | {"valence": {"low": ("valence is low",)}}
    config = ParaCLAPConfig(**PUBLISHED_CONFIG)
    found = {name: untrained(config, classes) for name, classes in prompts.items()}
    emotions = found.pop("emotion")
    assert {name for name, classes in found.items() if classes} == {"loudness"}
    assert {"calm", "bored", "confused"} <= set(emotions)
    assert not {"angry", "happy", "neutral", "sad", "surprised"} & set(emotions)


def test_run_marks_emotions_that_its_corpus_lacks(run, tmp_path):
    config = ParaCLAPConfig.from_pretrained(run / "best")
    words = class_words("emotion")
    known = {d: set(values) for d, values in trained_attributes(config.provenance).items()}
    prompts = {name: class_prompts(name, "emotion", "ensemble") for name in words}
    left = set(prompts) - set(untrained(config, prompts))
    assert known["emotion"] <= left and known["gender"] == {"female", "male"}
    assert "calm" not in left and "proud" not in left


QUERIES = ["angry", "calm"]


@pytest.fixture
def partly_trained(tiny):
    """A model whose captions had EMOTIONS and no other classes or levels."""
    tiny[0].config.provenance = {"attributes": {"emotion": EMOTIONS}}
    return ParaCLAP(*tiny)


@pytest.fixture
def partly_trained_folder(partly_trained, tmp_path):
    for part in (partly_trained.model, partly_trained.processor):
        part.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("prompts", [QUERIES, {"anger": ["angry", "rage"], "calm": ["calm"]}])
def test_classifier_names_untrained_prompts(partly_trained, prompts):
    assert partly_trained.classifier(prompts, "the speaker sounds {}").untrained == ("calm",)


def test_predict_marks_untrained_prompts(partly_trained_folder, corpus, capsys):
    clip = sorted(corpus.rglob("*.wav"))[0]
    arguments = [str(partly_trained_folder), str(clip), "--prompts", *QUERIES]
    assert predict.main([*arguments, "--format", "jsonl"]) == 0
    printed = capsys.readouterr()
    prompts = json.loads(printed.out)["prompts"]
    assert {name: prompt["trained"] for name, prompt in prompts.items()} == {
        "angry": True, "calm": False
    }  # fmt: skip
    assert "predict.py: not trained: calm (no caption" in printed.err


def test_csv_of_predict_marks_untrained_prompts(partly_trained_folder, corpus, tmp_path):
    clip = sorted(corpus.rglob("*.wav"))[0]
    arguments = [str(partly_trained_folder), str(clip), str(tmp_path / "no.wav")]
    output = tmp_path / "scores.csv"
    assert predict.main([*arguments, "--prompts", *QUERIES, "-o", str(output)]) == 1
    table = pd.read_csv(output)
    assert table["trained.angry"].all() and not table["trained.calm"].any() and len(table) == 2


def test_description_has_the_classes_of_the_training(partly_trained, corpus, captions):
    clip = sorted(corpus.rglob("*.wav"))[0]
    found = partly_trained.describe(clip, captions.with_name("captions.edges.json"))
    assert found.table.loc["emotion", "prediction"] in EMOTIONS
    assert dict(found.table["trained"]) == {name: name == "emotion" for name in found.table.index}
    assert "male" in str(found) and "(not trained)" in str(found).splitlines()[-1]


def test_search_marks_untrained_queries(partly_trained_folder, corpus, tmp_path, capsys):
    index, hits, page = (str(tmp_path / name) for name in ("i", "hits.csv", "hits.html"))
    clip = str(sorted(corpus.rglob("*.wav"))[0])
    assert search.main(["index", str(partly_trained_folder), clip, "-o", index]) == 0
    search.main(["query", index, *QUERIES, "--like", clip, "-o", hits, "--page", page])
    table = pd.read_csv(hits).set_index("query")
    assert table["trained"].tolist() == [True, False, True]
    assert "calm (not trained: no caption" in capsys.readouterr().out
    assert (tmp_path / "hits.html").read_text().count("not trained") == 1


def test_page_marks_untrained_prompts(partly_trained, corpus):
    clip = sorted(corpus.rglob("*.wav"))[0]
    assert Analyzer(partly_trained).analyze(clip, "\n".join(QUERIES)).untrained == ("calm",)
