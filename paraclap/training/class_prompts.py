"""Class-prompt loss: cross entropy over all classes, each the mean embedding of its phrases.

    class_prompts = ClassPrompts(ClipPhrases(table), "emotion", processor)
    loss = class_prompts.loss(audio, texts, logit_scale, rows)

The phrases of a class ("emotion is anger", "the speaker sounds angry", ...) form a prompt ensemble,
as in evaluation. Each labelled clip is contrasted with all classes in every step, whether or not
the batch contains them. Clips without the label are ignored.

Letters: N training clips, b of this process, W phrases, K classes, L tokens, D embedding size.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from transformers import ProcessorMixin

from paraclap.data.captions import Phrases
from paraclap.model.modeling_paraclap import scaled_cosines
from paraclap.settings import SettingsError

UNKNOWN = -1  # class of a clip without the label
MAX_CLASSES = 1000  # all of their phrases are encoded in each step, and weighted by one matrix


class ClassPrompts:
    """Phrases of the classes of one descriptor, and the class of each clip.

    Attributes:
        classes: first phrase of each class (K).
        input_ids: tokens of all phrases (W, L).
        attention_mask: (W, L).
        weights: (K, W), matrix that averages over the phrases of a class.
        labels: class of each clip (N,), `UNKNOWN` without the label.
    """

    def __init__(
        self, phrases: Sequence[Phrases], descriptor: str, processor: ProcessorMixin
    ) -> None:
        known = {p[descriptor][0]: tuple(p[descriptor]) for p in phrases if descriptor in p}
        if len(known) < 2:
            raise SettingsError(
                f"loss.class_prompts requires at least 2 classes of {descriptor} with phrases, "
                f"found {len(known)}; set loss.class_prompts=0"
            )
        if len(known) > MAX_CLASSES:
            raise SettingsError(
                f"loss.class_prompts: {len(known)} classes of {descriptor}, expected at most "
                f"{MAX_CLASSES}; set loss.class_prompts=0, or merge labels"
            )
        self.classes = sorted(known)
        numbers = {name: number for number, name in enumerate(self.classes)}
        wordings = [(numbers[name], text) for name in self.classes for text in known[name]]
        owners = F.one_hot(torch.tensor([number for number, _ in wordings])).T.float()
        self.weights = owners / owners.sum(dim=1, keepdim=True)
        tokens = processor.tokenizer(
            [text for _, text in wordings], padding=True, truncation=True, return_tensors="pt"
        )
        self.input_ids, self.attention_mask = tokens.input_ids, tokens.attention_mask
        self.labels = torch.tensor(
            [numbers[p[descriptor][0]] if descriptor in p else UNKNOWN for p in phrases]
        )

    def loss(
        self,
        audio: torch.Tensor,
        texts: torch.Tensor,
        logit_scale: torch.Tensor,
        rows: Sequence[int],
    ) -> torch.Tensor:
        """Return the sum of the cross entropies of local clips.

        Args:
            audio: unit embeddings (b, D).
            texts: unit embeddings of the phrases (W, D).
            logit_scale: logarithm of the factor on the cosines.
            rows: rows of the clips in the table (b).
        """
        class_prompts = F.normalize(self.weights.to(texts) @ texts, dim=-1)
        logits = scaled_cosines(audio, class_prompts, logit_scale)
        labels = self.labels[list(rows)].to(logits.device)
        return F.cross_entropy(logits, labels, ignore_index=UNKNOWN, reduction="sum")
