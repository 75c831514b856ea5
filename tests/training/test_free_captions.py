"""Training on captions of one's own."""

import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
import yaml

from paraclap.cli import evaluate
from paraclap.corpora.table import read_corpus
from paraclap.data.captions import FREE, caption_texts
from paraclap.data.free_captions import read_any_captions
from paraclap.data.label_captions import with_captions
from paraclap.evaluation.embed import embed_texts
from paraclap.evaluation.run import evaluate_retrieval
from paraclap.model.modeling_paraclap import ParaCLAPConfig
from paraclap.training import data as training_data
from paraclap.training import loop
from paraclap.training.config import SettingsError, read_settings

WORDS = {"anger": "furious", "fear": "scared", "sadness": "in tears"}


@pytest.fixture
def own(captions, corpus, tmp_path):
    """A table of two captions of each clip, without labels and speakers."""
    labels = pd.read_parquet(captions)["emotion"].reset_index()
    texts = labels["emotion"].map(WORDS).fillna("at ease")
    rows = [
        pd.DataFrame({"file": labels["file"], "caption": form + texts})
        for form in ("Someone ", "She or he is ")
    ]
    path = tmp_path / "own.csv"
    pd.concat(rows).to_csv(path, index=False)
    return path


@pytest.fixture
def saved_model(tiny, tmp_path):
    for part in tiny:
        part.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def trainer_of(given):
    return loop.Trainer(with_captions(read_settings(given)))


def arguments(config, own, *more):
    free = [f"data.captions={own}", "data.class_sampling_exponent=0", *more]
    return [config, *free]


def test_captions_without_labels_and_speakers_are_trained_on(config, own, tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = loop.train(read_settings(arguments(config, own, "data.validation_speakers=0")))
    texts = [str(w.message) for w in caught if w.category is UserWarning]
    assert not [t for t in texts if "label_probs" in t], texts
    assert trainer.step == trainer.steps
    facts = ParaCLAPConfig.from_pretrained(tmp_path / "run" / "last").provenance
    assert facts["free_captions"] == 8 and facts["attributes"] == {}
    assert {"furious", "scared", "ease"} <= set(facts["free_words"])
    shown = training_data.sample_captions(trainer.data, trainer.dataset(), [[(0, 0), (0, 1)]])
    assert "Someone" in shown or "She or he is" in shown


@pytest.mark.parametrize("labelled", [True, False])
def test_retrieval_with_a_table_of_captions(saved_model, corpus, own, tmp_path, labelled):
    given = [str(corpus)] if labelled else [str(own), "--root", str(corpus)]
    options = ["--retrieval", str(own), "-o", str(tmp_path / "scores"), "--device", "cpu"]
    assert evaluate.main([str(saved_model), *given, *options]) == 0
    scores = yaml.safe_load((tmp_path / "scores" / "scores.yaml").read_text())
    assert next(iter(scores["retrieval"].values()))["text_to_audio"]["queries"] == 8
    assert ("corpora" in scores) == labelled


def test_long_captions_are_truncated_with_a_count(config, own):
    table = pd.read_csv(own)
    table.loc[0, "caption"] = "furious " * 600
    table.to_csv(own, index=False)
    with pytest.warns(UserWarning, match=r"1 of 9 different captions are truncated to the \d+"):
        trainer_of(arguments(config, own, "data.validation_speakers=0"))


def test_copies_of_training_clips_in_the_validation_part_are_stated(config, own, corpus, tmp_path):
    table = pd.read_csv(own)[:12].assign(split="train", emotion="anger")
    for file in table["file"]:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(corpus / file, tmp_path / file)
    shutil.copy(corpus / table["file"][3], tmp_path / "copy.wav")
    copy = table[:1].assign(file="copy.wav", split="dev", emotion="fear")
    pd.concat([table, copy, table[-1:].assign(split="dev")]).to_csv(own, index=False)
    trainer = trainer_of(arguments(config, own, f"data.root={tmp_path}"))
    assert len(trainer.data.train_table) == 11  # a clip with rows in both parts is held out
    trainer.data.__dict__.pop("trained_on")
    with pytest.warns(UserWarning, match="1 of 2 validation clips have the same audio as .*copy"):
        _ = trainer.data.trained_on


def test_weight_of_a_corpus(config, own, captions, corpus):
    free, labels = "captions: %s, root: %s, weight: 3", "captions: %s, root: %s"
    corpora = f"data.corpora={{free: {{{free}}}, labels: {{{labels}}}}}"
    given = [config, "data.root=null", corpora % (own, corpus, captions, corpus)]
    trainer = trainer_of([*given, "data.sampling_exponent=0"])
    table = trainer.data.train_table
    drawn = trainer.batches().draws(0)[:, 1]
    share = (table["corpus"].to_numpy()[drawn] == "free").mean()
    assert share == pytest.approx(0.75, abs=0.02)
    assert set(trainer.dataset().phrases[0]) == {FREE}
    with pytest.raises(SettingsError, match=r"data.corpora.free.weight is 0.0, expected more"):
        zero = corpora.replace("weight: 3", "weight: 0") % (own, corpus, captions, corpus)
        loop.train(read_settings([config, "data.root=null", zero]))


def test_retrieval_scores_every_caption_of_a_clip(tiny, corpus, own):
    model, processor = tiny
    table = read_corpus(corpus).iloc[::2][:30]
    texts = caption_texts(read_any_captions(own, corpus))
    texts = texts[texts.index.isin(table.index[:20])]
    audio = np.random.default_rng(0).normal(size=(30, 24)).astype(np.float32)
    audio /= np.linalg.norm(audio, axis=1, keepdims=True)
    found = evaluate_retrieval(model, processor, table, audio, texts)
    distinct = sorted(set(texts))
    cosines = audio[:20] @ embed_texts(model, processor, distinct).numpy().T
    true = [set(texts[texts.index == clip]) for clip in table.index[:20]]
    right = np.array([[text in own for text in distinct] for own in true])
    assert right.sum() == 40
    for scores, order, relevant in (
        (found["audio_to_text"], cosines, right),
        (found["text_to_audio"], cosines.T, right.T),
    ):
        first = relevant[np.arange(len(order)), order.argmax(axis=1)]
        assert scores["R@1"] == pytest.approx(first.mean()) and scores["interval"] is not None
