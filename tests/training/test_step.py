"""Gradients of a batch equal those of the plain way, however they are computed."""

import contextlib
import copy
import math

import numpy as np
import pytest
import torch

from paraclap.training import encoding
from paraclap.training.encoding import distinct_captions, prepare_encoders
from paraclap.training.losses import LOSSES, ContrastiveLoss
from paraclap.training.optim import drawing_from, random_state, seed_step
from paraclap.training.step import TrainingStep
from tiny_models import CAPTIONS, TINY_AUDIO, batch_of, model_of

DROPOUT = {"hidden_dropout": 0.3, "mask_time_prob": 0.3, "layerdrop": 0.3}
DROPOUT |= {"mask_feature_prob": 0.3, "mask_feature_length": 4}
WIDTH = TINY_AUDIO["hidden_size"]


def precise(batch):
    return {**batch, "input_values": batch["input_values"].double()}


def gradients(model, objective=None):
    named = [*model.named_parameters(), *(objective.named_parameters() if objective else [])]
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


def plain_gradients(model, batch, targets):
    """Whole batch, one forward pass of everything, torch's own backward pass."""
    model.zero_grad()
    inputs = {name: t for name, t in batch.items() if torch.is_tensor(t)}
    loss = model(**inputs, targets=targets, return_loss=True).loss
    loss.backward()
    return loss.item(), gradients(model)


def assert_equal_gradients(found, expected, rtol):
    assert found.keys() == expected.keys()
    scale = max(gradient.abs().max().item() for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=rtol * scale, rtol=0, msg=name)


@pytest.mark.parametrize("micro_batch", [0, 1, 3])
@pytest.mark.parametrize("positives", ["matching", "own"])
def test_gradients_equal_those_of_one_plain_pass(settings, micro_batch, positives):
    model, processor = model_of(settings)
    batch = precise(batch_of(processor))
    targets = batch["matches"][0] if positives == "matching" else None
    loss, expected = plain_gradients(model, batch, targets)
    step = TrainingStep(model, ContrastiveLoss(), positives, micro_batch=micro_batch)
    seen = []
    step.model.text_branch.register_forward_hook(lambda *a: seen.append(len(a[1][0])))
    result = step(batch)
    assert result.loss.item() == pytest.approx(loss, rel=1e-12) and result.distinct == 3
    norm = math.sqrt(sum(g.square().sum().item() for g in expected.values()))
    assert result.norm.item() == pytest.approx(norm, rel=1e-9)
    assert_equal_gradients(gradients(model), expected, rtol=1e-9)
    passes = 2 if micro_batch == 1 else 1  # three distinct captions fit a micro-batch of 3
    assert sum(seen) == 3 * passes and max(seen) <= (micro_batch or 3)


def test_captions_with_equal_tokens_are_one_caption(settings):
    _, processor = model_of(settings)
    tokens = processor.tokenizer(["Sad", "loud", "sad", "sad sad"], padding=True)
    first, places = distinct_captions(*map(torch.tensor, (tokens.input_ids, tokens.attention_mask)))
    assert first.tolist() == [0, 1, 3] and places.tolist() == [0, 1, 0, 2]


def reference_with_graphs(model, objective, batch, size):
    """Micro-batches in one graph that holds everything: needs the memory, draws the same."""
    first, places = distinct_captions(batch["input_ids"], batch["attention_mask"])
    ids, mask = batch["input_ids"][first], batch["attention_mask"][first]
    order = mask.sum(dim=1).argsort(stable=True)
    rows = range(0, len(batch["input_values"]), size)
    audio = torch.cat(
        [
            model.pool("audio", batch["input_values"][r : r + size], _mask(batch, r, size))
            for r in rows
        ]
    )
    text = torch.empty(len(first), WIDTH, dtype=audio.dtype)
    parts = [order[r : r + size] for r in range(0, len(order), size)]
    for part in parts:
        longest = int(mask[part].sum(dim=1).max())
        chosen = ids[part, :longest], mask[part, :longest]
        text = text.index_copy(0, part, model.pool("text", *chosen))
    audio, text = model.project("audio", audio), model.project("text", text[places])
    loss = objective(audio, text, model.logit_scale, batch["matches"])
    model.zero_grad()
    loss.backward()
    return loss.item(), gradients(model, objective)


def _mask(batch, row, size):
    mask = batch["padding_mask"][row : row + size]
    return None if mask.all() else mask


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_micro_batches_draw_the_same_dropout_and_masks_twice(settings, name, monkeypatch):
    model, processor = model_of(settings, DROPOUT, text=0.3, dropout=0.3)
    batch = precise(batch_of(processor))
    objective = LOSSES[name]().double()
    seed_step(1, 2)
    loss, expected = reference_with_graphs(model, objective, batch, size=2)
    step = TrainingStep(model, objective, micro_batch=2)
    seed_step(1, 2)
    assert step(batch).loss.item() == pytest.approx(loss, rel=1e-12)
    found = gradients(model, objective)
    assert_equal_gradients(found, expected, rtol=1e-9)
    assert ("bias" in found) == (name == "sigmoid")
    monkeypatch.setattr(encoding, "drawing_from", lambda state: contextlib.nullcontext())
    seed_step(1, 2)
    step(batch)
    with pytest.raises(AssertionError):  # other masks are other gradients
        assert_equal_gradients(gradients(model, objective), expected, rtol=1e-3)


def test_random_numbers_are_repeated_and_then_continued():
    def draw():
        return torch.rand(2).tolist(), np.random.rand(2).tolist()

    state = random_state(torch.device("cpu"))
    first, second = draw(), draw()
    with drawing_from(state):
        assert draw() == first
    after = draw()
    with drawing_from(state):
        assert [draw(), draw(), draw()] == [first, second, after]


@pytest.mark.parametrize("micro_batch", [0, 2])
def test_checkpointed_activations_change_no_bit_of_the_gradients(settings, micro_batch):
    model, processor = model_of(settings, DROPOUT, text=0.3, dropout=0.3, precise=False)
    batch = batch_of(processor)
    step = TrainingStep(model, ContrastiveLoss(), micro_batch=micro_batch)
    seed_step(5)
    loss = step(batch).loss
    expected = gradients(model)
    prepare_encoders(model, checkpoint_activations=True)
    layers = [layer for layer in model.modules() if getattr(layer, "gradient_checkpointing", False)]
    assert len(layers) > 4  # of both encoders
    seed_step(5)
    assert torch.equal(step(batch).loss, loss)
    found = gradients(model)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_compiled_encoders_give_the_same_gradients(settings):
    model, processor = model_of(settings, precise=False)
    batch = batch_of(processor)
    step = TrainingStep(model, ContrastiveLoss())
    loss = step(batch).loss.item()
    expected, names = gradients(model), list(model.state_dict())
    prepare_encoders(model, compiled=True)
    assert step(batch).loss.item() == pytest.approx(loss, abs=1e-5)
    assert_equal_gradients(gradients(model), expected, rtol=1e-3)
    assert list(model.state_dict()) == names  # what is saved keeps its names


def train(model, step, batches, lr=0.01):
    """A few steps of Adam; returns the losses."""
    optimizer = torch.optim.Adam([p for p in step.parameters() if p.requires_grad], lr=lr)
    losses = []
    for number, batch in enumerate(batches):
        seed_step(3, number)
        losses.append(step(batch).loss.item())
        optimizer.step()
    return losses


def frozen_twins(settings, count):
    model, processor = model_of(settings, DROPOUT, text=0.3, dropout=0.5, precise=False)
    model.freeze(["audio", "text"])
    return [copy.deepcopy(model) for _ in range(count)], processor


def same_weights(first, second):
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_caches_change_no_bit_of_losses_and_weights(settings):
    models, processor = frozen_twins(settings, 3)
    batches = [
        batch_of(processor, captions=np.random.default_rng(n).choice(CAPTIONS, 4), seed=n % 2)
        for n in range(6)
    ]
    steps_of = [
        TrainingStep(m, ContrastiveLoss(), text_cache=int(m is not models[0])) for m in models
    ]
    table = torch.cat(
        [
            steps_of[2].encoder.frozen["audio"](b["input_values"], b["padding_mask"])
            for b in (batch_of(processor, seed=0), batch_of(processor, seed=1))
        ]
    )
    steps_of[2].encoder.clips = table
    silent = [
        {k: v for k, v in b.items() if k not in ("input_values", "padding_mask")}
        | {"row": [4 * (n % 2) + row for row in b["row"]]}
        for n, b in enumerate(batches)
    ]
    plain = train(models[0], steps_of[0], batches)
    assert train(models[1], steps_of[1], batches) == plain
    assert train(models[2], steps_of[2], silent) == plain
    assert same_weights(models[0], models[1]) and same_weights(models[0], models[2])
    assert steps_of[1].encoder.captions.encoded == 3 < steps_of[0].encoder.captions.encoded


def train_plainly(model, batches, lr=0.01):
    """The plain way: both encoders in every step, everything in one padded batch, own caption."""
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learned, lr=lr)
    losses = []
    for number, batch in enumerate(batches):
        seed_step(3, number)
        loss, _ = plain_gradients(model, batch, targets=None)
        optimizer.step()
        losses.append(loss)
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("double, tolerance", [(True, 1e-9), (False, 1e-4)])
def test_fifty_steps_over_frozen_encoders_equal_plain_training(settings, double, tolerance):
    models, processor = frozen_twins(settings, 2)
    batches = [
        batch_of(processor, captions=np.random.default_rng(n).choice(CAPTIONS, 4), seed=n)
        for n in range(50)
    ]
    if double:
        models, batches = [m.double() for m in models], [precise(b) for b in batches]
    plain = train_plainly(models[0], batches, lr=1e-3)
    ours = train(models[1], TrainingStep(models[1], ContrastiveLoss(), "own"), batches, lr=1e-3)
    assert ours == pytest.approx(plain, abs=tolerance)
    for name, weight in models[0].state_dict().items():
        found = models[1].state_dict()[name]
        torch.testing.assert_close(found, weight, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("micro_batch", [0, 1])
def test_clips_shorter_than_the_time_mask_are_trained_on(settings, micro_batch):
    model, processor = model_of(settings, DROPOUT, precise=False)
    batch = batch_of(processor, lengths=(399, 3200, 1, 9000))  # 200 ms, and less than a frame
    result = TrainingStep(model, ContrastiveLoss(), micro_batch=micro_batch)(batch)
    assert result.loss.isfinite() and result.norm.isfinite() and result.norm > 0


@pytest.mark.parametrize("parts", [["audio"], ["text"], ["audio", "text"], ["audio_convolutions"]])
def test_frozen_parts_have_no_gradient_and_the_rest_has(settings, parts):
    audio = {**DROPOUT, "mask_time_prob": 0.0, "layerdrop": 1.0}  # every layer may be left out
    model, processor = model_of(settings, audio, precise=False)
    model.freeze(parts)
    step = TrainingStep(model, ContrastiveLoss())
    losses = train(model, step, [batch_of(processor, seed=n) for n in range(3)])
    assert np.isfinite(losses).all()
    found = gradients(model)
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert set(found) <= learning and "logit_scale" in found
    for branch in {"audio", "text"} - set(parts):
        assert any(name.startswith(f"{branch}_branch") for name in found)
    assert {"audio_projection.linear1.weight", "text_projection.linear1.weight"} <= set(found)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_under_bfloat16_the_loss_is_that_of_float32_on_the_same_embeddings(name):
    torch.manual_seed(0)
    audio, text = (torch.nn.functional.normalize(torch.randn(6, 8), dim=-1) for _ in range(2))
    matches, objective, scale = torch.eye(6), LOSSES[name](), torch.tensor(math.log(100))
    expected = objective(audio, text, scale, (matches, matches.T))
    with torch.autocast("cpu", torch.bfloat16):
        assert (audio @ text.T).dtype == torch.bfloat16  # autocast is on
        found = objective(audio, text, scale, (matches, matches.T))
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("micro_batch", [0, 2])
@pytest.mark.parametrize("frozen", [[], ["audio", "text"]])
def test_bfloat16_reaches_every_weight_that_float32_reaches(settings, frozen, micro_batch):
    model, processor = model_of(settings, precise=False)
    model.freeze(frozen)
    batch = batch_of(processor)
    found = {}
    for bfloat16 in (False, True):
        step = TrainingStep(model, ContrastiveLoss(), bfloat16=bfloat16, micro_batch=micro_batch)
        found[bfloat16] = step(batch).loss, gradients(model)
    assert found[True][1].keys() == found[False][1].keys()
    assert found[True][0].dtype == torch.float32
    assert 0 < abs((found[True][0] - found[False][0]).item()) < 0.05


@pytest.mark.parametrize("copies", [1, 2, 4])
def test_captions_repeated_k_times_have_a_loss_of_at_least_ln_k(copies):
    """Perfect embeddings: each caption and its clips in a direction of their own."""
    directions = torch.eye(8)[torch.arange(8) // copies]
    matches = (directions @ directions.T > 0).float()
    loss = ContrastiveLoss()(directions, directions, torch.tensor(6.0), (matches, matches.T))
    assert loss.item() == pytest.approx(math.log(copies), abs=1e-6)


def test_clip_norm_limits_the_gradients_of_model_and_objective(settings):
    model, processor = model_of(settings, precise=False)
    objective = LOSSES["sigmoid"]()
    step = TrainingStep(model, objective, clip_norm=0.01)
    before = step(batch_of(processor)).norm
    after = math.sqrt(sum(g.square().sum().item() for g in gradients(model, objective).values()))
    assert before > 0.01 and after == pytest.approx(0.01, rel=1e-3)
    assert objective.bias.grad is not None
