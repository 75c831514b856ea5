"""Losses: graded targets, hard negatives and pairs of which nothing is known, by formula."""

import math

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import yaml

from paraclap import distributed
from paraclap.model.modeling_paraclap import scaled_cosines
from paraclap.training import loop
from paraclap.training.config import SettingsError, read_settings
from paraclap.training.losses import OBJECTIVES, ContrastiveLoss
from paraclap.training.trainer import objective_of

CPU = torch.device("cpu")
TOTAL = 7  # rows; no number of processes here divides it
NAN = math.nan
CHOICES = (
    ("contrastive", {}),
    ("contrastive", {"graded": 0.4, "graded_temperature": 0.3}),
    ("contrastive", {"hard_negatives": 3.0}),
    ("contrastive", {"graded": 0.2, "hard_negatives": 1.0}),
    ("sigmoid", {}),
)


def embeddings():
    generator = torch.Generator().manual_seed(3)
    audio, text = torch.randn(2, TOTAL, 4, generator=generator, dtype=torch.float64)
    values = torch.tensor([0.0, 0.5, 1.0, NAN], dtype=torch.float64)
    pairs = values[torch.randint(4, (TOTAL, TOTAL), generator=generator)]
    pairs.fill_diagonal_(1.0)
    pairs[:, 2] = 1.0  # true of every clip
    pairs[4] = torch.where(torch.arange(TOTAL) == 4, 1.0, NAN)  # a clip of which little is known
    return audio, text, pairs


def entropy_of_row(logits, cosines, values, graded=0.0, graded_temperature=0.2, hard_negatives=0.0):
    """Cross entropy of one clip with captions, or of one caption with clips, term by term."""
    known = [place for place, value in enumerate(values) if not math.isnan(value)]
    true = [place for place in known if values[place] == 1]
    false = [place for place in known if values[place] != 1]
    alike = {place: math.exp(values[place] / graded_temperature) for place in known}
    hardness = {place: math.exp(hard_negatives * cosines[place].item()) for place in false}
    weights = dict.fromkeys(true, 1.0)
    weights |= {p: len(false) * h / sum(hardness.values()) for p, h in hardness.items()}
    total = sum(weights[place] * logits[place].exp() for place in known)
    loss = 0.0
    for place in known:
        share = (1 - graded) / len(true) if place in true else 0.0
        share += graded * alike[place] / sum(alike.values())
        loss = loss - share * (weights[place] * logits[place].exp() / total).log()
    return loss


def by_formula(name, choices, audio, text, logit_scale, pairs, bias):
    cosines = F.normalize(audio, dim=-1) @ F.normalize(text, dim=-1).T
    logits = logit_scale.exp() * cosines
    if name == "sigmoid":
        signs = [[1.0 if value == 1 else -1.0 for value in row] for row in pairs.tolist()]
        terms = -F.logsigmoid(torch.tensor(signs, dtype=torch.float64) * (logits + bias))
        return terms[~pairs.isnan()].sum() / TOTAL
    rows = [*zip(logits, cosines, pairs.tolist(), strict=True)]
    rows += zip(logits.T, cosines.T, pairs.T.tolist(), strict=True)
    return sum(entropy_of_row(*row, **choices) for row in rows) / (2 * TOTAL)


def in_shares(name, choices):
    """Loss of all processes together, and gradients of embeddings, scale and bias."""
    with distributed.processes(CPU, 20):
        audio, text, pairs = embeddings()
        own, scale = distributed.share(TOTAL), torch.tensor(1.5, dtype=torch.float64)
        objective = OBJECTIVES[name](**choices).double()
        leaves = [torch.nn.Parameter(leaf) for leaf in (audio, text, scale)]
        leaves += objective.parameters()
        sums = distributed.GradientSum(leaves)
        units = [F.normalize(leaf[own], dim=-1) for leaf in leaves[:2]]
        loss = objective(*units, leaves[2], (pairs[own], pairs.T[own]))
        sums.expect()
        loss.backward()
        sums.finish()
        return [distributed.sum_in_place(loss.detach()), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("name, choices", CHOICES)
@pytest.mark.parametrize("world, rows_at_once", [(1, TOTAL), (1, 2), (2, TOTAL), (3, 1)])
def test_loss_and_gradients_are_those_of_the_formula_however_rows_are_shared(
    together, monkeypatch, name, choices, world, rows_at_once
):
    monkeypatch.setattr("paraclap.training.losses.LOGITS_AT_ONCE", rows_at_once * TOTAL)
    audio, text, pairs = embeddings()
    scale, bias = (torch.tensor(value, dtype=torch.float64) for value in (1.5, -10.0))
    leaves = [audio, text, scale, *([bias] if name == "sigmoid" else [])]
    for leaf in leaves:
        leaf.requires_grad_()
    loss = by_formula(name, choices, audio, text, scale, pairs, bias)
    expected = [loss.detach(), *torch.autograd.grad(loss, leaves)]
    run = together(world, in_shares, name, choices)
    assert run.codes == [0] * world, run.errors
    for result in run.results:
        for found, value in zip(result, expected, strict=True):
            torch.testing.assert_close(found, value, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_where_all_is_known_no_bit_changes(name):
    """The plain formulas in float32; what agrees in part is as wrong as what does not agree."""
    audio, text, pairs = (t.float() for t in embeddings())
    pairs = torch.where(pairs.isnan(), 0.5, pairs)
    audio, text = F.normalize(audio, dim=-1), F.normalize(text, dim=-1)
    objective, scale = OBJECTIVES[name](), torch.tensor(2.0)
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


def test_a_pair_of_which_nothing_is_known_leaves_the_denominators():
    """Two clips; whether caption 1 is true of clip 0 is not known. Cosines .8, .2; .1, .5."""
    audio = torch.eye(2, dtype=torch.float64)
    text = torch.tensor([[0.8, 0.1], [0.2, 0.5]], dtype=torch.float64)
    pairs = torch.tensor([[1, NAN], [0, 1]], dtype=torch.float64)
    clip_1 = -0.5 + math.log(math.exp(0.1) + math.exp(0.5))
    caption_0 = -0.8 + math.log(math.exp(0.8) + math.exp(0.1))
    loss = ContrastiveLoss()(audio, text, torch.tensor(0.0), (pairs, pairs.T))
    assert loss.item() == pytest.approx((clip_1 + caption_0) / 4, rel=1e-12)


def test_half_agreement_gets_its_share_of_the_target():
    """One clip, captions that agree by 1, .5 and 0: at temperature .5 as e^2 : e : 1."""
    logits = torch.tensor([[0.3, 0.2, -0.1]], dtype=torch.float64)
    weights = [math.exp(2), math.exp(1), 1.0]
    targets = [0.4 * w / sum(weights) + 0.6 * (place == 0) for place, w in enumerate(weights)]
    normaliser = math.log(sum(map(math.exp, logits[0].tolist())))
    expected = sum(t * (normaliser - x) for t, x in zip(targets, logits[0].tolist(), strict=True))
    objective = ContrastiveLoss(graded=0.4, graded_temperature=0.5)
    pairs = torch.tensor([[1.0, 0.5, 0.0]], dtype=torch.float64)
    found = objective._cross_entropy(logits, torch.tensor(1.0), pairs)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_hard_negatives_move_weight_between_negatives_and_leave_positives():
    generator = torch.Generator().manual_seed(0)
    cosines = torch.rand(5, 8, generator=generator, dtype=torch.float64) * 2 - 1
    pairs = (torch.rand(5, 8, generator=generator) < 0.3).double()
    pairs[:, 0] = 1.0
    pairs[3] = 1.0  # no negative at all
    gradients = {}
    for beta in (0.0, 4.0):
        logits = (10 * cosines).requires_grad_()
        loss = ContrastiveLoss(hard_negatives=beta)._cross_entropy(
            logits, torch.tensor(10.0), pairs
        )
        (gradients[beta],) = torch.autograd.grad(loss, logits)
        assert loss.isfinite()
    plain, hard = gradients[0.0], gradients[4.0]
    assert torch.equal(plain[3], hard[3])
    for row in (0, 1, 2, 4):
        true = pairs[row] == 1
        ratios = hard[row] / plain[row]
        hardest, easiest = cosines[row][~true].argmax(), cosines[row][~true].argmin()
        assert ratios[~true][hardest] > ratios[~true][easiest]
        targets = true.double() / true.sum()
        taken = (hard[row] + targets)[true] / (plain[row] + targets)[true]
        assert torch.allclose(taken, taken[:1])  # their shares among each other are as before


@pytest.mark.parametrize(
    "given, message",
    [
        (["loss.graded=0.2", "loss.name=sigmoid"], "loss.graded .* loss.name=sigmoid"),
        (["loss.hard_negatives=1", "loss.name=sigmoid"], "loss.hard_negatives .* loss.name"),
        (["loss.graded=0.2", "loss.positives=own"], "loss.graded .* loss.positives=own"),
        (["loss.graded=1.2"], "loss.graded is 1.2"),
        (["loss.graded_temperature=0"], "loss.graded_temperature is 0"),
        (["loss.hard_negatives=-1"], "loss.hard_negatives is -1"),
    ],
)
def test_impossible_objectives_are_refused_by_name(config, given, message):
    with pytest.raises(ValueError, match=message):
        objective_of(read_settings([config, *given]).loss)


# --- Missing labels ------------------------------------------------------------------------------


@pytest.fixture
def partly_labelled(config, tmp_path):
    """Arguments of a run on captions of which every second clip says nothing of emotion."""
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


def test_clips_without_a_label_are_no_negatives_of_captions_that_tell_it(partly_labelled):
    run = loop.Trainer(read_settings([*partly_labelled, "captions.phrase_count_probs=[1.0]"]))
    dataset, seen = run.dataset(), set()
    for batch in run.loader():
        phrases = [dataset.phrases[row] for row in batch["row"]]
        for clip, row in zip(phrases, batch["matches"][0].tolist(), strict=True):
            for text, value in zip(batch["captions"], row, strict=True):
                tells = [p for p in phrases if text in p.get("emotion", [])]
                if tells and "emotion" not in clip:
                    assert math.isnan(value)
                elif tells:
                    assert value == float(text in clip["emotion"])
                seen.add((bool(tells), "emotion" in clip))
        assert batch["matches"][0].diagonal().eq(1).all()
        assert math.isfinite(run.training_step(batch)["loss"])
    assert seen == {(told, known) for told in (True, False) for known in (True, False)}


OPTIONS = ("loss.graded=0.3", "loss.hard_negatives=2")


def test_run_with_every_option_resumes_with_the_same_weights(partly_labelled):
    given = [*partly_labelled, *OPTIONS, "loss.class_prompts=1", "train.keep=5"]
    whole = loop.train(read_settings(given))
    expected = {name: tensor.clone() for name, tensor in whole.model.state_dict().items()}
    at = whole.output / "checkpoints" / "step_00000003"
    again = loop.train(read_settings([*given, f"train.resume={at}"]))
    for name, tensor in again.model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("option", OPTIONS)
def test_resuming_with_another_objective_is_refused(config, option):
    loop.train(read_settings([config, "train.epochs=1"]))
    with pytest.raises(SettingsError, match=option.partition("=")[0]):
        loop.train(read_settings([config, "train.epochs=1", option]))
