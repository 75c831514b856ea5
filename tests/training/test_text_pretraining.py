"""Text pretraining separates captions by meaning and trains the text side only."""

import numpy as np
import torch
from training_runs import same

from paraclap.evaluation.embed import embed_texts
from paraclap.model.build import build_model
from paraclap.training import loop
from paraclap.training.config import read_settings
from paraclap.training.text_pretraining import pretrain_text


def mean_cosine(run, texts):
    cosines = embed_texts(run.model.eval(), run.processor, texts)
    cosines = (cosines @ cosines.T).numpy()
    return cosines[~np.eye(len(texts), dtype=bool)].mean()


def test_captions_are_separated_by_meaning_and_audio_is_unchanged(config):
    stage = ["text_pretraining.steps=200", "text_pretraining.lr=5e-3", "captions.style=emotion"]
    tower = ["model.text.config.initializer_range=0.1", "model.projection_dropout=0.1"]
    run = loop.Trainer(read_settings([config, *stage, *tower]))
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    apart = [f"the speaker sounds {name}" for name in ("angry", "sad", "happy", "bored")]
    same_meaning = ["emotion is anger", "the speaker sounds angry"]
    assert mean_cosine(run, apart) > 0.9
    pretrain_text(run.model, run.processor, run.dataset(), run.settings)
    assert mean_cosine(run, apart) < 0.6
    assert mean_cosine(run, same_meaning) > mean_cosine(run, apart) + 0.2
    after = run.model.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("text_") for name in changed)


def test_frozen_text_encoder_with_random_weights_is_trained_in_this_stage_only(config):
    run = loop.Trainer(read_settings([config, "text_pretraining.steps=2", "model.freeze=[text]"]))
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    pretrain_text(run.model, run.processor, run.dataset(), run.settings)
    changed = {n for n, v in run.model.state_dict().items() if not torch.equal(v, before[n])}
    assert any(name.startswith("text_branch.") for name in changed)
    assert run.model.frozen == ("text",) and not run.model.text_branch.training
    assert not any(p.requires_grad for p in run.model.text_branch.parameters())
    after = {name: value.clone() for name, value in run.model.state_dict().items()}
    run.training_step(next(iter(run.loader())))
    moved = {n for n, v in run.model.state_dict().items() if not torch.equal(v, after[n])}
    assert moved and not any(name.startswith("text_branch.") for name in moved)


def test_frozen_pretrained_text_encoder_is_unchanged(config, settings, tmp_path):
    source, processor = build_model(settings, ["emotion is anger"])
    for part in (source.text_branch.base, processor.tokenizer):
        part.save_pretrained(tmp_path / "text")
    stage = [
        "text_pretraining.steps=2",
        "model.freeze=[text]",
        f"model.text.name={tmp_path / 'text'}",
    ]
    settings = read_settings([config, *stage])
    settings.model.text.config = {}
    run = loop.Trainer(settings)
    before = {n: v.clone() for n, v in run.model.text_branch.state_dict().items()}
    pretrain_text(run.model, run.processor, run.dataset(), run.settings)
    assert same(before, run.model.text_branch.state_dict())
