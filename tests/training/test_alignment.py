"""Alignment of corpora: distances of means and covariances, over all pairs of corpora."""

import numpy as np
import pytest
import torch

from paraclap.training import loop
from paraclap.training.alignment import COVARIANCE, CorpusAlignment
from paraclap.training.config import read_settings


def distance(first: np.ndarray, second: np.ndarray) -> float:
    means = np.square(first.mean(axis=0) - second.mean(axis=0)).sum()
    covariances = np.square(np.cov(first.T) - np.cov(second.T)).sum()
    return means + COVARIANCE * covariances


def test_loss_is_the_mean_over_pairs_of_corpora():
    alignment = CorpusAlignment(["a", "b", "a", "c", "b", "c", "c", "a", "d"])
    audio = torch.nn.functional.normalize(
        torch.randn(9, 4, generator=torch.Generator().manual_seed(0)), dim=1
    )
    rows = [8, 7, 6, 5, 4, 3, 2, 1, 0]  # d has one clip, which has no covariance
    parts = [audio.numpy()[[8 - row for row in of]] for of in ([0, 2, 7], [1, 4], [3, 5, 6])]
    expected = [distance(parts[i], parts[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert alignment(audio, rows).item() == pytest.approx(np.mean(expected), rel=1e-5)


def test_equal_corpora_are_aligned_and_one_corpus_has_no_loss():
    audio = torch.randn(6, 3, requires_grad=True)
    alike = torch.cat([audio, audio])
    alignment = CorpusAlignment(["a"] * 6 + ["b"] * 6)
    assert alignment(alike, range(12)).item() == pytest.approx(0, abs=1e-9)
    alone = alignment(audio, range(6))
    alone.backward()
    assert alone.item() == 0 and not audio.grad.any()


def test_gradient_brings_corpora_together():
    audio = torch.randn(8, 3, generator=torch.Generator().manual_seed(1)) + torch.tensor(
        [[0.0]] * 4 + [[2.0]] * 4
    )
    audio.requires_grad_()
    alignment = CorpusAlignment(["a"] * 4 + ["b"] * 4)
    losses = []
    for _ in range(50):
        loss = alignment(audio, range(8))
        losses.append(loss.item())
        (gradient,) = torch.autograd.grad(loss, audio)
        with torch.no_grad():
            audio -= 1e-3 * gradient
    assert losses[-1] < 0.1 * losses[0]


def test_training_with_one_corpus_is_not_changed(config):
    given = [config, "train.max_steps=2"]
    expected = loop.train(read_settings(given)).model.state_dict()
    found = loop.train(read_settings([*given, "loss.alignment=1", "train.resume=never"]))
    for name, tensor in found.model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
