"""Zero-shot classifier of clips: prompts embedded once, for any number of clips.

Letters: B clips, K prompts, D embedding size.

The *cosine* of the embeddings of clip and prompt can be compared across clips and prompts of one
model. The *probability* is the softmax over the given prompts of the cosines times the learned
logit scale: it compares these prompts, sums to 1 even if none of them fits, and depends on the
other prompts. *none_of_these* is the probability of a catch-all class beside the given prompts,
the mean of `NEUTRAL_PROMPTS`: near 0, some prompt fits better than a neutral one; near 1, none
does. It is not calibrated, and not the probability that a clip contains no speech.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from paraclap.data.trained_on import untrained
from paraclap.evaluation.adaptation import Reference
from paraclap.evaluation.embed import class_probabilities, embed_classes
from paraclap.evaluation.prompts import PromptError
from paraclap.model.modeling_paraclap import ParaCLAPModel, ParaCLAPProcessor
from paraclap.model.onnx import OnnxModel

NEUTRAL_PROMPTS = ("a person is speaking", "speech", "someone is talking", "a recording of a voice")
"""Prompts that fit any speech; their mean embedding is the class `none_of_these`."""

Prompts = Sequence[str] | Mapping[str, Sequence[str]]
"""Prompts, or name -> prompts whose embeddings are averaged."""


@dataclass(frozen=True)
class ZeroShotClassifier:
    """Embedded prompts, applied to embeddings of clips.

    Attributes:
        names: of the classes (K,).
        texts: embeddings of the classes, and of `NEUTRAL_PROMPTS` (K + 1, D).
        model: with the logit scale.
        untrained: names of the classes that no caption of the training describes, see `untrained`
            of paraclap.data.trained_on.
        reference: relative to which clips are classified; None = as embedded.
    """

    names: tuple[str, ...]
    texts: np.ndarray
    model: ParaCLAPModel | OnnxModel
    untrained: tuple[str, ...] = ()
    reference: Reference | None = None

    @property
    def columns(self) -> list[str]:
        """Names of the columns of scores."""
        kinds = [f"{kind}.{name}" for kind in ("probability", "cosine") for name in self.names]
        return ["prediction", "confidence", "none_of_these", *kinds]

    def __call__(self, audio: np.ndarray) -> pd.DataFrame:
        """Classify clips by their embeddings (B, D).

        Returns:
            `prediction` (name of the class with the highest cosine), `confidence` (its
            probability), `none_of_these`, and for each class `probability.NAME` and `cosine.NAME`;
            see the head of this file.
        """
        if self.reference is not None:
            audio = self.reference.centred(audio)
        all_cosines = audio @ self.texts.T
        cosines = all_cosines[:, :-1]
        probabilities = class_probabilities(self.model, cosines)
        columns = {
            "prediction": np.array(self.names, dtype=object)[cosines.argmax(axis=1)],
            "confidence": probabilities.max(axis=1),
            "none_of_these": class_probabilities(self.model, all_cosines)[:, -1],
        }
        for kind, values in (("probability", probabilities), ("cosine", cosines)):
            columns |= {f"{kind}.{name}": values[:, k] for k, name in enumerate(self.names)}
        return pd.DataFrame(columns)


def build_classifier(
    model: ParaCLAPModel | OnnxModel,
    processor: ParaCLAPProcessor,
    prompts: Prompts,
    template: str = "{}",
) -> ZeroShotClassifier:
    """Embed prompts, or name -> prompts, inserted in the place {} of a template.

    Raises:
        PromptError: if there is no prompt, two are equal, or the template has no {}.
    """
    if isinstance(prompts, str):
        raise TypeError(f"expected a list of prompts, given a string: {prompts!r}")
    if template.count("{}") != 1:
        raise PromptError(f"template {template!r} must contain {{}} once, for the prompt")
    if not isinstance(prompts, Mapping):
        if len(set(prompts)) < len(prompts):
            raise PromptError(f"a prompt is given twice: {list(prompts)}")
        prompts = {prompt: (prompt,) for prompt in prompts}
    if not prompts or not all(name.strip() for name in prompts):
        raise PromptError("expected at least one prompt, none of them empty")
    filled = {
        name: tuple(template.replace("{}", text) for text in texts)
        for name, texts in prompts.items()
    }
    classes = embed_classes(model, processor, filled)
    neutral = embed_classes(model, processor, {"": NEUTRAL_PROMPTS})
    texts = torch.cat([classes, neutral]).numpy()
    unknown = tuple(untrained(model.config, filled))
    return ZeroShotClassifier(tuple(prompts), texts, model, unknown)
