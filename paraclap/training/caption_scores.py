"""Validation without labels: retrieval between clips and their captions, and the loss.

Each clip has one caption, drawn as in training but the same in every validation and for every
`train.seed`. A caption is a correct answer for each clip that it is true of, as in the loss.

Letters: B clips, K distinct captions, H pooled values of a caption, D embedding size.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torch import nn

from paraclap.data.captions import Caption, ClipPhrases, draw_caption, match_matrix
from paraclap.distributed import share, sum_in_place
from paraclap.evaluation.embed import TEXT_BATCH, embed_texts
from paraclap.evaluation.retrieval import DEPTHS, score_retrieval
from paraclap.evaluation.zero_shot import known_speakers
from paraclap.model.modeling_paraclap import ParaCLAPModel, ParaCLAPProcessor
from paraclap.settings import Settings

CLIPS = 2000
"""Most clips of a corpus that are used; time and memory grow with their square."""


def drawn_clips(clips: int) -> np.ndarray:
    """Return the rows of a table of `clips` rows that are used, in order."""
    return np.sort(np.random.default_rng(0).permutation(clips)[:CLIPS])


class CaptionScores:
    """Clips of a corpus with their captions.

    Attributes:
        texts: of the distinct captions (K).
        captions: number of the caption of each clip (B,).
        matches: (B, K), see `match_matrix`.
        speakers: of the clips; None = all unknown.
        chance: scores of constant embeddings.
        pooled: (K, H) captions as pooled by the text encoder while it is frozen.
    """

    def __init__(self, table: pd.DataFrame, settings: Settings) -> None:
        self.settings = settings
        phrases, numbers = [], {}
        self.captions = np.empty(len(table), np.int64)
        for row, described in enumerate(ClipPhrases(table)):
            rng = np.random.default_rng(np.random.SeedSequence(0, spawn_key=(row,)))
            caption: Caption = draw_caption(described, settings.captions, rng)
            self.captions[row] = numbers.setdefault(caption, len(numbers))
            phrases.append(described)
        self.texts = [caption.text for caption in numbers]
        self.matches = match_matrix(phrases, list(numbers)).numpy()
        self.speakers = known_speakers(table)
        self.chance: dict[str, Mapping[str, float]] | None = None
        self.pooled: torch.Tensor | None = None

    def __call__(
        self,
        model: ParaCLAPModel,
        processor: ParaCLAPProcessor,
        audio: np.ndarray,
        objective: nn.Module | None = None,
    ) -> dict[str, float]:
        """Score a model in evaluation mode.

        Args:
            model: to score.
            processor: of the model.
            audio: unit embeddings of the clips (B, D).
            objective: loss of the run; None = no loss.

        Returns:
            `R@1`, the mean of both directions, and that of `chance`; by direction the values of
            `score_retrieval`; `validation_loss`.
        """
        texts = self._embed(model, processor)
        found = score_retrieval(
            audio,
            texts.numpy(),
            lambda clips, captions: self.matches[clips, captions],
            self.captions,
            self.speakers,
            precision=False,
            chance=self.chance,
        )
        self.chance = {direction: values["chance"] for direction, values in found.items()}
        scores = {
            "R@1": float(np.mean([values["R@1"] for values in found.values()])),
            "R@1_chance": float(np.mean([values["R@1"] for values in self.chance.values()])),
        }
        for direction, values in found.items():
            names = (*(f"R@{depth}" for depth in DEPTHS), "median_rank", "mean_rank")
            scores |= {f"{direction}/{name}": values[name] for name in names}
            if values["interval"] is not None:
                low, high = values["interval"]
                scores |= {f"{direction}/R@1_low": low, f"{direction}/R@1_high": high}
        if objective is not None:
            scores["validation_loss"] = self._loss(model, torch.from_numpy(audio), texts, objective)
        return scores

    @torch.inference_mode()
    def _embed(self, model: ParaCLAPModel, processor: ParaCLAPProcessor) -> torch.Tensor:
        """Embed the distinct captions (K, D), whose pooled states are kept while they are fixed."""
        if "text" not in model.frozen:
            return embed_texts(model, processor, self.texts)
        if self.pooled is None:
            parts = []
            for first in range(0, len(self.texts), TEXT_BATCH):
                batch = self.texts[first : first + TEXT_BATCH]
                tokens = processor.tokenizer(
                    batch, padding=True, truncation=True, return_tensors="pt"
                ).to(model.device)
                parts.append(model.pool("text", tokens.input_ids, tokens.attention_mask))
            self.pooled = torch.cat(parts)
        return model.project("text", self.pooled).float().cpu()

    @torch.inference_mode()
    def _loss(
        self,
        model: ParaCLAPModel,
        audio: torch.Tensor,
        texts: torch.Tensor,
        objective: nn.Module,
    ) -> float:
        """Mean loss of batches of about `train.batch_size` clips in an order that is fixed."""
        order = np.random.default_rng(0).permutation(len(audio))
        size, total = self.settings.train.batch_size, 0.0
        with torch.autocast(model.device.type, enabled=False):
            for rows in np.array_split(order, max(1, round(len(order) / size))):
                captions, own = self.captions[rows], share(len(rows))
                true = torch.from_numpy(self.matches[rows][:, captions])
                if self.settings.loss.positives == "own":
                    true = torch.eye(len(rows))
                matches = tuple(pairs[own].to(model.device) for pairs in (true, true.T))
                loss = objective(
                    audio[rows[own]].to(model.device),
                    texts[captions[own]].to(model.device),
                    model.logit_scale,
                    matches,
                )
                total += sum_in_place(loss).item() * len(rows)
        return total / len(order)
