"""A dry run: everything once, before a long run starts, and nothing kept (`train.dry_run=true`)."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from paraclap.data.sampler import TrainingBatches
from paraclap.settings import Settings
from paraclap.training.loggers import GIB, check_loggers, memory_in_use, peak_memory
from paraclap.training.tables import check_data, with_captions
from paraclap.training.trainer import Trainer, in_short, resume

DRY_CLIPS = 200  # clips that a dry run validates on at most


def dry_run(settings: Settings) -> None:
    """Read a batch, take a step, save, validate; tell memory and time, and keep nothing.

    The step is taken twice, and the second one is timed: the first makes room in memory. A run that
    would be resumed is resumed here, so that settings that do not fit it are told.

    Raises:
        FloatingPointError: if the loss or the gradient is not finite.
        SettingsError: if the settings, the data and an earlier run do not go together.
    """
    check_loggers(settings.train.loggers)
    output = Path(settings.output).resolve()
    beside = next(folder for folder in output.parents if folder.is_dir())
    with tempfile.TemporaryDirectory(prefix=".dry-run-", dir=beside) as temporary:
        settings = with_captions(settings, temporary)
        check_data(settings)
        run = Trainer(settings)
        if settings.train.resume != "never":
            resume(run)
        print(in_short(run))
        if run.step == run.steps:
            print(f"{settings.output} is finished")
            return
        run.output = Path(temporary)
        _rehearse(run)
    print(f"nothing is kept, {settings.output} is as it was")


def _rehearse(run: Trainer) -> None:
    """Do everything once, and tell what it takes."""
    train, started = run.settings.train, run.step
    run.unfreeze(run.steps)  # when all learn that ever do, a step takes most
    batch = next(iter(run.loader()))
    dataset, draws, workers = run.dataset(), next(iter(run.batches())), run.settings.data.workers
    reading = _seconds(lambda: [dataset[draw] for draw in draws])
    print(f"batch of {train.batch_size} clips read in {reading:.3g} s by one process")
    for _ in range(2):
        run.model.train()
        run.step, before = started, time.perf_counter()
        values = run.training_step(batch)
        step = time.perf_counter() - before
        if run.skipped_in_a_row:
            raise FloatingPointError("dry run: the loss or the gradient is not finite")
    print(f"step in {step:.3g} s: loss {values['loss']:.3f}")
    saving = _seconds(run.save)
    size = sum(f.stat().st_size for f in run.output.rglob("*") if f.is_file())
    print(f"checkpoint of {size / GIB:.2g} GiB, {train.keep} are kept: {saving:.3g} s")
    validating = _rehearse_validation(run)
    memory = memory_in_use(run.device).get("gpu_memory_gib")
    on_gpu = "" if memory is None else f", {memory:.2f} GiB on the GPU"
    print(f"memory: {peak_memory():.2f} GiB{on_gpu} at most")
    pace = max(step, reading / workers) if workers else step + reading
    pace += validating / train.validate_every + saving / train.save_every
    epoch = pace * TrainingBatches.per_epoch(len(run.train_table), train.batch_size)
    print(
        f"estimated: {_duration(epoch)} an epoch, {_duration(epoch * train.epochs)} for "
        f"{train.epochs} epochs, validations and checkpoints included"
    )


def _rehearse_validation(run: Trainer) -> float:
    """Validate on some clips; returns the seconds that all of them would take."""
    clips = len(run.classes)
    if not clips:
        print("no validation")
        return 0.0
    every = run.classes
    run.classes = every.iloc[:: -(-clips // DRY_CLIPS)]
    before = time.perf_counter()
    figures, _ = run.validate()
    seconds = (time.perf_counter() - before) * clips / len(run.classes)
    print(
        f"validation on {len(run.classes)} of {clips} clips: UAR {figures['UAR']:.3f} "
        f"(chance {figures['chance']:.3f}); on all of them about {seconds:.3g} s"
    )
    return seconds


def _seconds(work: Callable[[], object]) -> float:
    before = time.perf_counter()
    work()
    return time.perf_counter() - before


def _duration(seconds: float) -> str:
    """Write seconds in the largest unit that fits."""
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} seconds"
