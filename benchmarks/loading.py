"""Time to read training crops: whole files, seeking in files, the waveform cache.

    python -m benchmarks.loading
    python -m benchmarks.loading --clips 400 --repeat 7 --workers 0 2 --librosa
    python -m benchmarks.loading --folder /data/RAVDESS --workers 0

The baseline decodes each file as a whole, resamples it to 16 kHz and cuts the crop, with soundfile
and soxr, or with librosa.load (--librosa, if installed). `seek` decodes the crop alone, as train.py
does; `waveform cache` reads it as with data.waveform_cache. All ways read the same crops in turns,
after their samples were compared. The table has the microseconds per clip of the fastest turn and
the speed relative to the baseline; with workers, in a DataLoader that does nothing else. Files were
read shortly before, so this measures decoding, not disks.

Clips are noise with the spectrum of speech, 1 to 10 s long, as 16-bit WAV and FLAC at 16 and 44.1
kHz; --folder reads files of your own instead.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.signal
import soundfile
import soxr
import torch.utils.data
from tqdm import tqdm

from paraclap.audio import SAMPLING_RATE
from paraclap.audio.recordings import Files, Recordings
from paraclap.audio.segments import crop_limits
from paraclap.audio.waveform_cache import cache_waveforms

KINDS = tuple((form, rate) for rate in (16_000, 44_100) for form in ("wav", "flac"))
TOLERANCE = 2 / 65536  # rounding to 16 bits, of the file and of the cache
PLAIN = "soundfile whole"
BATCH = 16


@dataclass(frozen=True)
class Result:
    """One way of reading on one kind of files.

    Attributes:
        files: what was read
        workers: processes that read
        way: how it was read
        microseconds: per clip
        ratio: how many times as fast as `PLAIN`
    """

    files: str
    workers: int
    way: str
    microseconds: float
    ratio: float


def write_clips(folder: Path, form: str, rate: int, clips: int) -> list[str]:
    """Write clips of 1 to 10 s, which depend on their number alone; return their names."""
    names = []
    tilt = scipy.signal.butter(1, 500 / (rate / 2))
    for number in range(clips):
        rng = np.random.default_rng([rate, number])
        noise = rng.standard_normal(round(rng.uniform(1, 10) * rate))
        envelope = 0.55 - 0.45 * np.cos(2 * np.pi * 4 * np.arange(len(noise)) / rate)
        samples = scipy.signal.lfilter(*tilt, noise) * envelope
        names.append(f"clip{number:05}.{form}")
        soundfile.write(folder / names[-1], 0.3 * samples / np.abs(samples).max(), rate)
    return names


class WholeFiles:
    """The baseline: decode a whole file, resample it to 16 kHz, cut the crop.

    Attributes:
        root: folder of the files
        load: path -> waveform (T,) at 16 kHz, and duration of the file [s]
    """

    def __init__(self, root: Path, load: Callable[[Path], tuple[np.ndarray, float]]) -> None:
        self.root, self.load = root, load

    def crop(
        self, file: str, start: float, end: float | None, seconds: float, place: float
    ) -> np.ndarray:
        """Return a crop of a segment (T,), see `read_crop`."""
        waveform, duration = self.load(self.root / file)
        first, last = crop_limits(start, end, duration, seconds, place)
        return waveform[round(first * SAMPLING_RATE) : round(last * SAMPLING_RATE)]


def load_soundfile(path: Path) -> tuple[np.ndarray, float]:
    """Read a whole file by soundfile and soxr: (T,) at 16 kHz, and its duration [s]."""
    samples, rate = soundfile.read(path, dtype="float32")
    duration = len(samples) / rate
    samples = samples if samples.ndim == 1 else samples.mean(axis=1)
    if rate != SAMPLING_RATE:
        samples = soxr.resample(samples, rate, SAMPLING_RATE, quality="HQ")
    return samples, duration


def load_librosa(path: Path) -> tuple[np.ndarray, float]:
    """Read a whole file by librosa: (T,) at 16 kHz, and its duration [s]."""
    import librosa

    samples, rate = librosa.load(path, sr=None)
    duration = len(samples) / rate
    return librosa.resample(samples, orig_sr=rate, target_sr=SAMPLING_RATE), duration


class Crops(torch.utils.data.Dataset):
    """Crops of files at places that depend on the row alone."""

    def __init__(self, recordings: Recordings, files: Sequence[str], seconds: float) -> None:
        self.recordings, self.files, self.seconds = recordings, files, seconds

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> np.ndarray:
        """Read the crop of a row (T,)."""
        place = np.random.default_rng(row).random()
        return self.recordings.crop(self.files[row], 0.0, None, self.seconds, place)


def check_equal(crops: dict[str, Crops]) -> None:
    """Compare the crops of all ways with those of the baseline.

    Raises:
        RuntimeError: if a sample differs by more than rounding
    """
    for row in range(len(crops[PLAIN])):
        expected = crops[PLAIN][row]
        for way, other in crops.items():
            crop = other[row]
            size = min(len(crop), len(expected))
            if abs(len(crop) - len(expected)) > 1 or not np.allclose(
                crop[:size], expected[:size], rtol=0, atol=TOLERANCE
            ):
                raise RuntimeError(f"{way}: crop of {other.files[row]} differs from the baseline")


def seconds_of(crops: Crops, workers: int) -> float:
    """Return the time to read all crops once [s], with worker processes already started."""
    if not workers:
        start = time.perf_counter()
        for row in range(len(crops)):
            crops[row]
        return time.perf_counter() - start
    loader = torch.utils.data.DataLoader(
        crops, batch_size=BATCH, num_workers=workers, collate_fn=list, persistent_workers=True
    )
    for _ in loader:  # starts the workers
        pass
    start = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - start


def measure(
    files: str, root: Path, names: Sequence[str], options: argparse.Namespace
) -> list[Result]:
    """Read the same crops in every way, in turns.

    Raises:
        RuntimeError: if the ways do not read the same samples
    """
    ways: dict[str, Recordings | WholeFiles] = {PLAIN: WholeFiles(root, load_soundfile)}
    if options.librosa:
        ways["librosa whole"] = WholeFiles(root, load_librosa)
    ways["seek"] = Files(root)
    with tempfile.TemporaryDirectory() as cache:
        ways["waveform cache"] = cache_waveforms(cache, root, names, progress=False)
        crops = {way: Crops(source, names, options.seconds) for way, source in ways.items()}
        check_equal(crops)
        results = []
        for workers in options.workers:
            best = dict.fromkeys(ways, np.inf)
            for _ in tqdm(range(options.repeat), f"{files}, {workers} workers", unit="turn"):
                for way in ways:
                    best[way] = min(best[way], seconds_of(crops[way], workers))
            results += [
                Result(files, workers, way, 1e6 * best[way] / len(names), best[PLAIN] / best[way])
                for way in ways
            ]
    return results


def markdown_table(results: Iterable[Result]) -> str:
    """Return results as a table in Markdown."""
    lines = ["| files | workers | way | us per clip | times as fast |", "|---|---|---|---|---|"]
    lines += [
        f"| {r.files} | {r.workers} | {r.way} | {r.microseconds:,.0f} | {r.ratio:.1f} |"
        for r in results
    ]
    return "\n".join(lines)


def run(options: argparse.Namespace) -> list[Result]:
    """Measure all kinds of files, or those of the folder that was given."""
    if options.folder:
        paths = sorted(p for p in options.folder.rglob("*") if p.suffix in (".wav", ".flac"))
        names = [path.relative_to(options.folder).as_posix() for path in paths[: options.clips]]
        return measure(options.folder.name, options.folder, names, options)
    results = []
    for form, rate in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            names = write_clips(Path(folder), form, rate, options.clips)
            results += measure(f"{form} {rate / 1000:g} kHz", Path(folder), names, options)
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--clips", type=int, default=100, help="files of each kind (%(default)s)")
    add("--seconds", type=float, default=5.0, help="of a crop (%(default)s)")
    add("--repeat", type=int, default=5, help="turns (%(default)s)")
    add("--workers", type=int, nargs="+", default=[0, 2], help="processes that read (0 2)")
    add("--librosa", action="store_true", help="measure librosa.load as well")
    add("--folder", type=Path, help="of .wav and .flac files to read instead of generated ones")
    options = parser.parse_args(arguments)
    print(markdown_table(run(options)))


if __name__ == "__main__":
    main()
