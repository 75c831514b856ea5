"""The training loop."""

import dataclasses
import math
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

from omegaconf import OmegaConf
from tqdm import tqdm

from paraclap.distributed import agreed_signal, largest, rank, world_size
from paraclap.files import make_folder, write_text
from paraclap.settings import Settings
from paraclap.signals import EXIT_CODES, Stopped, StopRequests
from paraclap.training.config import flatten
from paraclap.training.data import files_in_flight, raise_worker_error, sample_captions
from paraclap.training.encoding import Batch
from paraclap.training.loggers import Log, check_loggers
from paraclap.training.preparation import prepare
from paraclap.training.resources import memory_in_use
from paraclap.training.tables import check_data, with_captions
from paraclap.training.trainer import Trainer
from paraclap.training.validation import log_figures


def train(settings: Settings) -> Trainer:
    """Train a model; returns the finished run.

    Raises:
        OutputError: if the run folder cannot be written.
        SettingsError: if the settings do not go together with each other or with the data.
        Stopped: after a checkpoint was written, if a signal was received.
    """
    settings = with_captions(settings)
    check_data(settings)
    check_loggers(settings.train.loggers)
    run = Trainer(settings)
    make_folder(run.output)
    run.resume()
    if rank() == 0:
        config = OmegaConf.to_yaml(OmegaConf.structured(settings))
        write_text(run.output / "config.yaml", config)
    print(_description(run))
    with _log(run) as log, StopRequests() as requests:
        if log is not None and log.writer is not None and run.step < run.steps:
            captions = sample_captions(run.data, run.dataset(), run.batches())
            log.text(run.step, "captions", captions)
        _train(run, log, requests)
    validations = math.ceil(run.whole_steps / settings.train.validate_every)
    if run.validate.classes.empty:
        validations = 0
    print(run.stopwatch.summary(run.device, run.whole_steps, validations))
    return run


def _description(run: Trainer) -> str:
    """Numbers of clips and steps, device and precision."""
    device = f"{world_size()} x {run.device.type}" if world_size() > 1 else str(run.device)
    precision = "bfloat16" if run.learner.bfloat16 else "float32"
    return (
        f"{len(run.data.train_table)} training clips, {len(run.validate.classes)} validation "
        f"clips, {run.steps} steps, {device}, {precision}"
    )


def _log(run: Trainer) -> AbstractContextManager[Log | None]:
    """Log of process 0; the other processes have none."""
    if rank():
        return nullcontext()
    settings = flatten(dataclasses.asdict(run.settings))
    return Log(run.output, run.step, run.settings.train.loggers, settings)


def _train(run: Trainer, log: Log | None, requests: StopRequests) -> None:
    """Train to the last step: rate, forward, backward, clip, step, log, validate, save."""
    settings = run.settings.train
    if run.step and _is_due(run, settings.validate_every) and run.validated < run.step:
        _validate(run, log)  # the run was stopped between this step and its validation
    prepare(run, requests)
    with _progress_bar(run) as bar:
        run.stopwatch.start()
        for batch in _batches(run, requests):
            waiting = run.stopwatch.elapsed()
            values = run.training_step(batch)
            seconds = run.stopwatch.end_step()
            _show(bar, settings.batch_size, values["loss"], waiting / seconds)
            if log is not None and _is_due(run, settings.log_every):
                values |= memory_in_use(run.device) | run.learner.weight_norms()
                values |= {
                    "clips_per_second": settings.batch_size / seconds,
                    "waiting": waiting / seconds,
                }
                log.write(run.step, values, "train")
            if _is_due(run, settings.validate_every) and not agreed_signal(requests):
                _validate(run, log)
            if _is_due(run, settings.save_every):
                run.save()
            run.stopwatch.start()
    run.checkpointer.save_model("last", run.model, run.processor)


def _is_due(run: Trainer, every: int) -> bool:
    return run.step % every == 0 or run.step == run.steps


def _progress_bar(run: Trainer) -> tqdm:
    size = run.settings.train.batch_size
    return tqdm(
        total=run.steps * size,
        initial=run.step * size,
        unit="clip",
        desc="train",
        mininterval=2,
        disable=rank() > 0,
    )


def _show(bar: tqdm, clips: int, loss: float | None, waiting: float) -> None:
    """Show the loss and the share of the time spent waiting for audio."""
    bar.update(clips)
    loss = math.nan if loss is None else loss
    bar.set_postfix(loss=f"{loss:.3f}", waiting=f"{waiting:.0%}", refresh=False)


def _batches(run: Trainer, requests: StopRequests) -> Iterator[Batch]:
    """Yield the batches of the remaining steps.

    Raises:
        Stopped: after a checkpoint was written, if a signal was received.
        WorkerError: naming the clips, if a worker crashes or hangs.
    """
    loader = iter(run.loader())
    while True:
        try:
            batch = next(loader, None)
        except RuntimeError as error:
            raise_worker_error(error, files_in_flight(run.data, run.batches()))
        _save_or_stop(run, requests)
        if batch is not None:
            yield batch
        elif run.step < run.steps:
            run.unfreeze()
            loader = iter(run.loader())
        else:
            return


def _save_or_stop(run: Trainer, requests: StopRequests) -> None:
    """Between two steps, save if it is late or if any process received a signal.

    Raises:
        Stopped: in every process, if there was a signal.
    """
    number, late = largest(requests.received or 0, int(run.checkpointer.is_late()))
    if run.step and (number or late):
        run.save()
    if number:
        received = signal.Signals(number)
        state = f"{run.output} is saved at step {run.step}" if run.step else "stopped at step 0"
        raise Stopped(
            f"{received.name}: {state} of {run.steps}; the same command continues from there",
            EXIT_CODES[received],
        )


def _validate(run: Trainer, log: Log | None) -> None:
    """Validate, and save the model as `best` if it is, or if there are no validation clips."""
    run.validated = run.step
    if run.validate.classes.empty:
        run.checkpointer.save_model("best", run.model, run.processor)
        return
    run.stopwatch.start()
    scores, answers = run.validate(run.model, run.processor)
    run.stopwatch.end_validation()
    if log is not None:
        log.write(run.step, scores, "validation")
        log_figures(log, run.step, run.settings.train.target, answers)
    tqdm.write(
        f"step {run.step}: validation UAR {scores['UAR']:.3f} (chance {scores['chance']:.3f})"
    )
    if scores["UAR"] > run.best:
        run.best = scores["UAR"]
        run.checkpointer.save_model("best", run.model, run.processor)
