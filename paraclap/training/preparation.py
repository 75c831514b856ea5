"""Before the first step of a run: text pretraining, unfreezing, precomputed audio embeddings."""

from paraclap.distributed import broadcast_in_place
from paraclap.signals import StopRequests
from paraclap.training.precompute import audio_embeddings
from paraclap.training.text_pretraining import pretrain_text
from paraclap.training.trainer import Trainer


def prepare(run: Trainer, requests: StopRequests | None = None) -> None:
    """Bring a run to where its next step can be taken, at the start or after a resume.

    Raises:
        Stopped: if any process received a signal.
    """
    if run.step == 0 and run.settings.text_pretraining.steps:
        pretrain_text(run.model, run.processor, run.dataset(), run.settings, requests)
    parameters = run.learner.gradients.parameters()
    broadcast_in_place(parameter.detach() for parameter in parameters)
    run.model.train()
    run.unfreeze()
    precompute(run, requests)


def precompute(run: Trainer, requests: StopRequests | None = None) -> None:
    """Encode all clips once if the audio encoder is frozen and crops are always the same."""
    encoder, crop = run.learner.gradients.encoder, run.settings.data.crop
    if "audio" in encoder.frozen and crop != "random" and run.data.functionals is None:
        encoder.clips = audio_embeddings(
            encoder.frozen["audio"], run.processor, run.dataset(), requests
        )
