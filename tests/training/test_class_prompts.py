"""Class-prompt loss: a class is the mean of its phrases; clips without the label have no term."""

import math

import pandas as pd
import pytest
import torch
import yaml

from paraclap.model.build import build_model
from paraclap.settings import SettingsError
from paraclap.training import loop
from paraclap.training.class_prompts import UNKNOWN, ClassPrompts
from paraclap.training.config import read_settings
from paraclap.training.losses import ContrastiveLoss
from paraclap.training.step import TrainingStep

PHRASES = [
    {"emotion": ["emotion is sad", "a sad voice"], "pitch": ["pitch is low"]},
    {"emotion": ["emotion is angry", "an angry voice", "fury"]},
    {"pitch": ["pitch is high"]},
    {"emotion": ["emotion is sad", "a sad voice"]},
]


@pytest.fixture
def class_prompts(tiny):
    return ClassPrompts(PHRASES, "emotion", tiny[1])


def test_classes_and_labels_come_from_the_phrases(class_prompts):
    assert class_prompts.classes == ["emotion is angry", "emotion is sad"]
    assert class_prompts.labels.tolist() == [1, 0, UNKNOWN, 1]
    assert len(class_prompts.input_ids) == 5  # of all wordings, each once


def test_loss_equals_hand_computation_and_ignores_unlabelled_clips(class_prompts):
    texts = torch.eye(5)
    audio = torch.nn.functional.normalize(torch.tensor([[1.0, 2, 3, 4, 5], [5, 0, 0, 1, 0]]), dim=1)
    found = class_prompts.loss(audio, texts, torch.tensor(math.log(10.0)), [0, 1])
    angry, sad = [1, 1, 1, 0, 0], [0, 0, 0, 1, 1]
    terms = []
    for clip, truth in zip(audio.tolist(), (1, 0), strict=True):
        logits = [
            10 * sum(x * y for x, y in zip(clip, mean, strict=True)) / math.sqrt(sum(mean))
            for mean in (angry, sad)
        ]
        terms.append(-logits[truth] + math.log(sum(map(math.exp, logits))))
    assert found.item() == pytest.approx(sum(terms), rel=1e-5)
    assert class_prompts.loss(audio, texts, torch.tensor(0.0), [2, 2]).item() == 0.0


def test_one_class_is_refused(tiny):
    with pytest.raises(ValueError, match="2 classes of pitch .* found 1"):
        ClassPrompts(PHRASES[:2], "pitch", tiny[1])


def test_more_classes_than_a_loss_can_hold_are_refused(tiny):
    many = [{"emotion": [f"emotion is {number}"]} for number in range(1001)]
    with pytest.raises(SettingsError, match="1001 classes of emotion, expected at most 1000"):
        ClassPrompts(many, "emotion", tiny[1])


@pytest.mark.parametrize("frozen", [[], ["text"]])
def test_step_adds_the_weighted_loss(settings, frozen):
    settings.projection_dropout = 0.0
    settings.freeze = frozen
    model, processor = build_model(
        settings, [p for row in PHRASES for t in row.values() for p in t]
    )
    model.eval()
    known = ClassPrompts(PHRASES, "emotion", processor)
    generator = torch.Generator().manual_seed(0)
    batch = {
        "input_values": 0.1 * torch.randn(4, 4000, generator=generator),
        "padding_mask": torch.ones(4, 4000, dtype=torch.long),
        "row": [3, 2, 1, 0],
        "own": [0, 1, 2, 3],
        "matches": (torch.eye(4), torch.eye(4)),
        **processor.tokenizer(["sad", "low", "angry", "sad"], padding=True, return_tensors="pt"),
    }
    losses = {
        weight: TrainingStep(
            model,
            ContrastiveLoss(),
            class_prompts=known if weight else None,
            class_prompt_weight=weight,
        )(batch).loss
        for weight in (0.0, 1.0, 0.5)
    }
    with torch.no_grad():
        texts = model.get_text_features(known.input_ids, known.attention_mask).pooler_output
        audio = model.get_audio_features(batch["input_values"]).pooler_output
    alone = known.loss(audio, texts, model.logit_scale, [3, 2, 1, 0]).item() / 4
    for weight in (1.0, 0.5):
        assert (losses[weight] - losses[0.0]).item() == pytest.approx(weight * alone, rel=1e-3)


def test_run_with_class_prompts_resumes_exactly(config):
    given = [config, "loss.class_prompts=1", "data.class_sampling_exponent=0", "train.keep=5"]
    whole = loop.train(read_settings(given))
    expected = {name: tensor.clone() for name, tensor in whole.model.state_dict().items()}
    at = whole.output / "checkpoints" / "step_00000003"
    assert at.exists(), sorted(at.parent.iterdir())
    again = loop.train(read_settings([*given, f"train.resume={at}"]))
    for name, tensor in again.model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_classes_are_sampled_equally_with_an_exponent_of_zero(config, tmp_path):
    table = pd.read_parquet(yaml.safe_load(open(config))["data"]["captions"])
    is_spare = (table["emotion"] == "anger") & table[["emotion", "split"]].duplicated()
    fewer = table[~is_spare]  # one clip of anger in each part
    fewer.to_parquet(tmp_path / "fewer.parquet")
    given = [config, f"data.captions={tmp_path / 'fewer.parquet'}", "train.epochs=20"]

    def drawn(*more):
        run = loop.Trainer(read_settings([*given, *more]))
        rows = [row for batch in run.batches() for _, row in batch]
        return run.data.train_table["emotion"].iloc[rows].value_counts(normalize=True)["anger"]

    assert drawn() < 0.08 and 0.14 < drawn("data.class_sampling_exponent=0") < 0.2
