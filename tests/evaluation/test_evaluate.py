"""Zero-shot evaluation: predictions, protocol, retrieval, probe, cache, files, selection."""

import re
import shutil

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
import yaml
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from paraclap.cli import evaluate
from paraclap.corpora import table as corpora
from paraclap.data.captions import caption_texts
from paraclap.data.dataset import ClipDataset
from paraclap.data.functionals import FunctionalsError, functionals_of, read_functionals
from paraclap.evaluation import run, tasks, zero_shot
from paraclap.evaluation.embed import embed_clips, embed_texts
from paraclap.evaluation.probe import probe
from paraclap.evaluation.prompts import PromptError
from paraclap.model.build import load_model
from paraclap.model.modeling_paraclap import ParaCLAPModel

EMOTIONS = ["anger", "boredom", "fear", "happiness", "neutral", "sadness"]
ALL = "train,dev,test"


@pytest.fixture
def saved_model(tiny, tmp_path):
    folder = tmp_path / "model"
    for part in tiny:
        part.save_pretrained(folder)
    return folder


# --- Predictions ---------------------------------------------------------------------------------


def test_predictions_equal_those_of_single_clips(tiny, corpus):
    model, processor = tiny
    table = corpora.read_corpus(corpus).iloc[::7]
    prompts = {name: (f"the speaker sounds {name}",) for name in EMOTIONS}
    predictions = zero_shot.classify_clips(
        model, processor, table, corpus, prompts, batch_seconds=9.0
    )
    texts = embed_texts(model, processor, [q for (q,) in prompts.values()])
    clips = ClipDataset(table, corpus)
    for row in range(len(table)):
        batch = processor.feature_extractor(
            clips[row]["waveform"], sampling_rate=16_000, return_tensors="pt"
        )
        with torch.no_grad():
            cosines = (model.get_audio_features(**batch).pooler_output @ texts.T)[0]
        given = predictions.iloc[row]
        assert given[[f"cosine.{n}" for n in EMOTIONS]].to_numpy(float) == pytest.approx(
            cosines.numpy(), abs=1e-5
        )
        assert given["prediction"] == EMOTIONS[int(cosines.argmax())]
        probabilities = (model.logit_scale.exp() * cosines).softmax(0)
        assert given["confidence"] == pytest.approx(probabilities.max().item(), abs=1e-5)


def test_training_mode_is_restored(tiny, corpus):
    model, processor = tiny
    table = corpora.read_corpus(corpus).iloc[:2]
    zero_shot.classify_clips(model.train(), processor, table, corpus, {"a": ("x",), "b": ("y",)})
    assert model.training


# --- Command line --------------------------------------------------------------------------------


def test_command_writes_scores_predictions_and_figures(saved_model, corpus, tmp_path, capsys):
    output = tmp_path / "results"
    arguments = [
        str(saved_model),
        str(corpus),
        "-o",
        str(output),
        "--split",
        "test",
        "--format",
        "pdf",
    ]
    assert evaluate.main([*arguments, "--targets", "emotion", "gender"]) == 0
    printed = capsys.readouterr().out
    scores = yaml.safe_load((output / "scores.yaml").read_text())
    assert scores["split"] == ["test"] and scores["prompt_set"] == "published"
    for name, classes in (("paraclap-synthetic", 6), ("paraclap-synthetic.gender", 2)):
        figures = scores["corpora"][name]
        predictions = pd.read_csv(output / f"{name}.csv")
        assert figures["clips"] == len(predictions) == 24
        assert figures["chance"] == pytest.approx(1 / classes)
        expected = balanced_accuracy_score(predictions["truth"], predictions["prediction"])
        assert figures["UAR"] == pytest.approx(expected)
        assert f"{figures['UAR']:.3f}" in printed
        for kind in ("confusion", "calibration"):
            assert (output / f"{name}.{kind}.pdf").read_bytes().startswith(b"%PDF")
        columns = [c for c in predictions if c.startswith("cosine.")]
        best = predictions[columns].idxmax(axis=1).str.removeprefix("cosine.")
        assert (best == predictions["prediction"]).all()


def test_classes_without_a_prompt_in_the_file_are_excluded_and_counted(
    saved_model, corpus, tmp_path, capsys
):
    prompts = tmp_path / "prompts.yaml"
    prompts.write_text(
        "anger: an enraged voice\nsadness: a gloomy voice\nrelief: a relieved voice\n"
    )
    output = tmp_path / "results"
    arguments = [str(saved_model), str(corpus), "-o", str(output), "--split", ALL]
    evaluate.main([*arguments, "--prompts", str(prompts)])
    figures = yaml.safe_load((output / "scores.yaml").read_text())["corpora"]["paraclap-synthetic"]
    assert figures["classes"] == 2 and figures["clips"] == 24 and figures["excluded"] == 48
    assert figures["unused_prompts"] == ["relief"]
    assert figures["prompts"]["anger"] == ["an enraged voice"]
    printed = capsys.readouterr().out
    assert "48 clips excluded" in printed and "no clip is relief" in printed


@pytest.mark.parametrize("old, new", [("--queries", "--prompts"), ("--packed", "--waveform-cache")])
def test_renamed_options_stop_with_the_new_name(capsys, old, new):
    with pytest.raises(SystemExit):
        evaluate.main(["model", "corpus", old, "x"])
    assert f"{old}: renamed to {new}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "selection, message",
    [({"speaker": ["99"]}, "99"), ({"split": ["holdout"]}, "holdout"), ({"split": ["x"]}, "dev")],
)
def test_unknown_selection_names_the_known_values(corpus, selection, message):
    with pytest.raises(corpora.CorpusError, match=message):
        tasks.select(corpora.read_corpus(corpus), selection)


def test_unknown_prompt_set_stops_before_the_model_is_loaded(corpus):
    with pytest.raises(PromptError, match="unknown prompt set 'nope'"):
        tasks.read_sources([str(corpus)], ["emotion"], ["nope"], tasks.Selection({}))


def test_selection_keeps_the_named_speakers(corpus):
    table = corpora.read_corpus(corpus)
    speaker = sorted(table["speaker"].unique())[0]
    chosen = tasks.select(table, {"speaker": [speaker]})
    assert set(chosen["speaker"]) == {speaker} and chosen.attrs["root"] == str(corpus)


def test_each_prompt_set_is_scored_and_clips_are_embedded_once(
    saved_model, corpus, tmp_path, monkeypatch
):
    embedded = []
    plain = run.embed_clips

    def counting(model, processor, clips, **options):
        embedded.append(len(clips))
        return plain(model, processor, clips, **options)

    monkeypatch.setattr(run, "embed_clips", counting)
    (tmp_path / "mine.yaml").write_text("anger: [rage, fury]\nsadness: gloom\n")
    sets = ["word", "ensemble", str(tmp_path / "mine.yaml")]
    output = tmp_path / "results"
    arguments = [str(saved_model), str(corpus), "-o", str(output), "--split", ALL]
    evaluate.main([*arguments, "--prompts", *sets])
    scores = yaml.safe_load((output / "scores.yaml").read_text())
    assert list(scores["corpora"]) == [
        f"paraclap-synthetic.{name}" for name in ("word", "ensemble", "mine")
    ]
    assert embedded == [72]
    ensemble = scores["corpora"]["paraclap-synthetic.ensemble"]["prompts"]["anger"]
    assert len(ensemble) == 5 and "the voice expresses anger" in ensemble
    assert scores["prompt_set"] == sets


@pytest.mark.parametrize("base_encoder", [False, True])
def test_all_targets_prompts_retrieval_and_probe_share_one_pass_over_the_audio(
    tiny, corpus, captions, tmp_path, monkeypatch, capsys, base_encoder
):
    model, processor = tiny
    if base_encoder:  # the statistics of its layers are encoded instead of embeddings
        model.config.base_encoders = {"audio": {"name": "some/encoder", "sha256": "0" * 64}}
    for part in tiny:
        part.save_pretrained(tmp_path / "model")
    clips, plain = [], type(model.audio_branch).layers

    def counting(branch, values, *rest):
        clips.append(len(values))
        return plain(branch, values, *rest)

    monkeypatch.setattr(type(model.audio_branch), "layers", counting)
    arguments = [
        str(tmp_path / "model"),
        str(corpus),
        "-o",
        str(tmp_path / "results"),
        "--no-cache",
    ]
    arguments += ["--split", ALL, "--targets", "emotion", "gender", "--prompts", "word", "sentence"]
    arguments += ["--retrieval", str(captions), "--closed-set", "--adapt", "mean"]
    assert evaluate.main(arguments) == 0
    assert sum(clips) == 72
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "padding" in line]
    assert re.fullmatch(r"paraclap-synthetic: 72 clips, \d\.\d min; padding \d+ %", line)


def test_numbers_are_scored_by_opposed_prompts(tiny, corpus):
    model, processor = tiny
    table = corpora.read_corpus(corpus).iloc[::2]
    table["arousal"] = np.random.default_rng(0).normal(size=len(table))
    table.iloc[3, table.columns.get_loc("arousal")] = np.nan
    audio = embed_clips(model, processor, ClipDataset(table, corpus)).numpy()
    task = tasks.ZeroShotTask("a", "arousal", "sentence")
    figures, predictions = zero_shot.evaluate_task(model, processor, table, audio, task)
    calm, aroused = embed_texts(
        model, processor, ["the speaker is calm", "the speaker is aroused"]
    ).numpy()
    value = audio @ (aroused - calm)
    known = table["arousal"].notna().to_numpy()
    expected = scipy.stats.spearmanr(value[known], table["arousal"][known]).statistic
    assert figures["Spearman"] == pytest.approx(expected, abs=1e-6)
    edges = table["arousal"].quantile([1 / 3, 2 / 3])
    outer = known & ~table["arousal"].between(*edges, inclusive="neither").to_numpy()
    is_high = (table["arousal"] >= edges.iloc[1]).to_numpy()
    assert figures["AUC"] == pytest.approx(roc_auc_score(is_high[outer], value[outer]), abs=1e-6)
    assert figures["clips"] == outer.sum() == len(predictions) and figures["classes"] == 2
    assert figures["excluded"] == len(table) - outer.sum()
    cosines = predictions[["cosine.low", "cosine.high"]].to_numpy()
    assert np.allclose(cosines[:, 1] - cosines[:, 0], value[outer], atol=1e-6)


@pytest.fixture
def toy(monkeypatch, corpus):
    """The synthetic corpus as one with a published protocol: two sessions, one of them scored."""

    def read(root):
        rows = corpora.read_corpus(root).reset_index()
        rows["session"] = rows["speaker"].map(lambda name: str(int(name[-1]) % 2))
        return rows.assign(part=np.where(rows["emotion"] == "fear", "other", "scored"))

    labels = {name: name for name in EMOTIONS} | {"boredom": None, "happiness": "joy"}
    published = {
        c: f"this person is feeling {c}" for c in labels.values() if c not in (None, "fear")
    }
    row = corpora.Corpus(
        name="toy",
        title="Toy",
        reader=read,
        expected="",
        clips=72,
        classes=labels,
        published=published,
        licence="",
        citation="",
        part={"part": "scored"},
        averaged_over="session",
        printed={"CLAP": 0.123, "ParaCLAP": 0.456},
    )
    monkeypatch.setitem(corpora.CORPORA, "toy", row)
    return f"toy={corpus}"


def test_protocol_of_the_paper_uses_its_rows_prompts_and_mean(toy, saved_model, tmp_path, capsys):
    output = tmp_path / "results"
    options = ["--protocol", "paper", "--reference", "-o", str(output)]
    assert evaluate.main([str(saved_model), toy, *options]) == 0
    figures = yaml.safe_load((output / "scores.yaml").read_text())["corpora"]["toy"]
    assert figures["prompts"] == {
        c: [f"this person is feeling {c}"] for c in ("anger", "joy", "neutral", "sadness")
    }
    predictions = pd.read_csv(output / "toy.csv")
    table = corpora.read_corpus(toy).reset_index()
    predictions = predictions.merge(table[["file", "emotion"]], on="file")
    assert set(predictions["emotion"]) == {"anger", "happiness", "neutral", "sadness"}
    each = [
        balanced_accuracy_score(part["truth"], part["prediction"])
        for _, part in predictions.groupby("session")
    ]
    assert figures["UAR"] == pytest.approx(np.mean(each))
    assert figures["excluded"] == 12, "boredom, of the part that is scored"
    printed, page = capsys.readouterr().out, (output / "scores.md").read_text()
    for shown in (printed, page):
        assert "CLAP (published)" in shown and "0.123" in shown and "0.456" in shown
    assert "follow the protocol" not in printed


def test_protocol_requires_a_known_corpus_and_excludes_other_options(
    saved_model, corpus, toy, tmp_path
):
    arguments = [str(saved_model), "--protocol", "paper", "-o", str(tmp_path / "r")]
    with pytest.raises(corpora.CorpusError, match="not a known corpus"):
        evaluate.main([*arguments, str(corpus)])
    with pytest.raises(SystemExit):
        evaluate.main([*arguments, toy, "--prompts", "word"])
    table = corpora.read_corpus(toy).drop(columns="part")
    with pytest.raises(corpora.CorpusError, match="no column 'part'"):
        tasks.published_task(table)


def test_retrieval_counts_the_nearest_captions(saved_model, corpus, captions, tmp_path, capsys):
    output = tmp_path / "results"
    arguments = [str(saved_model), str(corpus), "--retrieval", str(captions), "-o", str(output)]
    evaluate.main([*arguments, "--split", "test"])
    scores = yaml.safe_load((output / "scores.yaml").read_text())["retrieval"]
    figures = scores["paraclap-synthetic"]["audio_to_text"]
    model, processor = load_model(saved_model)
    table = corpora.read_corpus(corpus)
    table = table[table["split"] == "test"]
    texts = caption_texts(pd.read_parquet(captions)).loc[table.index]
    distinct = sorted(set(texts))
    clips = embed_clips(model, processor, ClipDataset(table, corpus))
    best = (clips @ embed_texts(model, processor, distinct).T).argmax(dim=1)
    expected = np.mean([distinct[i] == text for i, text in zip(best, texts, strict=True)])
    assert figures["R@1"] == pytest.approx(expected)
    assert figures["queries"] == 24 and figures["items"] == len(distinct)
    assert scores["paraclap-synthetic"]["text_to_audio"]["queries"] == len(distinct)
    assert "caption to speech" in capsys.readouterr().out


def test_retrieval_ignores_clips_without_captions_and_requires_two_captions(tiny, corpus):
    table = corpora.read_corpus(corpus).iloc[:6]
    audio = embed_clips(*tiny, ClipDataset(table, corpus)).numpy()
    texts = pd.Series(["one", "two", "two"], table.index[[1, 3, 4]])
    figures = run.evaluate_retrieval(*tiny, table, audio, texts)
    assert figures["audio_to_text"]["queries"] == 3 and figures["text_to_audio"]["queries"] == 2
    with pytest.raises(corpora.CorpusError, match="3 of 6 clips .* 1 of them distinct"):
        run.evaluate_retrieval(*tiny, table, audio, texts.map(lambda _: "same"))


def test_probe_uses_the_clips_with_predictions(saved_model, corpus, tmp_path):
    output = tmp_path / "results"
    prompts = ["--prompts", "word", "sentence", "--targets", "emotion", "gender"]
    arguments = [str(saved_model), str(corpus), "-o", str(output), "--split", ALL]
    evaluate.main([*arguments, "--closed-set", *prompts])
    scores = yaml.safe_load((output / "scores.yaml").read_text())
    assert set(scores["closed_set"]) == set(scores["corpora"])
    probes = {name: found["embeddings"] for name, found in scores["closed_set"].items()}
    assert probes["paraclap-synthetic.word"] == probes["paraclap-synthetic.sentence"]
    assert probes["paraclap-synthetic.gender.word"]["classes"] == 2
    model, processor = load_model(saved_model)
    table = corpora.read_corpus(corpus)
    audio = embed_clips(model, processor, ClipDataset(table, corpus)).numpy()
    expected = probe(audio, table["emotion"], table["speaker"])
    assert probes["paraclap-synthetic.word"]["UAR"] == pytest.approx(expected["UAR"], abs=0.05)


def test_features_of_a_table_equal_those_that_are_measured(
    saved_model, corpus, captions, tmp_path, capsys
):
    features = captions.with_name("features.parquet")
    arguments = [str(saved_model), str(corpus), "--split", ALL, "--closed-set"]
    found = {}
    for name, options in {"measured": [], "table": ["--features", str(features)]}.items():
        assert evaluate.main([*arguments, *options, "-o", str(tmp_path / name)]) == 0
        scores = yaml.safe_load((tmp_path / name / "scores.yaml").read_text())
        found[name] = scores["closed_set"]["paraclap-synthetic"]["eGeMAPS"]
    assert found["measured"] == found["table"]
    table = corpora.read_corpus(corpus)
    functionals = functionals_of(read_functionals(features), table.index).to_numpy()
    assert found["table"] == probe(functionals, table["emotion"], table["speaker"])
    assert found["table"]["UAR"] > 2 * found["table"]["chance"]
    for shown in (capsys.readouterr().out, (tmp_path / "table" / "scores.md").read_text()):
        assert "closed-set embeddings UAR [95 %]" in shown
        assert "closed-set eGeMAPS UAR [95 %]" in shown


def test_features_without_some_clips_are_refused(saved_model, corpus, captions, tmp_path, capsys):
    fewer = tmp_path / "fewer.parquet"
    pd.read_parquet(captions.with_name("features.parquet"))[3:].to_parquet(fewer)
    arguments = [str(saved_model), str(corpus), "--split", ALL, "-o", str(tmp_path / "r")]
    with pytest.raises(FunctionalsError, match=r"--features .*: 3 of 72 clips have no functionals"):
        evaluate.main([*arguments, "--closed-set", "--features", str(fewer)])
    with pytest.raises(SystemExit):
        evaluate.main([*arguments, "--features", str(fewer)])
    assert "--features requires --closed-set" in capsys.readouterr().err
    for old in (["--probe"], ["--probe", "--targets", "gender"]):
        with pytest.raises(SystemExit):
            evaluate.main([*arguments, *old])
        assert "--probe: renamed to --closed-set" in capsys.readouterr().err


def test_second_run_embeds_nothing(saved_model, corpus, tmp_path, monkeypatch):
    arguments = [str(saved_model), str(corpus), "--cache", str(tmp_path / "cache")]
    evaluate.main([*arguments, "-o", str(tmp_path / "first")])

    def refuse(*_):
        raise AssertionError("a clip was embedded again")

    monkeypatch.setattr(ParaCLAPModel, "get_audio_features", refuse)
    evaluate.main([*arguments, "-o", str(tmp_path / "second"), "--prompts", "sentence"])
    with pytest.raises(AssertionError, match="again"):
        evaluate.main([*arguments, "--no-cache", "-o", str(tmp_path / "third")])


# --- Adaptation ----------------------------------------------------------------------------------


def test_adapted_scores_stand_beside_unchanged_plain_scores(
    saved_model, corpus, tmp_path, capsys, recwarn
):
    name, column = "paraclap-synthetic", "adapted_prediction"
    plain, adapted = tmp_path / "plain", tmp_path / "adapted"
    arguments = [str(saved_model), str(corpus), "--split", ALL, "--closed-set"]
    evaluate.main([*arguments, "-o", str(plain)])
    assert "adapted UAR" not in capsys.readouterr().out
    evaluate.main([*arguments, "--adapt", "mean", "-o", str(adapted)])
    printed, page = capsys.readouterr().out, (adapted / "scores.md").read_text()
    for shown in (printed, page):
        assert "adapted UAR [95 %]" in shown
        assert f"{name}: the adapted scores use 72 clips of this test corpus without" in shown
    assert not [warning for warning in recwarn if "--adapt" in str(warning.message)]

    scores = yaml.safe_load((adapted / "scores.yaml").read_text())
    figures = scores["corpora"][name].pop("adapted")
    assert scores == yaml.safe_load((plain / "scores.yaml").read_text())
    lines = (adapted / f"{name}.csv").read_text().splitlines()
    assert lines[0].endswith(f",{column}")
    cut = [line.rpartition(",")[0] for line in lines]
    assert cut == (plain / f"{name}.csv").read_text().splitlines()
    assert (adapted / f"{name}.confusion.png").read_bytes() == (
        plain / f"{name}.confusion.png"
    ).read_bytes()

    model, processor = load_model(saved_model)
    table = corpora.read_corpus(corpus)
    audio = embed_clips(model, processor, ClipDataset(table, corpus)).numpy().astype(float)
    prompts = [text for (text,) in scores["corpora"][name]["prompts"].values()]
    texts = embed_texts(model, processor, prompts).numpy()
    centred = audio - audio.mean(axis=0)
    cosines = centred @ texts.T / np.linalg.norm(centred, axis=1, keepdims=True)
    classes = np.array(list(scores["corpora"][name]["prompts"]))
    predictions = pd.read_csv(adapted / f"{name}.csv")
    assert (predictions[column] == classes[cosines.argmax(axis=1)]).all()
    assert (predictions[column] != predictions["prediction"]).any()
    expected = balanced_accuracy_score(predictions["truth"], predictions[column])
    assert figures["UAR"] == pytest.approx(expected) and figures["reference_clips"] == 72
    assert figures["interval"] and "prompts" not in figures


def test_reference_are_all_clips_of_the_selection(saved_model, corpus, tmp_path):
    """Also those without a label, and of classes without a prompt."""
    (tmp_path / "two.yaml").write_text("anger: rage\nsadness: gloom\n")
    labels = corpora.read_corpus(corpus).reset_index()[["file", "emotion", "split"]]
    numbers = labels[labels["split"] == "test"].groupby("emotion").cumcount()
    labels.loc[numbers.index[numbers % 2 == 0], "emotion"] = ""
    labels.to_csv(tmp_path / "half.csv", index=False)
    figures, predictions = {}, {}
    for source in (str(corpus), f"half={tmp_path / 'half.csv'}"):
        output = tmp_path / str(len(figures))
        arguments = [str(saved_model), source, "--split", "test", "--adapt", "mean"]
        arguments += ["--prompts", str(tmp_path / "two.yaml"), "-o", str(output)]
        arguments += ["--root", str(corpus)] if "=" in source else []
        with pytest.warns(UserWarning, match="mean embedding of 24 clips is subtracted, expected"):
            evaluate.main(arguments)
        ((name, scores),) = yaml.safe_load((output / "scores.yaml").read_text())["corpora"].items()
        figures[source] = scores["clips"], scores["excluded"], scores["adapted"]["reference_clips"]
        predictions[source] = pd.read_csv(output / f"{name}.csv", index_col="file")
    assert [*figures.values()] == [(8, 16, 24), (4, 20, 24)]
    whole, half = (table["adapted_prediction"] for table in predictions.values())
    assert half.equals(whole[half.index])


def test_unknown_adaptation_is_refused_at_parsing(capsys):
    with pytest.raises(SystemExit):
        evaluate.main(["model", "corpus", "--adapt", "median"])
    assert "invalid choice: 'median'" in capsys.readouterr().err


# --- Several processes ---------------------------------------------------------------------------


def evaluated_by_several(arguments):
    """Run the command; returns how many clips this process embedded, in batches of which size."""
    embedded = []
    plain = ParaCLAPModel.get_audio_features

    def counting(self, values, mask=None):
        embedded.append(len(values))
        return plain(self, values, mask)

    ParaCLAPModel.get_audio_features = counting  # of a forked process
    assert evaluate.main(arguments) == 0
    return embedded


def test_several_processes_write_the_same_bytes_as_one(together, saved_model, corpus, tmp_path):
    arguments = [str(saved_model), str(corpus), "--split", "test"]
    arguments += ["--batch-seconds", "9", "--cache", str(tmp_path / "cache")]
    one, several, again = (tmp_path / name for name in ("one", "several", "again"))
    run = together(1, evaluated_by_several, [*arguments, "--no-cache", "-o", str(one)])
    batches = sorted(run.results[0])
    run = together(3, evaluated_by_several, [*arguments, "-o", str(several)])
    assert run.codes == [0, 0, 0], run.errors
    assert sorted(sum(run.results, [])) == batches and sum(batches) == 24  # no clip twice
    assert all(run.results)  # and each took part
    written = sorted(path.name for path in one.iterdir())
    assert written == sorted(path.name for path in several.iterdir()) and len(written) == 5
    for name in written:
        assert (several / name).read_bytes() == (one / name).read_bytes(), name
    run = together(3, evaluated_by_several, [*arguments, "-o", str(again)])
    assert not any(run.results)  # all from the cache
    assert (again / "scores.yaml").read_bytes() == (one / "scores.yaml").read_bytes()


def test_unreadable_clip_of_one_process_stops_all_and_is_named(
    together, saved_model, corpus, tmp_path
):
    copy = tmp_path / "corpus"
    shutil.copytree(corpus, copy)
    broken = corpora.read_corpus(copy).index[3][0]
    (copy / broken).write_bytes((copy / broken).read_bytes()[:1000])
    arguments = [str(saved_model), str(copy), "-o", str(tmp_path / "results"), "--no-cache"]
    run = together(2, evaluate.main, [*arguments, "--batch-seconds", "2", "--split", ALL])
    assert run.codes == [1, 1] and all(broken in result for result in run.results)
    assert sorted(result.split(":")[0] for result in run.results) == ["AudioError", "PeerError"]
    assert not list((tmp_path / "results").iterdir())
