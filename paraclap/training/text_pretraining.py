"""Text pretraining: the text side learns from captions alone, before the first step with audio."""

import torch

from paraclap.data.captions import equal_captions
from paraclap.data.dataset import CaptionDataset
from paraclap.distributed import agreed_signal, rank
from paraclap.model.modeling_paraclap import (
    ParaCLAPModel,
    ParaCLAPProcessor,
    clip_loss,
    scaled_cosines,
)
from paraclap.progress import with_progress
from paraclap.settings import OptimSettings, Settings
from paraclap.signals import Stopped, StopRequests
from paraclap.training.optim import learning_rate_factor, seed_step


def pretrain_text(
    model: ParaCLAPModel,
    processor: ParaCLAPProcessor,
    dataset: CaptionDataset,
    settings: Settings,
    requests: StopRequests | None = None,
) -> None:
    """Train text encoder and projection to separate captions of different meaning.

    This stage is short and not saved: a run that is stopped here starts anew. Every process
    computes all of it. A text encoder with random weights is trained here even if it is frozen
    afterwards.

    Args:
        model: on its device.
        processor: of the model.
        dataset: training captions.
        settings: of the run.
        requests: signals to this process.

    Raises:
        Stopped: if any process received a signal.
    """
    stage = settings.text_pretraining
    frozen = model.frozen
    if not (settings.model.text.name or settings.model.start):
        model.unfreeze()
    optim = OptimSettings(lr=stage.lr, text_lr=stage.lr, warmup_steps=stage.steps // 10)
    text_side = [p for name, p in model.named_parameters() if name.startswith("text_")]
    optimizer = torch.optim.AdamW(text_side, lr=stage.lr, weight_decay=optim.weight_decay)
    model.train()
    steps = range(stage.steps)
    title = "text pretraining" if rank() == 0 else None
    for step in with_progress(steps, stage.steps, title, "step"):
        factor = learning_rate_factor(step, stage.steps, optim)
        optimizer.param_groups[0]["lr"] = stage.lr * factor
        seed_step(settings.train.seed, step)
        loss = _loss(model, processor, dataset, step, stage.batch_size)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if requests is not None and (received := agreed_signal(requests)):
            raise Stopped(received, "stopped during text pretraining, which starts anew")
    model.freeze(frozen)


def _loss(
    model: ParaCLAPModel,
    processor: ParaCLAPProcessor,
    dataset: CaptionDataset,
    step: int,
    batch_size: int,
) -> torch.Tensor:
    """Contrastive loss of captions with themselves; captions of equal meaning are positives."""
    captions = dataset.text_batch(step, batch_size)
    tokens = processor.tokenizer(
        [caption.text for caption in captions], padding=True, truncation=True, return_tensors="pt"
    ).to(model.device)
    texts = model.get_text_features(tokens.input_ids, tokens.attention_mask).pooler_output
    cosines = scaled_cosines(texts, texts, model.logit_scale.detach())
    return clip_loss(cosines, equal_captions(captions).to(model.device))
