"""Parts that are frozen at first and trained later."""

import copy

import pytest
import torch
from training_runs import FROZEN, same, train_until, weights

from paraclap.training import loop
from paraclap.training.config import read_settings

STILL = (
    "model.projection_dropout=0",
    "model.audio.config.hidden_dropout=0",
    "model.audio.config.attention_dropout=0",
    "model.audio.config.activation_dropout=0",
    "model.audio.config.feat_proj_dropout=0",
    "model.audio.config.mask_time_prob=0",
    "model.text.config.hidden_dropout_prob=0",
    "model.text.config.attention_probs_dropout_prob=0",
)


def watched(monkeypatch, look):
    """Results of `look` after each step of a run."""
    original, seen = loop.Trainer.training_step, []

    def training_step(self, batch):
        values = original(self, batch)
        seen.append(look(self, batch))
        return values

    monkeypatch.setattr(loop.Trainer, "training_step", training_step)
    return seen


def test_parts_are_trained_from_their_step_on(config, monkeypatch):
    def look(run, batch):
        parts = {
            "audio": run.model.audio_branch.base.encoder.layers[0].attention.k_proj.weight,
            "text": run.model.text_branch.base.encoder.layer[0].output.dense.weight,
            "projection": run.model.audio_projection.linear1.weight,
        }
        return {name: weight.detach().clone() for name, weight in parts.items()}

    seen = watched(monkeypatch, look)
    arguments = [config, *FROZEN, "train.unfreeze={audio: 0.5, text: 6}", "optim.text_lr=0.01"]
    loop.train(read_settings(arguments))
    assert len(seen) == 8
    for name, first in {"audio": 4, "text": 6, "projection": 1}.items():
        changes = [not torch.equal(a[name], b[name]) for a, b in zip(seen, seen[1:], strict=False)]
        assert changes == [step >= first for step in range(1, 8)], name  # after step 1, 2, ...


def test_caches_are_dropped_and_audio_is_read_after_unfreezing(config, monkeypatch):
    def look(run, batch):
        encoder, model = run.learner.gradients.encoder, run.model
        return (
            encoder.clips is not None,
            "input_values" in batch,
            encoder.captions is not None,
            sorted(encoder.frozen),
            model.audio_branch.base.training,
            model.text_branch.training,
        )

    seen = watched(monkeypatch, look)
    loop.train(read_settings([config, *FROZEN, "train.unfreeze={audio: 3, text: 6}"]))
    before = (True, False, True, ["audio", "text"], False, False)
    between = (False, True, True, ["text"], True, False)
    after = (False, True, False, [], True, True)
    assert seen == [before] * 3 + [between] * 3 + [after] * 2


@pytest.mark.parametrize("micro_batch", [0, 2])
def test_gradients_after_unfreezing_equal_those_of_a_model_never_frozen(config, micro_batch):
    arguments = [config, *STILL, f"train.micro_batch={micro_batch}", "train.precision=fp32"]
    frozen = [*arguments, "model.freeze=[audio,audio_convolutions,text]"]
    frozen.append("train.unfreeze={audio: 2, audio_convolutions: 3, text: 2}")
    run = loop.Trainer(read_settings(frozen))
    twin = copy.deepcopy(run.model)
    twin.unfreeze()
    batch = next(iter(run.loader()))
    run.model.train()
    run.learner.unfreeze(2)
    assert run.model.frozen == ("audio_convolutions",)
    run.learner.gradients.backward(batch)
    convolutions = run.model.audio_branch.base.feature_extractor
    assert all(parameter.grad is None for parameter in convolutions.parameters())
    run.learner.unfreeze(3)
    run.model.zero_grad()
    run.learner.gradients.backward(batch)
    tensors = {name: value for name, value in batch.items() if torch.is_tensor(value)}
    targets = (batch["matches"][0] == 1).float()
    twin.train()(**tensors, targets=targets, return_loss=True).loss.backward()
    found = {name: p.grad for name, p in run.model.named_parameters() if p.grad is not None}
    expected = {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    scale = max(gradient.abs().max().item() for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-4 * scale, rtol=0, msg=name)


def test_optimiser_has_no_state_of_a_part_before_it_is_trained(config, monkeypatch):
    def look(run, batch):
        weight = run.model.audio_branch.base.encoder.layers[0].attention.k_proj.weight
        lr = next(g["lr"] for g in run.learner.optimizer.param_groups if g["start"] == 4)
        return int(run.learner.optimizer.state.get(weight, {}).get("step", 0)), round(lr, 9)

    seen = watched(monkeypatch, look)
    warm = ["optim.schedule=constant", "optim.warmup_steps=2", "optim.audio_lr=0.5"]
    loop.train(
        read_settings([config, *warm, "model.freeze=[audio]", "train.unfreeze={audio: 0.5}"])
    )
    assert seen == [*[(0, 0.0)] * 4, (1, 0.25), (2, 0.5), (3, 0.5), (4, 0.5)]


def test_resume_that_stays_frozen_differs(config, tmp_path, monkeypatch):
    """Control of the exact resume across unfreezing in test_train.py."""
    arguments = [config, "model.freeze=[audio]", "train.unfreeze={audio: 4}"]
    loop.train(read_settings([*arguments, f"output={tmp_path / 'whole'}"]))
    parts = [*arguments, f"output={tmp_path / 'parts'}"]
    train_until(monkeypatch, 7, parts)
    monkeypatch.setattr(loop.Trainer, "unfreeze", lambda self: None)
    loop.train(read_settings(parts))
    assert not same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
