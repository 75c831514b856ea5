"""Time to read training crops: whole files, the crop alone, from shards, the waveform cache.

    python -m benchmarks.loading
    python -m benchmarks.loading --clips 400 --rounds 7 --workers 0 2

"whole file" decodes each file by soundfile, resamples it by soxr and cuts the crop; "crop" decodes
the crop alone, as train.py does; "shards" does so from tar files; "waveform cache" reads it as with
data.waveform_cache. All read the same crops of the same files: noise of 1 to 10 s as WAV and FLAC.
The table has the fastest round. Files were written shortly before, so this measures decoding, not
disks.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch.utils.data

from benchmarks.report import command_line, parse, report
from benchmarks.timing import alternate, markdown_table
from paraclap.audio import SAMPLING_RATE
from paraclap.audio.recordings import Files
from paraclap.audio.segments import crop_limits
from paraclap.audio.waveform_cache import cache_waveforms
from paraclap.corpora.shards import write_shards
from paraclap.corpora.table import read_corpus

KINDS = tuple((form, rate) for rate in (16_000, 44_100) for form in ("wav", "flac"))
SECONDS = 5.0  # of a crop
TOLERANCE = 2 / 65536  # rounding to 16 bits, of the file and of the cache
WHOLE = "whole file"
BATCH = 16
SHARD_BYTES = 10**7

Read = Callable[[str, float, float | None, float, float], np.ndarray]
"""File, start, end, longest crop [s] and place in it -> crop (T,), see `read_crop`."""


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


def whole_file(root: Path) -> Read:
    """Return a function that decodes a whole mono file, resamples it to 16 kHz, cuts the crop."""

    def read(
        file: str, start: float, end: float | None, seconds: float, place: float
    ) -> np.ndarray:
        samples, rate = soundfile.read(root / file, dtype="float32")
        duration = len(samples) / rate
        if rate != SAMPLING_RATE:
            samples = soxr.resample(samples, rate, SAMPLING_RATE, quality="HQ")
        first, last = crop_limits(start, end, duration, seconds, place)
        return samples[round(first * SAMPLING_RATE) : round(last * SAMPLING_RATE)]

    return read


class Crops(torch.utils.data.Dataset):
    """One crop of each file, at a place that depends on its row alone."""

    def __init__(self, read: Read, files: Sequence[str]) -> None:
        self.read, self.files = read, files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> np.ndarray:
        """Read the crop of a row (T,)."""
        place = np.random.default_rng(row).random()
        return self.read(self.files[row], 0.0, None, SECONDS, place)


def check_equal(crops: Sequence[Crops]) -> None:
    """Compare the crops with those of the first one.

    Raises:
        RuntimeError: if a sample differs by more than rounding.
    """
    for row, file in enumerate(crops[0].files):
        expected, *others = (of_variant[row] for of_variant in crops)
        for crop in others:
            size = min(len(crop), len(expected))
            near = np.allclose(crop[:size], expected[:size], rtol=0, atol=TOLERANCE)
            if not near or abs(len(crop) - len(expected)) > 1:
                raise RuntimeError(f"crops of {file} differ")


def measure(
    kind: str, root: Path, names: Sequence[str], worker_counts: Sequence[int], rounds: int
) -> Iterator[tuple[str, ...]]:
    """Read all crops in every way; yields the rows of the table."""
    with tempfile.TemporaryDirectory() as cache, tempfile.TemporaryDirectory() as folder:
        packed = Path(folder, "shards")
        write_shards(read_corpus(root), packed, SHARD_BYTES)
        reads = {
            WHOLE: whole_file(root),
            "crop": Files(root).crop,
            "shards": Files(packed).crop,
            "waveform cache": cache_waveforms(cache, root, names).crop,
        }
        crops = {name: Crops(read, names) for name, read in reads.items()}
        check_equal([*crops.values()])
        for workers in worker_counts:
            loaders = {
                name: torch.utils.data.DataLoader(
                    of_variant, BATCH, num_workers=workers, collate_fn=list,
                    persistent_workers=workers > 0,
                )
                for name, of_variant in crops.items()
            }  # fmt: skip
            calls = {name: lambda loader=loader: [*loader] for name, loader in loaders.items()}
            for call in calls.values():  # starts the workers
                call()
            runs = alternate(calls, rounds)
            best = {name: min(run.wall for run in found) for name, found in runs.items()}
            for name, seconds in best.items():
                per_clip = f"{1e6 * seconds / len(names):,.0f}"
                yield kind, str(workers), name, per_clip, f"{best[WHOLE] / seconds:.1f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = command_line(__doc__, __spec__.name)
    add = parser.add_argument
    add("--clips", type=int, default=100, help="files of each kind (%(default)s)")
    add("--rounds", type=int, default=5, help="(%(default)s)")
    add("--workers", type=int, nargs="+", default=[0, 2], help="of the DataLoader (0 2)")
    options = parse(parser, arguments)
    rows: list[tuple[str, ...]] = []
    for form, rate in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            names = write_clips(Path(folder), form, rate, options.clips)
            kind = f"{form} {rate / 1000:g} kHz"
            rows += measure(kind, Path(folder), names, options.workers, options.rounds)
    head = ("files", "workers", "variant", "us per clip", "times as fast")
    report("Loading", markdown_table(head, rows), options)


if __name__ == "__main__":
    main()
