"""Model, loss and optimiser of a run."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from paraclap.audio import SAMPLING_RATE
from paraclap.data.captions import ClipPhrases
from paraclap.model.build import build_model
from paraclap.model.engines import has_bfloat16
from paraclap.model.lora import add_adapters, is_adapter
from paraclap.model.modeling_paraclap import ParaCLAPModel, encoder_hash
from paraclap.model.towers import base_encoders, constant_branches
from paraclap.settings import Settings, SettingsError
from paraclap.training.alignment import CorpusAlignment
from paraclap.training.class_prompts import ClassPrompts
from paraclap.training.data import TrainingData
from paraclap.training.encoding import prepare_encoders
from paraclap.training.losses import LOSSES
from paraclap.training.optim import (
    learning_rate_factor,
    new_optimizer,
    parameter_groups,
    seed_step,
    unfreeze_steps,
)
from paraclap.training.step import TrainingStep
from paraclap.training.tables import provenance

PARTS = ("audio_branch", "text_branch", "audio_projection", "text_projection")


class Learner:
    """Model, loss and optimiser of a run.

    Attributes:
        model: ParaCLAP model on its device.
        processor: of the model.
        objective: loss.
        gradients: forward and backward pass of a step.
        optimizer: of all parameters that are ever trained.
        constant: pretrained encoders that are never trained, adapters aside, and the hashes of
            their weights.
        unfreezing: step from which each part of `train.unfreeze` is trained.
        bfloat16: whether encoders and projections run under bfloat16 autocast.
        start: trained parameters of the model and their values in `model.start`, for
            `train.keep_old`.
    """

    def __init__(
        self, settings: Settings, data: TrainingData, device: torch.device, steps: int
    ) -> None:
        train = settings.train
        self.settings = settings
        self.steps = steps
        self.bfloat16 = train.precision == "bf16" or (
            train.precision == "auto" and has_bfloat16(device)
        )
        seed_step(train.seed, 0)
        self.model: ParaCLAPModel
        self.model, self.processor = build_model(settings.model, data.texts(), data.standards())
        longest = getattr(self.processor.feature_extractor, "max_samples", None)
        if longest is not None and settings.data.crop_seconds * SAMPLING_RATE > longest:
            raise SettingsError(
                f"data.crop_seconds is {settings.data.crop_seconds:g}, the audio encoder reads at "
                f"most {longest / SAMPLING_RATE:g} s"
            )
        self.unfreezing = unfreeze_steps(train.unfreeze, self.model.frozen, steps)
        config = self.model.config
        constant = constant_branches(self.model, settings.model, self.unfreezing)
        self.constant = {
            f"{branch}_branch.base": encoder_hash(
                self.model.get_submodule(f"{branch}_branch.base"), None
            )
            for branch in constant
        }
        origins = base_encoders(self.model, settings.model, self.unfreezing) or {}
        lora = settings.model.lora
        config.base_encoders = {b: o for b, o in origins.items() if b not in lora.towers} or None
        add_adapters(self.model, lora, origins)
        config.provenance = provenance(settings, data.train_table, data.epochs, config.provenance)
        self.model.to(device)
        prepare_encoders(self.model, train.checkpoint_activations, train.compile)
        self.objective = LOSSES[settings.loss.name]().to(device)
        self.gradients = TrainingStep(
            self.model,
            self.objective,
            positives=settings.loss.positives,
            bfloat16=self.bfloat16,
            clip_norm=settings.optim.clip_norm,
            micro_batch=train.micro_batch,
            text_cache=train.text_cache,
            class_prompts=self._class_prompts(data),
            class_prompt_weight=settings.loss.class_prompts,
            alignment=self._alignment(data),
            alignment_weight=settings.loss.alignment,
        )
        groups = parameter_groups(self.model, settings.optim, self.objective, self.unfreezing)
        self.optimizer = new_optimizer(settings.optim, groups)
        trained = {p for group in groups for p in group["params"]} if train.keep_old else ()
        self.start = [
            (parameter, parameter.detach().clone())
            for name, parameter in self.model.named_parameters()
            if parameter in trained and ".lora_A." not in name  # of the product B A, B alone
        ]

    def _class_prompts(self, data: TrainingData) -> ClassPrompts | None:
        if not self.settings.loss.class_prompts:
            return None
        if not data.has_attributes:
            print("captions without labels: loss.class_prompts is not used")
            return None
        phrases = ClipPhrases(data.train_table)
        return ClassPrompts(phrases, self.settings.train.target, self.processor)

    def _alignment(self, data: TrainingData) -> CorpusAlignment | None:
        if not self.settings.loss.alignment or "corpus" not in data.train_table:
            return None
        return CorpusAlignment(data.train_table["corpus"])

    def set_learning_rates(self, step: int) -> float:
        """Set the rates of all parameter groups; returns the rate of the projections."""
        optim = self.settings.optim
        for group in self.optimizer.param_groups:
            factor = learning_rate_factor(step, self.steps, optim, group["start"])
            group["lr"] = group["base_lr"] * factor
        return optim.lr * learning_rate_factor(step, self.steps, optim)

    def update(self) -> None:
        """Take a step of the optimiser."""
        self.optimizer.step()
        self.model.clamp_logit_scale()

    @contextmanager
    @torch.no_grad()
    def interpolated(self) -> Iterator[None]:
        """Within the context, weights are interpolated with those of the start model.

        Interpolation of the weights of a fine-tuned and a zero-shot model as in Wortsman et al.,
        Robust fine-tuning of zero-shot models (2022), with `train.keep_old` = 1 - alpha.
        """
        share = self.settings.train.keep_old
        trained = [parameter.clone() for parameter, _ in self.start]
        for parameter, start in self.start:
            parameter.lerp_(start, share)
        yield
        for (parameter, _), weights in zip(self.start, trained, strict=True):
            parameter.copy_(weights)

    def unfreeze(self, step: int) -> list[str]:
        """Unfreeze the parts that are trained from `step` on; returns their names."""
        due = [part for part, first in self.unfreezing.items() if first <= step]
        due = sorted(set(due) & set(self.model.frozen))
        if due:
            self.gradients.unfreeze(due)
            prepare_encoders(self.model, self.settings.train.checkpoint_activations)
        return due

    def weight_norms(self) -> dict[str, float]:
        """Norm of the weights of each part of the model."""
        return {
            f"weight_norm/{part}": torch.nn.utils.get_total_norm(
                [p.detach() for p in self.model.get_submodule(part).parameters()]
            ).item()
            for part in PARTS
        }

    def nonfinite_weight(self) -> str | None:
        """Name of the first parameter that is not finite; None = all are finite."""
        named = [*self.model.named_parameters(), *self.objective.named_parameters()]
        return next((name for name, p in named if not bool(p.isfinite().all())), None)

    def state(self) -> dict[str, Any]:
        """State dicts of model, loss and optimiser; of `constant` encoders only hashes."""
        return {
            "model": dict(self._weights(constant=False)),
            "constant": self.constant,
            "objective": self.objective.state_dict(),
            "optimizer": {
                name: self.optimizer.state[parameter]
                for name, parameter in self._optimized()
                if parameter in self.optimizer.state
            },
            "vocabulary": self._vocabulary(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Load the state of a checkpoint; learning rates and the like are those of the settings.

        Raises:
            SettingsError: if it has other weights or another vocabulary, or was trained with other
                frozen encoders.
        """
        for name, expected in self.constant.items():
            if state["constant"].get(name) != expected:
                raise SettingsError(
                    f"the weights of the frozen {name} are not those of the checkpoint; set "
                    "another output or train.resume=never"
                )
        if state["vocabulary"] != self._vocabulary():
            raise SettingsError(
                "the vocabulary that is fitted to the captions is not that of the checkpoint; set "
                "another output or train.resume=never"
            )
        try:
            self.model.load_state_dict(dict(self._weights(constant=True)) | state["model"])
            self.objective.load_state_dict(state["objective"])
        except RuntimeError as error:
            raise SettingsError(
                f"the weights of the checkpoint do not fit the settings: "
                f"{' '.join(str(error).split())[:200]}"
            ) from error
        loaded = self.optimizer.state_dict()  # with the groups of the settings
        names = [name for name, _ in self._optimized()]
        loaded["state"] = {
            number: state["optimizer"][name]
            for number, name in enumerate(names)
            if name in state["optimizer"]
        }
        self.optimizer.load_state_dict(loaded)

    def _weights(self, constant: bool) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the entries of the model's state dict that are constant, or those that are not."""
        encoders = tuple(f"{name}." for name in self.constant)
        for name, weight in self.model.state_dict().items():
            if (name.startswith(encoders) and not is_adapter(name)) == constant:
                yield name, weight

    def _optimized(self) -> list[tuple[str, torch.nn.Parameter]]:
        """Names and parameters of the optimiser, in its order."""
        names = {p: f"model.{name}" for name, p in self.model.named_parameters()}
        names |= {p: f"objective.{name}" for name, p in self.objective.named_parameters()}
        groups = self.optimizer.param_groups
        return [(names[p], p) for group in groups for p in group["params"]]

    def _vocabulary(self) -> str:
        """Hash of the vocabulary: the same words with other numbers are other texts."""
        vocabulary = json.dumps(self.processor.tokenizer.get_vocab(), sort_keys=True)
        return hashlib.sha256(vocabulary.encode()).hexdigest()
