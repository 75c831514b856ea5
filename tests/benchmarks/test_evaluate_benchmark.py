"""Benchmark of evaluation: all ways give the same cosines, and the table holds the medians."""

import numpy as np
import torch

from benchmarks import evaluate as benchmark
from paraclap.model.engines import FastModel
from tiny_models import TINY_AUDIO, TINY_TEXT


def test_plain_way_and_engines_give_the_same_cosines():
    config = {"audio_config": TINY_AUDIO, "text_config": {**TINY_TEXT, "vocab_size": 300}}
    model, processor = benchmark.build({**config, "projection_dim": 24}, seed=0)
    clips = [clip[: 4_000 + 800 * i] for i, clip in enumerate(benchmark.make_clips(3, seed=1))]
    ways = {benchmark.PLAIN: lambda some: benchmark.plain(model, processor, some)}
    for name, chosen in (("eager", model), ("folded", FastModel(model))):
        ways[name] = lambda some, m=chosen: benchmark.ours(m, processor, some, 60.0)
    results = benchmark.measure(ways, clips, 2, torch.device("cpu"))
    plain = results[benchmark.PLAIN]
    assert plain.cosines.shape == (3, 8) and len(plain.wall) == len(plain.cpu) == 2
    assert plain.cosines.std() > 0 and plain.memory > 0
    for name in ("eager", "folded"):
        assert np.abs(results[name].cosines - plain.cosines).max() < 1e-6


def test_table_has_ratios_of_medians_and_the_largest_change():
    cosines = np.array([[0.5, 0.25]])
    results = {
        benchmark.PLAIN: benchmark.Measured([2.0, 4.0, 3.0], [6.0, 6.0, 6.0], 1.5, cosines),
        "fast": benchmark.Measured([1.5, 1.5, 9.0], [4.0, 4.0, 4.0], 2.0, cosines + [[0, 1e-3]]),
    }
    assert benchmark.to_table(results, clips=6).splitlines()[2:] == [
        "| plain | 2.00 | 1.00 | 1.00 | 1.50 | - |",
        "| fast | 4.00 | 2.00 | 1.50 | 2.00 | 1.0e-03 |",
    ]


def test_clips_are_of_different_lengths_and_colours_and_repeatable():
    clips, again = (benchmark.make_clips(6, seed=3) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(clips, again, strict=True))
    assert len({len(clip) for clip in clips}) == 6
    assert all(16_000 <= len(clip) <= 160_000 for clip in clips)
    slopes = [np.corrcoef(clip[:-1], clip[1:])[0, 1] for clip in clips]
    assert max(slopes) - min(slopes) > 0.1
