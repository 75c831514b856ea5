"""The training loop: step, log, validate, save, stop on request."""

import dataclasses
import math
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pandas as pd
from omegaconf import OmegaConf
from tqdm import tqdm

from paraclap.distributed import broadcast_in_place, largest, rank
from paraclap.evaluation.figures import plot_confusion, plot_similarities, to_pixels
from paraclap.evaluation.report import to_markdown
from paraclap.files import write_text
from paraclap.settings import Settings
from paraclap.signals import EXIT_CODES, Stopped, StopRequests
from paraclap.training.config import flatten
from paraclap.training.loggers import Log, check_loggers
from paraclap.training.tables import check_data, with_captions
from paraclap.training.trainer import Trainer, agreed, in_short, resume


def train(settings: Settings) -> Trainer:
    """Train as `settings` say; returns the finished run.

    Raises:
        SettingsError: if the settings and the data do not go together.
    """
    settings = with_captions(settings)
    check_data(settings)
    check_loggers(settings.train.loggers)
    run = Trainer(settings)
    run.output.mkdir(parents=True, exist_ok=True)
    resume(run)
    if rank() == 0:
        text = OmegaConf.to_yaml(OmegaConf.structured(settings))
        write_text(run.output / "config.yaml", text)
    print(in_short(run))
    with _log(run) as log:
        if log is not None and run.step < run.steps:
            log.text(run.step, "captions", to_markdown(run.sample_captions()))
        with StopRequests() as requests:
            _train_to_the_end(run, log, requests)
    every = run.settings.train.validate_every
    validations = 0 if run.classes.empty else -(-run.whole_steps // every)
    print(run.stopwatch.summary(run.device, run.whole_steps, validations))
    return run


def _log(run: Trainer) -> AbstractContextManager[Log | None]:
    """The log of process 0; the others have none."""
    if rank():
        return nullcontext()
    settings = flatten(dataclasses.asdict(run.settings))
    return Log(run.output, run.step, run.settings.train.loggers, settings)


def _train_to_the_end(run: Trainer, log: Log | None, requests: StopRequests) -> None:
    """Step, log, validate, save; stop early when asked to.

    Args:
        run: at its first step, or where it was resumed.
        log: of process 0; None for the others.
        requests: signals to this process.

    Raises:
        Stopped: after a checkpoint was written, if a signal asked for it.
    """
    settings = run.settings.train
    if run.step and _is_due(run, settings.validate_every) and run.validated < run.step:
        _validate_and_keep(run, log)  # the run was stopped between this step and its validation
    for values in _steps(run, requests):
        if log is not None and _is_due(run, settings.log_every):
            log.write(run.step, values | run.condition(), "train")
        if _is_due(run, settings.validate_every) and not agreed(requests):
            _validate_and_keep(run, log)
        if _is_due(run, settings.save_every):
            run.save()
    run.save_model("last")


def _is_due(run: Trainer, every: int) -> bool:
    return run.step % every == 0 or run.step == run.steps


def _save_or_stop(run: Trainer, requests: StopRequests) -> None:
    """Between two steps: save if it is time to, or if a signal came to any of the processes.

    Raises:
        Stopped: in every process, if there was a signal.
    """
    minutes = run.settings.train.save_minutes
    is_late = bool(minutes) and time.monotonic() - run.saved_at > 60 * minutes
    number, late = largest(requests.received or 0, int(is_late))
    if run.step and (number or late):
        run.save()
    if number:
        asked = signal.Signals(number)
        state = f"{run.output} is saved at step {run.step}" if run.step else "nothing is done"
        raise Stopped(
            f"{asked.name}: {state} of {run.steps}; the same command goes on from there",
            EXIT_CODES[asked],
        )


def _steps(run: Trainer, requests: StopRequests) -> Iterator[dict[str, float | None]]:
    """Train to the end, one step at a time, behind a progress bar."""
    size = run.settings.train.batch_size
    if run.step == 0 and run.settings.text_pretraining.steps:
        run.text_pretraining(requests)
    broadcast_in_place(parameter.detach() for parameter in run.gradients.parameters())
    run.model.train()
    run.unfreeze()
    run.precompute_audio_embeddings(requests)
    bar = tqdm(
        total=run.steps * size,
        initial=run.step * size,
        unit="clip",
        desc="train",
        mininterval=2,
        disable=rank() > 0,
    )
    with bar:
        run.stopwatch.start()
        for batch in _batches(run, requests):
            waited = run.stopwatch.elapsed()
            values = run.training_step(batch)
            elapsed = run.stopwatch.end_step()
            bar.update(size)
            shown = math.nan if values["loss"] is None else values["loss"]
            bar.set_postfix(loss=f"{shown:.3f}", waiting=f"{waited / elapsed:.0%}", refresh=False)
            yield values | {"clips_per_second": size / elapsed, "waiting": waited / elapsed}
            run.stopwatch.start()


def _batches(run: Trainer, requests: StopRequests) -> Iterator[Mapping[str, Any]]:
    """Batches of the steps that are left; a worker that dies is told with what it was reading.

    Raises:
        Stopped: after a checkpoint was written, if a signal asked for it.
        RuntimeError: naming the clips, if a worker crashed or hangs.
    """
    loader = iter(run.loader())
    while True:
        try:
            batch = next(loader, None)
        except RuntimeError as error:
            raise RuntimeError(f"{error}; being read: {run.files_in_flight()}") from error
        _save_or_stop(run, requests)
        if batch is not None:
            yield batch
        elif run.step < run.steps:
            run.unfreeze()
            loader = iter(run.loader())
        else:
            return


def _validate_and_keep(run: Trainer, log: Log | None) -> None:
    """Validate, and keep the model if it is the best so far (or if nothing tells)."""
    run.validated = run.step
    if run.classes.empty:
        run.save_model("best")
        return
    run.stopwatch.start()
    scores, answers = run.validate()
    run.stopwatch.end_validation()
    if log is not None:
        log.write(run.step, scores, "validation")
        for name, part in answers.items():
            _show_answers(run, log, part, name)
    tqdm.write(
        f"step {run.step}: validation UAR {scores['UAR']:.3f} (chance {scores['chance']:.3f})"
    )
    if scores["UAR"] > run.best:
        run.best = scores["UAR"]
        run.save_model("best")


def _show_answers(run: Trainer, log: Log, answers: pd.DataFrame, corpus: str) -> None:
    """Show the confusion matrix, and how near classes and prompts are."""
    title = f"{corpus} {run.settings.train.target}, step {run.step}".strip()
    prompts = [column.removeprefix("score.") for column in answers.filter(regex=r"^score\.")]
    pictures = {
        "confusion": lambda: to_pixels(plot_confusion(answers, prompts, title)),
        "similarity": lambda: to_pixels(plot_similarities(answers, title)),
    }
    for name, draw in pictures.items():
        log.image(run.step, f"validation/{name}.{corpus}".rstrip("."), draw)
