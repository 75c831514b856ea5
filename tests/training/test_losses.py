"""Losses equal their formulas, however rows are distributed, and ignore unknown pairs."""

import math

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import yaml

from paraclap import distributed
from paraclap.model.modeling_paraclap import scaled_cosines
from paraclap.training import loop
from paraclap.training.config import read_settings
from paraclap.training.gradient_sum import GradientSum
from paraclap.training.losses import LOSSES, ContrastiveLoss

CPU = torch.device("cpu")
TOTAL = 7  # rows; no number of processes here divides it
NAN = math.nan


def embeddings():
    generator = torch.Generator().manual_seed(3)
    audio, text = torch.randn(2, TOTAL, 4, generator=generator, dtype=torch.float64)
    values = torch.tensor([0.0, 0.5, 1.0, NAN], dtype=torch.float64)
    pairs = values[torch.randint(4, (TOTAL, TOTAL), generator=generator)]
    pairs.fill_diagonal_(1.0)
    pairs[:, 2] = 1.0  # true of every clip
    pairs[4] = torch.where(torch.arange(TOTAL) == 4, 1.0, NAN)  # a clip of which little is known
    return audio, text, pairs


def entropy_of_row(logits, values):
    """Cross entropy of one clip with captions, or of one caption with clips, term by term."""
    known = [place for place, value in enumerate(values) if not math.isnan(value)]
    positives = [place for place in known if values[place] == 1]
    total = sum(logits[place].exp() for place in known)
    return -sum((logits[place].exp() / total).log() for place in positives) / len(positives)


def by_formula(name, audio, text, logit_scale, pairs, bias):
    logits = logit_scale.exp() * F.normalize(audio, dim=-1) @ F.normalize(text, dim=-1).T
    if name == "sigmoid":
        signs = [[1.0 if value == 1 else -1.0 for value in row] for row in pairs.tolist()]
        terms = -F.logsigmoid(torch.tensor(signs, dtype=torch.float64) * (logits + bias))
        return terms[~pairs.isnan()].sum() / TOTAL
    rows = [*zip(logits, pairs.tolist(), strict=True)]
    rows += zip(logits.T, pairs.T.tolist(), strict=True)
    return sum(entropy_of_row(*row) for row in rows) / (2 * TOTAL)


def loss_of_processes(name):
    """Loss of all processes together, and gradients of embeddings, scale and bias."""
    with distributed.processes(CPU, 60):
        audio, text, pairs = embeddings()
        local, scale = distributed.share(TOTAL), torch.tensor(1.5, dtype=torch.float64)
        objective = LOSSES[name]().double()
        leaves = [torch.nn.Parameter(leaf) for leaf in (audio, text, scale)]
        leaves += objective.parameters()
        sums = GradientSum(leaves)
        units = [F.normalize(leaf[local], dim=-1) for leaf in leaves[:2]]
        loss = objective(*units, leaves[2], (pairs[local], pairs.T[local]))
        sums.expect()
        loss.backward()
        sums.finish()
        return [distributed.sum_in_place(loss.detach()), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("world, rows_at_once", [(1, TOTAL), (1, 2), (2, TOTAL), (3, 1)])
def test_loss_and_gradients_equal_the_formula_however_rows_are_distributed(
    together, monkeypatch, name, world, rows_at_once
):
    monkeypatch.setattr("paraclap.training.losses.LOGITS_AT_ONCE", rows_at_once * TOTAL)
    audio, text, pairs = embeddings()
    scale, bias = (torch.tensor(value, dtype=torch.float64) for value in (1.5, -10.0))
    leaves = [audio, text, scale, *([bias] if name == "sigmoid" else [])]
    for leaf in leaves:
        leaf.requires_grad_()
    loss = by_formula(name, audio, text, scale, pairs, bias)
    expected = [loss.detach(), *torch.autograd.grad(loss, leaves)]
    run = together(world, loss_of_processes, name)
    assert run.codes == [0] * world, run.errors
    for result in run.results:
        for found, value in zip(result, expected, strict=True):
            torch.testing.assert_close(found, value, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_loss_without_unknown_pairs_is_bit_equal_to_the_plain_formula(name):
    """In float32; a partial match is a negative."""
    audio, text, pairs = (t.float() for t in embeddings())
    pairs = torch.where(pairs.isnan(), 0.5, pairs)
    audio, text = F.normalize(audio, dim=-1), F.normalize(text, dim=-1)
    objective, scale = LOSSES[name](), torch.tensor(2.0)
    found = objective(audio, text, scale, (pairs, pairs.T))
    true = (pairs == 1).float()
    logits, others = scaled_cosines(audio, text, scale), scaled_cosines(text, audio, scale)
    if name == "sigmoid":
        expected = -F.logsigmoid((2 * true - 1) * (logits + objective.bias)).sum() / TOTAL
    else:
        sums = [
            F.cross_entropy(rows, targets / targets.sum(dim=1, keepdim=True), reduction="sum")
            for rows, targets in ((logits, true), (others, true.T))
        ]
        expected = (sums[0] + sums[1]) / (2 * TOTAL)
    assert torch.equal(found, expected)


def test_unknown_pair_is_not_in_the_denominators():
    """Two clips; it is unknown if caption 1 is true of clip 0. Cosines .8, .2; .1, .5."""
    audio = torch.eye(2, dtype=torch.float64)
    text = torch.tensor([[0.8, 0.1], [0.2, 0.5]], dtype=torch.float64)
    pairs = torch.tensor([[1, NAN], [0, 1]], dtype=torch.float64)
    clip_1 = -0.5 + math.log(math.exp(0.1) + math.exp(0.5))
    caption_0 = -0.8 + math.log(math.exp(0.8) + math.exp(0.1))
    loss = ContrastiveLoss()(audio, text, torch.tensor(0.0), (pairs, pairs.T))
    assert loss.item() == pytest.approx((clip_1 + caption_0) / 4, rel=1e-12)


# --- Missing labels ------------------------------------------------------------------------------


@pytest.fixture
def partly_labelled(config, tmp_path):
    """Arguments of a run where every second clip has no emotion label."""
    table = pd.read_parquet(yaml.safe_load(open(config))["data"]["captions"])
    names = table["caption_descriptors"].tolist()
    kept = [
        [number % 2 == 0 or name != "emotion" for name in row] for number, row in enumerate(names)
    ]
    for column in ("captions", "caption_descriptors"):
        rows = zip(table[column].tolist(), kept, strict=True)
        table[column] = [[v for v, keep in zip(*row, strict=True) if keep] for row in rows]
    table.to_parquet(tmp_path / "partly.parquet")
    return [config, f"data.captions={tmp_path / 'partly.parquet'}"]


def test_unlabelled_clips_are_no_negatives_of_captions_with_the_label(partly_labelled):
    run = loop.Trainer(read_settings([*partly_labelled, "captions.phrase_count_probs=[1.0]"]))
    dataset, seen = run.dataset(), set()
    for batch in run.loader():
        phrases = [dataset.phrases[row] for row in batch["row"]]
        for clip, row in zip(phrases, batch["matches"][0].tolist(), strict=True):
            for text, value in zip(batch["captions"], row, strict=True):
                owners = [p for p in phrases if text in p.get("emotion", [])]
                if owners and "emotion" not in clip:
                    assert math.isnan(value)
                elif owners:
                    assert value == float(text in clip["emotion"])
                seen.add((bool(owners), "emotion" in clip))
        assert batch["matches"][0].diagonal().eq(1).all()
        assert math.isfinite(run.training_step(batch)["loss"])
    assert seen == {(named, known) for named in (True, False) for known in (True, False)}
