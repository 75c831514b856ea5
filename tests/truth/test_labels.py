"""Respelled labels, genders, speakers and splits give the figures of clean ones."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import yaml
from training_runs import rows as metric_rows

from corpus_files import message_of, touch, warnings_of, write
from paraclap.captions.sources import encode
from paraclap.captions.templates import InputError
from paraclap.cli import evaluate, features, predict, template_creation
from paraclap.corpora import CorpusError
from paraclap.corpora.labels import normal_label, normalise_labels
from paraclap.corpora.table import read_corpus, scored_classes
from paraclap.evaluation.prompts import PromptError, prompts_for
from paraclap.evaluation.tasks import ZeroShotTask, task_prompts
from paraclap.inference.api import ParaCLAP
from paraclap.training import loop
from paraclap.training.config import read_settings
from paraclap.training.trainer import Trainer

EMOTIONS = ["anger", "sadness", "fear", "neutral"]


def read_rows(folder, rows, **options):
    """Return the corpus table of rows of labels with one file each, and its warnings."""
    table = pd.DataFrame(rows)
    table.insert(0, "file", [f"{number:02d}.wav" for number in range(len(table))])
    touch(folder, *table["file"])
    table.to_csv(folder / "labels.csv", index=False)
    return warnings_of(read_corpus, folder / "labels.csv", **options)


# --- Emotions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "respelled",
    ["anger ", " anger", "Anger", "ANGER", "angry", "Angry", "an\u200bger", "\u00a0anger"],
)
def test_respelled_emotions_are_the_class_of_the_others(tmp_path, respelled):
    clean = EMOTIONS * 3
    written = [respelled, *clean[1:]]
    table, warned = read_rows(tmp_path, {"emotion": written})
    assert scored_classes(table).tolist() == clean
    assert len(warned) == 1 and "-> anger (1)" in warned[0]


@pytest.mark.parametrize(
    ("words", "emotions"),
    [
        ("Ärger Wut Langeweile Ekel Angst", "anger anger boredom disgust fear"),
        ("Freude Trauer Überraschung neutral", "happiness sadness surprise neutral"),
        ("rabbia disgusto paura gioia", "anger disgust fear happiness"),
        ("neutro tristezza sorpresa", "neutral sadness surprise"),
        ("Colère Dégoût Peur Joie", "anger disgust fear happiness"),
        ("Neutre Tristesse Surprise", "neutral sadness surprise"),
        ("ira asco miedo alegría", "anger disgust fear happiness"),
        ("neutro tristeza sorpresa", "neutral sadness surprise"),
        ("złość strach radość", "anger fear happiness"),
        ("neutralny smutek zaskoczenie", "neutral sadness surprise"),
        ("gussa khushi udasi neutral", "anger happiness sadness neutral"),
        (
            "COLERE Uberraschung Ueberraschung zlosc A\u0308rger",
            "anger surprise surprise anger anger",
        ),
        ("lęk tremore Unruhe", "lęk tremore unruhe"),  # ambiguous, or no emotion
    ],
)
def test_words_of_other_languages_are_the_english_emotion(words, emotions):
    assert [normal_label("emotion", word) for word in words.split()] == emotions.split()


def test_words_of_two_languages_are_one_class(tmp_path):
    table, (warned,) = read_rows(tmp_path, {"emotion": ["Wut", "angry", "Ärger", "sad", "sad"]})
    assert table["emotion"].tolist() == ["anger"] * 3 + ["sad"] * 2
    assert "emotion 'Wut' -> anger (1)" in warned
    (tmp_path / "p.yaml").write_text("Wut: an outburst\nTrauer: tears\n", encoding="utf-8")
    assert list(prompts_for(table, "emotion", str(tmp_path / "p.yaml"))) == ["anger", "sad"]


@pytest.mark.parametrize("column", ["emotion", "style"])  # also a column without a vocabulary
def test_spellings_of_a_class_are_one_class(tmp_path, column):
    table, _ = read_rows(tmp_path, {column: ["whispered", "Whispered", "whispered ", "loud"]})
    assert scored_classes(table, column).tolist() == ["whispered"] * 3 + ["loud"]


def test_corpora_in_one_table_keep_their_own_words():
    table = pd.DataFrame({"emotion": ["angry", "anger", "anger"], "corpus": ["a", "b", "b"]})
    assert normalise_labels(table)["emotion"].tolist() == ["angry", "anger", "anger"]


def test_unknown_emotions_are_kept_for_the_check_of_prompts():
    assert [normal_label("emotion", label) for label in ("Ang", "scared!", 0)] == [
        *("ang", "scared!", "0")
    ]


def test_lists_of_labels_are_an_error(tmp_path):
    touch(tmp_path, "a.wav")
    pd.DataFrame({"file": ["a.wav"], "emotion": [["anger", "fear"]]}).to_parquet(
        tmp_path / "labels.parquet"
    )
    assert "expected one label per row" in message_of(tmp_path / "labels.parquet")
    rows = '{"file": "a.wav", "style": ["a", "b"]}\n'
    table = read_corpus(write(tmp_path, "labels.jsonl", rows))
    with pytest.raises(ValueError, match="one label per row"):
        scored_classes(table, "style")


def test_bytes_are_labels_if_they_are_utf_8(tmp_path):
    path = tmp_path / "labels.parquet"
    touch(tmp_path, "ä.wav")
    for bad in ("file", "emotion", "style"):
        row = {"file": "ä.wav".encode(), "emotion": b"angry", "style": b"loud"}
        pd.DataFrame([row]).to_parquet(path)
        table = read_corpus(path)
        assert table["emotion"].tolist() == scored_classes(table).tolist() == ["angry"]
        assert encode(pa.array([b"angry"]))[1] == ["angry"]
        pd.DataFrame([row | {bad: b"\xe4"}]).to_parquet(path)
        with pytest.raises(CorpusError, match=rf"{bad} holds b'\\xe4', expected text in UTF-8"):
            scored_classes(read_corpus(path), bad)
    with pytest.raises(InputError, match="expected text in UTF-8"):
        encode(pa.array([b"\xe4"]))


@pytest.mark.parametrize("kind, first", [("uint64", 2**63), ("Int64", -(2**62)), ("float64", 1e17)])
def test_numbers_that_are_not_exact_are_no_levels(tmp_path, kind, first):
    touch(tmp_path, *(f"{row}.wav" for row in range(9)))
    rows = {"file": [f"{row}.wav" for row in range(9)]}
    rows["uid"] = pd.Series(range(9), dtype=kind) + first
    pd.DataFrame(rows).to_parquet(tmp_path / "labels.parquet")
    with pytest.raises(CorpusError, match=r"uid has numbers beyond 2\^53"):
        scored_classes(read_corpus(tmp_path / "labels.parquet"), "uid")


# --- Genders -------------------------------------------------------------------------------------

WORDS = [
    *(("F", "M"), ("female ", " MALE"), ("woman", "man"), ("w", "m"), ("Frau", "Mann")),
    *(("weiblich", "männlich"), ("mujer", "hombre"), ("M", "H"), ("femme", "homme"), ("F", "H")),
    *(("donna", "uomo"), ("kobieta", "mężczyzna"), ("K", "M"), ("女", "男"), ("여성", "남성")),
    *(("\uff26", "\uff2d"), ("♀", "♂"), ("fem", "masc."), ("weibl.", "männl.")),
    *(("женский", "мужской"), ("Ж", "М"), ("महिला", "पुरुष"), ("أنثى", "ذكر")),
]


@pytest.mark.parametrize("female, male", WORDS)
def test_words_for_gender_are_female_and_male(tmp_path, female, male):
    table, warned = read_rows(tmp_path, {"gender": [female, male] * 4})
    assert table["gender"].tolist() == ["female", "male"] * 4
    assert len(warned) == 1 and "gender" in warned[0]


def test_other_genders_are_kept(tmp_path):
    table, _ = read_rows(tmp_path, {"gender": ["female", "Non-Binary", "girl", "unknown", "0"]})
    assert table["gender"].fillna("").tolist() == ["female", "non-binary", "girl", "", "0"]


# --- Speakers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("respelled", ["s01 ", " s01", "S01", "s01\u200b"])
def test_a_respelled_speaker_is_one_speaker(tmp_path, respelled):
    table, warned = read_rows(tmp_path, {"speaker": ["s01", "s01", respelled, "s02"]})
    assert table["speaker"].tolist() == ["s01"] * 3 + ["s02"]
    assert "-> s01 (1)" in warned[0]


def test_large_numbers_of_speakers_are_exact(tmp_path):
    touch(tmp_path, "a.wav", "b.wav", "c.wav")
    speakers = pa.array([2**63 + 1, 2**63 + 2, None], pa.uint64())
    rows = pa.table({"file": ["a.wav", "b.wav", "c.wav"], "speaker": speakers})
    pq.write_table(rows, tmp_path / "labels.parquet")
    table = read_corpus(tmp_path / "labels.parquet")
    assert table["speaker"].tolist()[:2] == [str(2**63 + 1), str(2**63 + 2)]
    assert table["speaker"].isna().tolist() == [False, False, True]


# --- Missing labels ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "word",
    ["N/A", "nan", "unknown", "None", "-", "?", "Not available", "NA"]
    + [
        "unbekannt",
        "not annotated",
        "nil",
        "???",
        "<unk>",
        "[unk]",
        "未知",
        "неизвестно",
        "inconnu",
    ]
    + ["desconocido", "sconosciuto", "(Unknown)", "…"],
)
@pytest.mark.parametrize("column", ["emotion", "gender", "speaker", "style"])
def test_words_for_no_label_are_missing(tmp_path, word, column):
    table, _ = read_rows(tmp_path, {column: ["female", word, f" {word.upper()} ", "male"]})
    assert scored_classes(table, column).isna().tolist() == [False, True, True, False]


@pytest.mark.parametrize("word", ["N/A", "nan", "unknown", "-"])
def test_words_for_no_label_are_missing_numbers(tmp_path, word):
    table, _ = read_rows(tmp_path, {"arousal": ["0.5", word, "0,7"]})
    assert table["arousal"].fillna(-1).tolist() == [0.5, -1, 0.7]


def test_infinite_numbers_are_missing_and_counted(tmp_path):
    table, warned = read_rows(
        tmp_path, {"arousal": ["0.5", "inf", "-inf", ""], "age": [1, 2, 3, 4]}
    )
    assert table["arousal"].fillna(-1).tolist() == [0.5, -1, -1, -1]
    assert len(warned) == 1 and "arousal 'inf' -> missing (2)" in warned[0]


@pytest.mark.parametrize(
    "column, values, named",
    [
        ("arousal", [0.2, 0.5, -999, -999], "arousal -999 (2)"),
        ("valence", [1, 7, 3, 99], "valence 99 (1)"),
        ("age", [25, 61, -1, -1], "age -1 (2)"),
        ("age", [25, 61, 99, 71], None),
        ("dominance", [-99, 99, 60, -80], None),
        ("valence", [-1, 0, 1, 1], None),
    ],
)
def test_numbers_that_may_mean_missing_are_named(tmp_path, column, values, named):
    _, warned = read_rows(tmp_path, {column: values})
    assert len(warned) == (named is not None)
    assert named is None or warned[0].endswith(f"missing values: {named}")


def test_changes_are_counted_in_one_line(tmp_path):
    rows = {"emotion": ["Anger", "anger ", "anger", "N/A"], "gender": ["F", "F", "M", "female"]}
    _, warned = read_rows(tmp_path, rows)
    assert len(warned) == 1
    for part in ("'Anger' -> anger (1)", "'N/A' -> missing (1)", "gender 'F' -> female (2)"):
        assert part in warned[0]


def test_changes_of_one_column_do_not_hide_those_of_another(tmp_path):
    emotions = ["Anger", "Joy", "Fear", "Sadness", "Boredom", "Disgust", "Neutral"]
    _, (warned,) = read_rows(tmp_path, {"emotion": emotions, "gender": ["F"] * 7})
    assert "4 more of emotion" in warned and "gender 'F' -> female (7)" in warned


def test_clean_labels_are_not_reported(tmp_path):
    rows = {"emotion": EMOTIONS, "gender": ["female", "male"] * 2, "split": ["train"] * 4}
    assert read_rows(tmp_path, rows)[1] == []


# --- Renamed columns -----------------------------------------------------------------------------


def test_columns_are_renamed(tmp_path):
    touch(tmp_path, "a.wav")
    path = write(tmp_path, "labels.csv", "path,label,spk\na.wav,anger,s01\n")
    columns = {"file": "path", "emotion": "label", "speaker": "spk"}
    table, warned = warnings_of(read_corpus, path, columns=columns)
    assert table.columns.tolist() == ["emotion", "speaker"] and not warned
    assert table.index[0][0] == "a.wav"


def test_case_and_blanks_of_column_names_do_not_matter(tmp_path):
    touch(tmp_path, "a.wav")
    path = write(tmp_path, "labels.csv", "File, Emotion,SPEAKER \na.wav,anger,s01\n")
    table, warned = warnings_of(read_corpus, path)
    assert table.columns.tolist() == ["emotion", "speaker"] and not warned
    write(tmp_path, "labels.csv", "file,emotion,Emotion \na.wav,anger,fear\n")
    assert "the column emotion occurs twice" in message_of(path)


def test_unused_columns_are_named_with_a_suggestion(tmp_path):
    _, warned = read_rows(tmp_path, {"Label": EMOTIONS, "spk_id": list("abcd"), "note": EMOTIONS})
    assert len(warned) == 1
    assert "--column emotion=Label" in warned[0] and "--column speaker=spk_id" in warned[0]
    assert "note" not in warned[0]
    _, warned = read_rows(tmp_path, {"emotion": EMOTIONS, "label": EMOTIONS})
    assert not warned


@pytest.mark.parametrize(
    "name, meant",
    [
        *(("start_ms", "start"), ("end_ms", "end"), ("onset_ms", "start"), ("EndTime", "end")),
        *(("speaker_name", "speaker"), ("speakerName", "speaker"), ("gender_label", "gender")),
        *(("speaker_gender", "gender"), ("SPLIT_2", "split"), ("mean arousal", "arousal")),
    ],
)
def test_columns_named_with_a_known_word_are_suggested(tmp_path, name, meant):
    _, warned = read_rows(tmp_path, {name: EMOTIONS})
    unit = " in seconds" if meant in ("start", "end") else ""
    assert len(warned) == 1
    assert warned[0].endswith(f" {name} (--column {meant}={name}, if it is the {meant}{unit})")


@pytest.mark.parametrize("name", ["trend", "bookend", "agenda", "duration", "restart", "语速"])
def test_other_columns_are_not_suggested(tmp_path, name):
    assert not read_rows(tmp_path, {name: EMOTIONS})[1]


def test_durations_of_segments_are_not_ignored_silently(tmp_path):
    _, warned = read_rows(tmp_path, {"start": [0, 1, 2, 3], "duration": [1, 1, 1, 1]})
    assert len(warned) == 1 and "duration (expected a column end, start + duration)" in warned[0]


@pytest.mark.parametrize("options", [{"root": "/x"}, {"columns": {"emotion": "label"}}])
def test_options_of_tables_are_not_ignored_silently(tmp_path, options):
    touch(tmp_path, "a.wav")
    _, warned = warnings_of(read_corpus, tmp_path, **options)
    assert warned == [f"{tmp_path} is no table, --root and --column do not apply"]


@pytest.mark.parametrize(
    "columns, part",
    [
        ({"emotion": "labels"}, "has no column labels, its columns are file, label"),
        ({"file": "label"}, "has a column file"),
    ],
)
def test_impossible_renaming_is_an_error(tmp_path, columns, part):
    with pytest.raises(ValueError, match=part):
        read_rows(tmp_path, {"label": EMOTIONS}, columns=columns)


# --- Classes of prompt files ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "target, labels, keys",
    [
        ("emotion", ["angry", "sadness"], ["Anger", "sad"]),
        ("emotion", ["angry", "sadness"], [" ANGRY ", "sadness"]),
        ("gender", ["female", "male"], ["F", "Mann"]),
        ("style", ["whispered", "loud_voice"], ["Whispered", "Loud voice"]),
        ("arousal", ["low", "high"], ["Low", "HIGH"]),
    ],
)
def test_classes_of_prompt_files_are_the_labels(tmp_path, target, labels, keys):
    lines = [f'"{key}": prompt {number}' for number, key in enumerate(keys)]
    path = write(tmp_path, "mine.yaml", "\n".join(lines))
    values = range(8) if target == "arousal" else labels * 4
    table, _ = read_rows(tmp_path, {target: values})
    prompts = prompts_for(table, target, str(path))
    assert prompts == {labels[0]: ("prompt 0",), labels[1]: ("prompt 1",)}


@pytest.mark.parametrize("keys", ["Angry anger sad", "joyful sad Joyful", "joy sad joyful"])
def test_two_classes_of_a_prompt_file_that_are_one_label_are_an_error(tmp_path, keys):
    lines = [f"{key}: prompt {number}" for number, key in enumerate(keys.split())]
    path = write(tmp_path, "mine.yaml", "\n".join(lines))
    table, _ = read_rows(tmp_path, {"emotion": ["anger", "sadness"]})
    with pytest.raises(PromptError, match="are both the label"):
        prompts_for(table, "emotion", str(path))


def test_prompts_for_one_of_several_labels_are_an_error(tmp_path):
    path = write(tmp_path, "mine.yaml", "anger: angry\nboredom: bored\n")
    table, _ = read_rows(tmp_path, {"emotion": EMOTIONS})
    with pytest.raises(PromptError, match="a prompt only for anger, expected"):
        task_prompts(table, ZeroShotTask("labels", "emotion", str(path)))
    table, _ = read_rows(tmp_path, {"emotion": ["anger"] * 4})
    assert len(task_prompts(table, ZeroShotTask("labels", "emotion", str(path)))) == 2


# --- Equal prompts -------------------------------------------------------------------------------


def in_training(model_folder, config, prompts, tmp_path):
    lines = [f"{emotion}: {text}" for emotion, text in zip(EMOTIONS, prompts, strict=False)]
    (tmp_path / "mine.yaml").write_text("\n".join(lines))
    Trainer(read_settings([config, f"train.prompts={tmp_path / 'mine.yaml'}"]))


def in_python(model_folder, config, prompts, tmp_path):
    ParaCLAP.from_pretrained(model_folder).classifier(prompts)


def in_predict(model_folder, config, prompts, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.linspace(-0.5, 0.5, 16_000), 16_000)
    predict.main([str(model_folder), str(tmp_path / "a.wav"), "--prompts", *prompts])


@pytest.mark.parametrize("entry", [in_training, in_python, in_predict])
@pytest.mark.parametrize("prompts", [("angry", "Angry"), ("\u6124\u6012", "\u60b2\u4f24")])
def test_prompts_of_equal_tokens_are_refused(entry, model_folder, config, prompts, tmp_path):
    with pytest.raises(PromptError, match="which are the same tokens"):
        entry(model_folder, config, prompts, tmp_path)


@pytest.mark.parametrize("entry", [in_training, in_python, in_predict])
def test_prompts_without_any_token_are_named(entry, model_folder, config, tmp_path):
    with pytest.warns(UserWarning, match="has no tokens for '\u60b2\u4f24'"):
        entry(model_folder, config, ("angry", "\u60b2\u4f24"), tmp_path)


# --- The whole path ------------------------------------------------------------------------------

DATA = Path(os.environ.get("PARACLAP_DATA", Path(__file__).resolve().parents[2] / "../shared/data"))


def written_rows(folder, rows):
    """Write a table of labels; its name and folder of the audio are the same in all folders."""
    folder.mkdir()
    rows.to_csv(folder / "labels.csv", index=False)
    return [str(folder / "labels.csv"), "--root", str(DATA / "ravdess")]


def respelled(rows):
    """Respell a third of three emotions, of a gender, of a speaker and of the splits."""
    rows, new = (
        rows.copy(),
        {"emotion": {"anger": "Angry ", "sadness": "SADNESS", "fear": "scared"}},
    )
    new |= {"gender": {"female": "F"}, "speaker": {"03": " 03"}}
    new |= {"split": {"train": "Training", "dev": "validation", "test": "TEST"}}
    for column, words in new.items():
        for old, word in words.items():
            chosen = rows.index[rows[column] == old][::3]
            rows.loc[chosen, column] = word
    return rows


@pytest.mark.slow  # features, captions, training and evaluation of 256 recordings, twice
def test_respelled_ravdess_gives_the_bits_of_the_clean_table(config, tmp_path):
    if not (DATA / "ravdess").is_dir():
        pytest.skip(f"{DATA / 'ravdess'} does not exist (set PARACLAP_DATA)")
    rows = pd.read_csv(DATA / "ravdess.csv", dtype=str)
    rows = rows[rows["speaker"].isin([f"{n:02d}" for n in range(1, 9)]) & (rows["text_id"] == "1")]
    rows = rows[rows["repetition"] == "1"]
    parts = {"05": "dev", "06": "dev", "07": "test", "08": "test"}
    rows["split"] = rows["speaker"].map(parts).fillna("train")
    outputs = {}
    for name, table in {"clean": rows, "respelled": respelled(rows)}.items():
        source, folder = written_rows(tmp_path / name, table), tmp_path / name
        features_file, captions = folder / "features.parquet", folder / "captions.parquet"
        assert features.main([*source, "-o", str(features_file), "--workers", "2"]) == 0
        assert template_creation.main([str(features_file), "-o", str(captions)]) == 0
        run = loop.train(
            read_settings(
                [
                    *(config, f"output={folder}/run", f"data.root={DATA / 'ravdess'}"),
                    *(f"data.captions={captions}", "data.validation_split=development"),
                ]
            )
        )
        where = [*source, "-o", str(folder / "scores"), "--split", "test"]
        targets = ["--targets", "emotion", "gender"]
        assert evaluate.main([str(run.output), *where, *targets, "--prompts", "sentence"]) == 0
        scores = yaml.safe_load((folder / "scores/scores.yaml").read_text())["corpora"]
        outputs[name] = {
            "captions": captions.read_bytes(),
            "edges": (folder / "captions.edges.json").read_bytes(),
            "validation": [row["UAR"] for row in metric_rows(run.output) if "UAR" in row],
            "weights": (run.output / "last/model.safetensors").read_bytes(),
            "scores": scores,
            "predictions": (folder / "scores/labels.csv").read_bytes(),
        }
    for part, value in outputs["clean"].items():
        assert outputs["respelled"][part] == value, part
    assert len(rows) == 120 and not rows.equals(respelled(rows))
    assert {"UAR", "interval"} <= outputs["clean"]["scores"]["labels"].keys()
