"""SpecAugment of the speech encoder: masked frames, modes, and random numbers."""

import numpy as np
import pytest
import torch

from paraclap import distributed
from paraclap.model.build import build_model
from paraclap.settings import MelSettings, TowerSettings
from paraclap.training import loop
from paraclap.training.config import read_settings
from paraclap.training.encoding import shortest_masked
from paraclap.training.losses import ContrastiveLoss
from paraclap.training.optim import seed_step
from paraclap.training.step import TrainingStep
from tiny_models import RATE, TEXTS, TINY_MEL, batch_of, model_of

TIME = {"mask_time_prob": 0.5, "mask_time_length": 4}
FEATURES = {"mask_feature_prob": 0.5, "mask_feature_length": 8}
LENGTHS = (9000, 6000, 1600, 400)  # samples: 13, 9, 1 and 1 frames of 14
MASKED = 100.0


def record_inputs(model):
    """Inputs of the transformer of the speech encoder: a list, extended by each forward pass."""
    seen = []

    def note(module, inputs, keywords):
        seen.append((inputs[0] if inputs else keywords["hidden_states"]).detach().clone())

    model.audio_branch.base.encoder.register_forward_pre_hook(note, with_kwargs=True)
    return seen


def masks_of(settings, options, train=True, frozen=()):
    """Masked values (B, N, H), those that differ without masks; valid frames (B, N)."""
    model, processor = model_of(settings, options, precise=False)
    model.freeze(frozen).train(train)
    if "masked_spec_embed" in dict(model.audio_branch.base.named_parameters()):
        torch.nn.init.constant_(model.audio_branch.base.masked_spec_embed, MASKED)
    batch = batch_of(processor, LENGTHS)
    seen = record_inputs(model)
    seed_step(3, 1)
    TrainingStep(model, ContrastiveLoss())(batch)
    passes = len(seen)
    model.eval()
    model.pool("audio", batch["input_values"], batch["padding_mask"])
    padded = [part for part in seen[:passes] if part.shape == seen[-1].shape]
    if not padded:  # one clip at a time, as frozen encoders do
        alone = [part.shape[1] for part in seen[:passes]]
        masked = [bool((part == MASKED).any() or (part == 0).all(dim=1).any()) for part in seen]
        return alone, masked[:passes]
    lengths = model.audio_branch.base._get_feat_extract_output_lengths(torch.tensor(LENGTHS))
    valid = torch.arange(seen[-1].shape[1]) < lengths[:, None]
    return padded[0] != seen[-1], valid


def test_frames_are_masked_within_the_valid_ones_of_each_clip(settings):
    masked, valid = masks_of(settings, TIME)
    frames = masked.any(dim=2)
    assert torch.equal(frames, masked.all(dim=2))  # all values of a frame
    for row in (0, 1):
        assert 4 <= (frames & valid)[row].sum() < valid[row].sum()
        assert not (frames & ~valid)[row].any()
    assert not (frames & valid)[2:].any()  # shorter than a mask: not masked


def test_the_same_features_are_masked_in_all_frames_of_a_clip(settings):
    masked, valid = masks_of(settings, FEATURES)
    columns = (masked & valid[..., None])[0, :13]
    assert torch.equal(columns.any(dim=0), columns.all(dim=0))
    assert 0 < columns[0].sum() < len(columns[0])
    assert not torch.equal(masked[0, 0], masked[1, 0])  # drawn for each clip


@pytest.mark.parametrize("options", [TIME, FEATURES], ids=["frames", "features"])
def test_nothing_is_masked_in_evaluation(settings, options):
    masked, _ = masks_of(settings, options, train=False)
    assert not masked.any()


@pytest.mark.parametrize("options", [TIME, FEATURES], ids=["frames", "features"])
def test_nothing_is_masked_in_a_frozen_encoder(settings, options):
    _, masked = masks_of(settings, options, frozen=["audio"])
    assert masked == [False] * len(LENGTHS)


def test_apply_spec_augment_switches_both_off(settings):
    masked, _ = masks_of(settings, {**TIME, **FEATURES, "apply_spec_augment": False})
    assert not masked.any()


@pytest.mark.parametrize("micro_batch", [0, 2])
def test_masks_depend_on_seed_and_step_only(settings, micro_batch):
    """The second pass of a micro-batch has the same masks."""
    model, processor = model_of(settings, {**TIME, **FEATURES}, precise=False)
    batch = batch_of(processor, LENGTHS)
    step = TrainingStep(model, ContrastiveLoss(), micro_batch=micro_batch)
    runs = []
    for number in (1, 1, 2):
        seen = record_inputs(model)
        np.random.rand(number)  # state of other generators
        seed_step(3, number)
        step(batch)
        runs.append(torch.cat(seen[: len(LENGTHS) // (micro_batch or 4)]))
        if micro_batch:
            assert torch.equal(torch.cat(seen[2:]), runs[-1])
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_shortest_batch_holds_a_mask(settings):
    model, _ = model_of(settings, TIME)
    encoder = model.audio_branch.base
    samples = shortest_masked(encoder)
    frames = encoder._get_feat_extract_output_lengths(torch.tensor([samples - 1, samples]))
    assert frames.tolist() == [3, 4]
    encoder.config.mask_time_prob = 0.0
    assert shortest_masked(encoder) == 0
    encoder.config.mask_time_prob, encoder.config.apply_spec_augment = 0.1, False
    assert shortest_masked(encoder) == 0


def test_shortest_batch_of_log_mel_frames_holds_a_mask(settings):
    log_mel = TINY_MEL | {"mask_time_prob": 0.5, "mask_time_length": 6}
    settings.audio, settings.mel = TowerSettings(config=log_mel), MelSettings(bins=24, stride=4)
    model, processor = build_model(settings, TEXTS)
    extractor = processor.feature_extractor
    samples = shortest_masked(model.audio_branch.base, extractor.mel)
    for length, frames in ((samples - 1, 5), (samples, 6)):
        inputs = extractor([np.ones(length, "f4")], sampling_rate=RATE, return_tensors="pt")
        assert inputs["input_values"].shape[1] == frames


@pytest.mark.parametrize("bucket", ["true", "false"])
def test_crops_shorter_than_the_mask_are_trained_on(config, bucket):
    masks = ["model.audio.config.mask_time_prob=0.5", "model.audio.config.mask_time_length=12"]
    short = ["data.crop_seconds=0.2", f"train.bucket={bucket}", "train.epochs=1"]
    run = loop.Trainer(read_settings([config, *masks, *short]))
    run.model.train()
    for batch in run.loader():
        assert batch["input_values"].shape[1] == shortest_masked(run.model.audio_branch.base)
        assert batch["padding_mask"].sum(dim=1).max() <= 3200
        assert run.training_step(batch)["loss"] is not None


def masks_in_steps(arguments, steps):
    """Masked frames (B, N) of the clips of this process in these steps."""
    with distributed.processes(torch.device("cpu"), 60):
        run = loop.Trainer(read_settings(arguments))
        run.model.train()
        seen, batch = record_inputs(run.model), next(iter(run.loader()))
        for run.step in steps:
            torch.nn.init.constant_(run.model.audio_branch.base.masked_spec_embed, MASKED)
            run.training_step(batch)
        return [(part == MASKED).all(dim=2) for part in seen]


def test_processes_draw_different_and_reproducible_masks(together, config):
    options = ["model.audio.config.mask_time_prob=0.5", "train.batch_size=4"]
    run = together(2, masks_in_steps, [config, *options], [5, 6, 5])
    assert run.codes == [0, 0], run.errors
    for fifth, sixth, again in run.results:
        assert fifth.any() and torch.equal(fifth, again) and not torch.equal(fifth, sixth)
    assert not torch.equal(run.results[0][0], run.results[1][0])
