"""The training loop."""

import dataclasses
import math
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

from omegaconf import OmegaConf

from paraclap.audio import SAMPLING_RATE
from paraclap.data.dataset import CentreCrops
from paraclap.data.label_captions import with_captions
from paraclap.distributed import agreed_signal, broadcast_in_place, largest, rank
from paraclap.evaluation.encoded import pooled_clips
from paraclap.files import make_folder, remove_leftovers, safe_name, write_text
from paraclap.locks import lock
from paraclap.settings import Settings
from paraclap.signals import Stopped, StopRequests
from paraclap.style import write_figure
from paraclap.training.checkpoint import CONFIG, check_run_folder, load_state
from paraclap.training.config import check_paths, flatten, is_free
from paraclap.training.data import sample_captions, sample_clips
from paraclap.training.encoding import Batch
from paraclap.training.loggers import Log, check_loggers
from paraclap.training.resources import memory_in_use
from paraclap.training.status import Status
from paraclap.training.summary import describe_device, write_summary
from paraclap.training.tables import check_augmentation
from paraclap.training.text_pretraining import pretrain_text
from paraclap.training.trainer import Trainer
from paraclap.training.validation import CRITERIA, log_figures


def train(settings: Settings) -> Trainer:
    """Train a model; returns the finished trainer.

    Raises:
        InUseError: if another process trains in the same run folder.
        OutputError: if the run folder cannot be written.
        SettingsError: if the settings do not go together with each other or with the data.
        Stopped: after a checkpoint was written, if a signal was received.
    """
    check_augmentation(settings.data)
    check_paths(settings)
    check_loggers(settings.train.loggers)
    output = make_folder(settings.output)
    with nullcontext() if rank() else lock(output):
        if rank() == 0:
            check_run_folder(output)
            remove_leftovers(output)
        return _train_in_folder(settings)


def _train_in_folder(settings: Settings) -> Trainer:
    state = load_state(settings)
    settings = with_captions(settings)
    check_paths(settings)
    trainer = Trainer(settings)
    trainer.resume(state)
    del state  # as large as the model and its optimiser
    if rank() == 0:
        config = OmegaConf.to_yaml(OmegaConf.structured(settings))
        write_text(trainer.output / CONFIG, config)
    print(_description(trainer))
    every = settings.train.validate_every
    if trainer.validate and trainer.step < trainer.steps < every:
        print(
            "the run is validated once, at its end, so best equals last: train.validate_every is "
            f"{every}, the run has {trainer.steps} steps"
        )
    with _log(trainer) as log, StopRequests() as requests:
        first_step = trainer.step
        if log is not None and log.writer is not None and trainer.step < trainer.steps:
            _log_samples(trainer, log)
        _train(trainer, log, requests)
        if log is not None:
            _log_settings(trainer, log)
    if rank() == 0:
        write_summary(trainer, first_step)
    validations = math.ceil(trainer.whole_steps / settings.train.validate_every)
    if not trainer.validate:
        validations = 0
    print(trainer.stopwatch.summary(trainer.device, trainer.whole_steps, validations))
    return trainer


def _description(trainer: Trainer) -> str:
    """Numbers of clips and steps, device and precision."""
    return (
        f"{len(trainer.data.train_table)} training clips, {len(trainer.validate)} "
        f"validation clips, {trainer.steps} steps, {describe_device(trainer)}"
    )


def _log_samples(trainer: Trainer, log: Log) -> None:
    """Log the captions of the next batch, and a few of its clips to listen to."""
    what = trainer.data, trainer.dataset(), trainer.batches()
    log.text(trainer.step, "captions", sample_captions(*what))
    for number, (waveform, caption) in enumerate(sample_clips(*what), 1):
        log.audio(trainer.step, f"clips/{number}", waveform, SAMPLING_RATE, caption)


def _log_settings(trainer: Trainer, log: Log) -> None:
    """Log the settings that affect the weights, beside the best validation score."""
    settings = flatten(dataclasses.asdict(trainer.settings))
    settings = {key: value for key, value in settings.items() if not is_free(key)}
    name = f"best/{trainer.validate.criterion.replace('@', '_at_')}"
    log.settings(settings, {} if trainer.best is None else {name: trainer.best})


def _log(trainer: Trainer) -> AbstractContextManager[Log | None]:
    """Log of process 0; the other processes have none."""
    if rank():
        return nullcontext()
    settings = flatten(dataclasses.asdict(trainer.settings))
    return Log(trainer.output, trainer.step, trainer.settings.train.loggers, settings)


def _train(trainer: Trainer, log: Log | None, requests: StopRequests) -> None:
    """Train to the last step: rate, forward, backward, clip, step, log, validate, save."""
    settings, status = trainer.settings.train, Status(trainer)
    if trainer.validated < trainer.step and _is_due(trainer, settings.validate_every):
        with trainer.learner.interpolated():  # the run was stopped before this validation
            _validate(trainer, log, status)
    prepare(trainer, requests)
    with status:
        trainer.stopwatch.start()
        for batch in _batches(trainer, requests):
            waiting = trainer.stopwatch.elapsed()
            values = trainer.training_step(batch)
            seconds = trainer.stopwatch.end_step()
            status.step(values["loss"], waiting / seconds)
            if log is not None and _is_due(trainer, settings.log_every):
                values |= memory_in_use(trainer.device) | trainer.learner.weight_norms()
                values |= {
                    "clips_per_second": settings.batch_size / seconds,
                    "waiting": waiting / seconds,
                }
                log.write(trainer.step, values, "train")
            if _is_due(trainer, settings.validate_every) and not agreed_signal(requests):
                with trainer.learner.interpolated():
                    _validate(trainer, log, status)
            if _is_due(trainer, settings.save_every):
                trainer.save()
            trainer.stopwatch.start()
    with trainer.learner.interpolated():
        trainer.checkpointer.save_model("last", trainer.model, trainer.processor)


def prepare(trainer: Trainer, requests: StopRequests | None = None) -> None:
    """Bring a run to where its next step can be taken, at the start or after a resume.

    Raises:
        Stopped: if any process received a signal.
    """
    settings = trainer.settings
    if trainer.step == 0 and settings.text_pretraining.steps:
        pretrain_text(trainer.model, trainer.processor, trainer.dataset(), settings, requests)
    parameters = trainer.learner.gradients.parameters()
    broadcast_in_place(parameter.detach() for parameter in parameters)
    trainer.model.train()
    trainer.unfreeze()
    precompute(trainer, requests)


def precompute(trainer: Trainer, requests: StopRequests | None = None) -> None:
    """Encode all clips once if the audio encoder is frozen and crops are always the same.

    Their outputs are standardised by those of the encoder before the first step, trained or not.

    Raises:
        Stopped: if any process received a signal; what was encoded until then is cached.
    """
    encoder, data = trainer.learner.gradients.encoder, trainer.settings.data
    is_constant = "audio" in encoder.frozen and data.crop == "centre"
    standardise = trainer.step == 0 and trainer.settings.model.audio_standardise
    if not (is_constant or standardise) or trainer.data.functionals is not None:
        return
    cache = trainer.cache if "audio" in encoder.frozen else trainer.open_cache(is_pretrained=True)
    trainer.model.eval()
    pooled = pooled_clips(
        trainer.model,
        trainer.processor,
        CentreCrops(trainer.dataset()),
        cache,
        workers=data.workers,
        timeout=data.timeout,
        progress="audio embeddings",
        stop=lambda: requests is not None and requests.received,
    )
    if requests is not None and (received := agreed_signal(requests)):
        kept = "starts anew" if cache is None else "continues from there"
        raise Stopped(
            received, f"stopped while precomputing audio embeddings; the same command {kept}"
        )
    trainer.model.train()
    if is_constant:
        encoder.clips = pooled
    if standardise:
        trainer.model.audio_branch.standardise_by(pooled)


def _is_due(trainer: Trainer, every: int) -> bool:
    return trainer.step % every == 0 or trainer.step == trainer.steps


def _batches(trainer: Trainer, requests: StopRequests) -> Iterator[Batch]:
    """Yield the batches of the remaining steps.

    Raises:
        Stopped: after a checkpoint was written, if a signal was received.
        WorkerError: naming the clips, if a worker crashes or hangs.
    """
    loader = iter(trainer.loader())
    while True:
        batch = next(loader, None)
        _save_or_stop(trainer, requests)
        if batch is not None:
            yield batch
        elif trainer.step < trainer.steps:
            trainer.unfreeze()
            loader = iter(trainer.loader())
        else:
            return


def _save_or_stop(trainer: Trainer, requests: StopRequests) -> None:
    """Between two steps, save if it is late or if any process received a signal.

    Raises:
        Stopped: in every process, if there was a signal.
    """
    number, late = largest(requests.received or 0, int(trainer.checkpointer.is_late()))
    if trainer.step and (number or late):
        trainer.save()
    if number:
        step = trainer.step
        state = f"{trainer.output} is saved at step {step}" if step else "stopped at step 0"
        raise Stopped(
            signal.Signals(number),
            f"{state} of {trainer.steps}; the same command continues from there",
        )


def _validate(trainer: Trainer, log: Log | None, status: Status) -> None:
    """Validate, and save the model as `best` if it is, or if there are no validation clips."""
    trainer.validated = trainer.step
    if not trainer.validate:
        trainer.checkpointer.save_model("best", trainer.model, trainer.processor)
        return
    trainer.stopwatch.start()
    scores, answers = trainer.validate(
        trainer.model,
        trainer.processor,
        trainer.learner.bfloat16,
        trainer.cache,
        trainer.learner.objective,
    )
    trainer.stopwatch.end_validation()
    figures = {}
    if log is not None:
        log.write(trainer.step, scores, "validation")
        figures = log_figures(log, trainer.step, trainer.settings.train.target, scores, answers)
    score = scores[CRITERIA[trainer.validate.criterion][0]]
    is_best = trainer.validate.is_better(score, trainer.best)
    status.validation(scores, is_best)
    if is_best:
        trainer.best = score
        trainer.checkpointer.save_model("best", trainer.model, trainer.processor)
        for corpus, figure in figures.items():
            name = f"dev_confusion.{safe_name(corpus)}.png" if corpus else "dev_confusion.png"
            write_figure(figure, trainer.output / name)
