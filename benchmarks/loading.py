"""The loader of train.py against a plain DataLoader: time per clip, waiting, gaps between epochs.

    python -m benchmarks.loading
    python -m benchmarks.loading --clips 512 --rounds 7 --workers 0 2 --batch 64 --step 1000
    python -m benchmarks.loading --profile

All ways give the same batches of crops of 5 s with captions. "plain" decodes whole files by
soundfile, resamples them by soxr, cuts the crop, tokenises, and pads in a DataLoader of torch with
new workers for each epoch. "crop" is `Loader` on the audio files, "shards" on tar files, "waveform
cache" with data.waveform_cache, whose workers are threads. Files are noise of 1 to 10 s as WAV and
FLAC, written shortly before, so this measures decoding, not disks.

The first columns of numbers are the time per clip if batches are taken as fast as they come, and
how many times as fast as plain that is. "Waiting" is how long the trainer waits per clip if its
steps take `--step` us per clip on another device, "gap" the longest wait for the first batch of
another epoch. The table has the fastest round.

--profile divides the time per clip instead: CPU time of reading and of collating in one thread, and
what two workers of each kind need: processes that send tensors by torch, those of `Loader`, which
use shared memory again, and its threads. The fastest round of WAV files and of the waveform cache.
"""

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile
import soxr
import torch.utils.data

from benchmarks.report import command_line, parse, report
from benchmarks.timing import alternate, markdown_table
from paraclap.audio import SAMPLING_RATE
from paraclap.audio.recordings import Files, Recordings
from paraclap.audio.segments import Position, crop_limits
from paraclap.audio.waveform_cache import cache_waveforms
from paraclap.corpora.shards import write_shards
from paraclap.corpora.table import read_corpus
from paraclap.data.dataset import CaptionDataset, Collate
from paraclap.data.loader import PREFETCH, Loader
from paraclap.data.sampler import TrainingBatches
from paraclap.model.modeling_paraclap import ParaCLAPFeatureExtractor, ParaCLAPProcessor
from paraclap.model.towers import train_tokenizer
from paraclap.settings import CaptionSettings, DataSettings

KINDS = tuple((form, rate) for rate in (16_000, 44_100) for form in ("wav", "flac"))
SECONDS = 5.0  # of a crop
TOLERANCE = 2 / 65536  # rounding to 16 bits, of the file and of the cache
PLAIN = "plain"
SHARD_BYTES = 10**7
EPOCHS = 3
SEED = 0
DESCRIPTORS = ("pitch", "loudness", "jitter", "shimmer", "speaking rate", "emotion", "gender")
LEVELS = ("low", "normal", "high")

Epochs = Iterable[Iterable[dict[str, Any]]]
"""Batches of each epoch."""


def write_clips(folder: Path, form: str, rate: int, clips: int) -> list[str]:
    """Write low-pass noise that depends on rate and number alone; return the file names."""
    names = []
    for number in range(clips):
        rng = np.random.default_rng([rate, number])
        noise = rng.standard_normal(round(rng.uniform(1, 10) * rate))
        noise = np.convolve(noise, np.exp(-np.arange(64) * 3000 / rate), "same")  # FLAC compresses
        names.append(f"clip{number:05}.{form}")
        soundfile.write(folder / names[-1], 0.3 * noise / np.abs(noise).max(), rate)
    return names


class WholeFiles(Files):
    """Mono files that are decoded and resampled whole."""

    def crop(
        self, file: str, start: Position, end: Position, seconds: float, place: float
    ) -> np.ndarray:
        """Return a crop of a file (T,)."""
        samples, rate = soundfile.read(self.root / file, dtype="float32")
        duration = len(samples) / rate
        if rate != SAMPLING_RATE:
            samples = soxr.resample(samples, rate, SAMPLING_RATE, quality="HQ")
        first, last = crop_limits(start, end, duration, seconds, place)
        return samples[round(first * SAMPLING_RATE) : round(last * SAMPLING_RATE)]


def make_table(names: Sequence[str]) -> pd.DataFrame:
    """Return a captions table of files, with random levels."""
    levels = np.random.default_rng(SEED).choice(LEVELS, (len(names), len(DESCRIPTORS)))
    captions = [
        [f"{name} is {level}" for name, level in zip(DESCRIPTORS, row, strict=True)]
        for row in levels
    ]
    whole = pd.to_timedelta([0] * len(names)), pd.to_timedelta([pd.NaT] * len(names))
    index = pd.MultiIndex.from_arrays([names, *whole], names=["file", "start", "end"])
    descriptors = [[*DESCRIPTORS]] * len(names)
    return pd.DataFrame({"captions": captions, "caption_descriptors": descriptors}, index)


def make_processor(table: pd.DataFrame) -> ParaCLAPProcessor:
    """Return a processor with a tokenizer of the captions of a table."""
    tokenizer = train_tokenizer(sorted({text for row in table["captions"] for text in row}), 200)
    return ParaCLAPProcessor(ParaCLAPFeatureExtractor(), tokenizer)


def make_dataset(table: pd.DataFrame, source: Recordings) -> CaptionDataset:
    """Return a dataset of crops."""
    data = DataSettings(crop_seconds=SECONDS)
    return CaptionDataset(table, source, CaptionSettings(), data, SEED)


def plain_collate(
    processor: ParaCLAPProcessor, items: Sequence[dict[str, Any]]
) -> dict[str, torch.Tensor]:
    """Pad waveforms and captions to tensors."""
    waveforms = [torch.from_numpy(item["waveform"]) for item in items]
    values = torch.zeros(len(items), round(SECONDS * SAMPLING_RATE))
    mask = torch.zeros_like(values, dtype=torch.int64)
    for row, waveform in enumerate(waveforms):
        values[row, : len(waveform)] = waveform
        mask[row, : len(waveform)] = 1
    texts = [item["caption"].text for item in items]
    tokens = processor.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    return {"input_values": values, "padding_mask": mask, **tokens}


def plain(
    dataset: CaptionDataset, processor: ParaCLAPProcessor, batch: int, workers: int
) -> Epochs:
    """Yield epochs of a DataLoader that reads item by item."""
    batches = TrainingBatches(len(dataset), batch, EPOCHS * (len(dataset) // batch), SEED)
    chosen = list(batches)
    for epoch in range(EPOCHS):
        first = epoch * batches.batches_per_epoch
        yield torch.utils.data.DataLoader(
            _Items(dataset),
            batch_sampler=chosen[first : first + batches.batches_per_epoch],
            num_workers=workers,
            collate_fn=partial(plain_collate, processor),
        )


class _Items(torch.utils.data.Dataset):
    """A dataset without whole batches."""

    def __init__(self, dataset: CaptionDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, draw: tuple[int, int]) -> dict[str, Any]:
        return self.dataset[draw]


def ours(dataset: CaptionDataset, processor: ParaCLAPProcessor, batch: int, workers: int) -> Epochs:
    """Yield epochs of the loader of train.py, which does not end between them."""
    steps = len(dataset) // batch
    batches = TrainingBatches(len(dataset), batch, EPOCHS * steps, SEED)
    loader = iter(Loader(dataset, Collate(processor, SECONDS), batches, workers))
    for _ in range(EPOCHS):
        yield (next(loader) for _ in range(steps))


def take(epochs: Callable[[], Epochs], step: float, ahead: int) -> tuple[float, float]:
    """Take all batches, with steps of `step` seconds; the first `ahead` are not counted.

    Returns:
        Total time waited for batches, and the longest wait for the first batch of an epoch [s].
    """
    waits: list[float] = []
    firsts: list[float] = []
    for batches in epochs():
        since, is_first = time.perf_counter(), True
        for _ in batches:
            waits.append(time.perf_counter() - since)
            firsts += [waits[-1]] * is_first
            time.sleep(step)
            since, is_first = time.perf_counter(), False
    return sum(waits[ahead:]), max(firsts[1:])


def check_equal(first: Epochs, second: Epochs, what: str) -> None:
    """Compare the first batches.

    Raises:
        RuntimeError: if a sample differs by more than rounding.
    """
    one, other = (next(iter(next(iter(epochs)))) for epochs in (first, second))
    for name in ("input_values", "input_ids"):
        if not torch.allclose(one[name], other[name], rtol=0, atol=TOLERANCE):
            raise RuntimeError(f"{name} of {what} differ from those of {PLAIN}")


class _InProcesses(torch.utils.data.Dataset):
    """A dataset that `Loader` reads by processes, also if it is in memory."""

    def __init__(self, dataset: CaptionDataset) -> None:
        self.dataset, self.files = dataset, dataset.files

    def __getitems__(self, places: Sequence[Any]) -> list[dict[str, Any]]:
        return self.dataset.__getitems__(places)


def two_workers(
    dataset: CaptionDataset, collate: Collate, batches: list
) -> dict[str, Callable[[], Iterable[Any]]]:
    """Return the ways to read batches with two workers."""
    ways: dict[str, Callable[[], Iterable[Any]]] = {
        "2 processes of torch": lambda: torch.utils.data.DataLoader(
            _Items(dataset), batch_sampler=batches, num_workers=2, collate_fn=collate
        ),
        "2 processes": lambda: Loader(_InProcesses(dataset), collate, batches, workers=2),
    }
    if dataset.in_memory:
        ways["2 threads"] = lambda: Loader(dataset, collate, batches, workers=2)
    return ways


def profile(root: Path, names: Sequence[str], batch: int, rounds: int) -> Iterator[tuple[str, ...]]:
    """Divide the time per clip; yields the rows of the table."""
    table = make_table(names)
    collate = Collate(make_processor(table), SECONDS)
    with tempfile.TemporaryDirectory() as cache:
        sources = {"WAV": Files(root), "waveform cache": cache_waveforms(cache, root, names)}
        for kind, source in sources.items():
            dataset = make_dataset(table, source)
            steps = EPOCHS * (len(names) // batch)
            batches = list(TrainingBatches(len(names), batch, steps, SEED))
            found: dict[str, list[tuple[float, float]]] = {}
            for _ in range(rounds):
                for name, seconds in one_thread(dataset, collate, batches).items():
                    found.setdefault(name, []).append((seconds, seconds))
                for name, way in two_workers(dataset, collate, batches).items():
                    found.setdefault(name, []).append(drain(way()))
            for name, runs in found.items():
                wall, cpu = (f"{1e6 * min(of) / batch:,.0f}" for of in zip(*runs, strict=True))
                yield kind, name, wall, cpu


def one_thread(dataset: CaptionDataset, collate: Collate, batches: list) -> dict[str, float]:
    """Return the CPU time of reading a batch and of collating it [s]."""
    read = collated = 0.0
    for places in batches:
        start = time.thread_time()
        items = dataset.__getitems__(places)
        middle = time.thread_time()
        collate(items)
        read, collated = read + middle - start, collated + time.thread_time() - middle
    return {"reading": read / len(batches), "collating": collated / len(batches)}


def drain(batches: Iterable[Any]) -> tuple[float, float]:
    """Take all batches; return the time and the CPU time of this thread for a batch [s].

    Batches that are read while the workers start are not counted.
    """
    iterator = iter(batches)
    for _ in range(1 + 2 * PREFETCH):
        next(iterator)
    start, cpu = time.perf_counter(), time.thread_time()
    count = sum(1 for _ in iterator)
    return (time.perf_counter() - start) / count, (time.thread_time() - cpu) / count


def measure(
    kind: str,
    root: Path,
    names: Sequence[str],
    worker_counts: Sequence[int],
    batch: int,
    rounds: int,
    step: float,
) -> Iterator[tuple[str, ...]]:
    """Load in every way; yields the rows of the table."""
    table = make_table(names)
    processor = make_processor(table)
    with tempfile.TemporaryDirectory() as cache, tempfile.TemporaryDirectory() as folder:
        packed = Path(folder, "shards")
        write_shards(read_corpus(root), packed, SHARD_BYTES)
        sources: dict[str, Recordings] = {
            PLAIN: WholeFiles(root),
            "crop": Files(root),
            "shards": Files(packed),
            "waveform cache": cache_waveforms(cache, root, names),
        }
        datasets = {name: make_dataset(table, source) for name, source in sources.items()}
        for workers in worker_counts:
            ahead = 1 + workers * PREFETCH  # batches that are read while the workers start
            clips = (EPOCHS * (len(names) // batch) - ahead) * batch
            epochs = {
                name: partial(plain if name == PLAIN else ours, dataset, processor, batch, workers)
                for name, dataset in datasets.items()
            }
            for name in [*epochs][1:]:
                check_equal(epochs[PLAIN](), epochs[name](), name)
            found: dict[float, dict[str, list[tuple[float, float]]]] = {}
            for pause in (0.0, step * batch):
                calls = {name: partial(take, of, pause, ahead) for name, of in epochs.items()}
                runs = alternate(calls, rounds)
                found[pause] = {name: [run.result for run in of] for name, of in runs.items()}
            fast, slow = found.values()
            best = {name: min(waited for waited, _ in of) / clips for name, of in fast.items()}
            for name, seconds in best.items():
                waiting = min(waited for waited, _ in slow[name]) / clips
                gap = min(longest for _, longest in slow[name])
                numbers = f"{1e6 * seconds:,.0f}", f"{best[PLAIN] / seconds:.1f}"
                yield kind, str(workers), name, *numbers, f"{1e6 * waiting:,.0f}", f"{gap:.3f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = command_line(__doc__, __spec__.name)
    add = parser.add_argument
    add("--clips", type=int, default=256, help="files of each kind (%(default)s)")
    add("--batch", type=int, default=32, help="clips (%(default)s)")
    add("--rounds", type=int, default=5, help="(%(default)s)")
    add("--workers", type=int, nargs="+", default=[0, 2], help="of the loader (0 2)")
    add("--step", type=float, default=1000.0, help="time of a step per clip [us] (%(default)g)")
    kinds = [f"{form}-{rate}" for form, rate in KINDS]
    add("--kinds", nargs="+", choices=kinds, default=kinds, help="of files (all)")
    add("--profile", action="store_true", help="divide the time of two workers")
    options = parse(parser, arguments)
    if options.profile:
        with tempfile.TemporaryDirectory() as folder:
            names = write_clips(Path(folder), "wav", SAMPLING_RATE, options.clips)
            parts = profile(Path(folder), names, options.batch, options.rounds)
            head = ("source", "part", "us per clip", "of the trainer's thread")
            return report("Profile of the loader", markdown_table(head, [*parts]), options)
    rows: list[tuple[str, ...]] = []
    for form, rate in KINDS:
        if f"{form}-{rate}" not in options.kinds:
            continue
        with tempfile.TemporaryDirectory() as folder:
            names = write_clips(Path(folder), form, rate, options.clips)
            kind = f"{form} {rate / 1000:g} kHz"
            given = options.workers, options.batch, options.rounds, options.step / 1e6
            rows += measure(kind, Path(folder), names, *given)
    head = ("files", "workers", "variant", "us per clip", "times as fast", "waiting [us per clip]")
    report("Loading", markdown_table((*head, "gap [s]"), rows), options)


if __name__ == "__main__":
    main()
