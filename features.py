"""Measure a corpus: 88 eGeMAPSv02 functionals and the duration of every clip, as one parquet file.

    python features.py ravdess=/data/RAVDESS -o features.parquet
    python features.py /data/my-database -o features.parquet --workers 8 --keep-going

The file has a row for each clip on the index ``file``, ``start``, ``end``: the labels of the corpus
table, the functionals under openSMILE's own names (Eyben et al., IEEE Trans. Affective Computing
7(2), 2016), and ``Duration`` [s]. Clips that could not be measured are left out and listed, with
the reason, in ``features.errors.csv`` beside it. If there are any, the exit code is 1 unless
--keep-going is given; the rows of the others are written in either case.

openSMILE gets conditioned samples (see audio.py). Voiced features of an unvoiced clip are 0.0, as
openSMILE leaves them.
"""

import argparse
import functools
import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import opensmile
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

import audio
import corpora

MIN_SECONDS = 0.06
"""Shorter clips have no complete frame of 60 ms, and openSMILE gives 88 NaN [s]."""
DURATION = "Duration"
METADATA_KEY = b"paraclap"
ERROR_COLUMNS = ["file", "start", "end", "stage", "reason", "message"]
CLIPS_IN_FLIGHT = 8
"""Clips handed to the pool for each worker; after a crash, these are tried again one by one."""


class Clip(NamedTuple):
    """One row of a corpus table, as handed to a worker."""

    root: str
    file: str
    start: pd.Timedelta
    end: pd.Timedelta


@dataclass(frozen=True)
class Failure:
    """Why a clip has no features: the stage it failed at, a short code and a sentence."""

    stage: str
    reason: str
    message: str


Result = np.ndarray | Failure


# --- One clip ------------------------------------------------------------------------------------


@functools.cache
def _smile() -> opensmile.Smile:
    """Return the extractor of this process, built once."""
    return opensmile.Smile(
        feature_set=opensmile.FeatureSet.eGeMAPSv02,
        feature_level=opensmile.FeatureLevel.Functionals,
    )


def feature_names() -> list[str]:
    """Return the 88 names of openSMILE and ``Duration``, in the order of the table."""
    return [*_smile().feature_names, DURATION]


def measure(waveform: np.ndarray) -> np.ndarray:
    """Return the functionals and the duration [s] of a waveform (T,) at 16 kHz as float64 (89,).

    Raises:
        AudioError: if the waveform is shorter than 60 ms or digital silence
    """
    seconds = len(waveform) / audio.SAMPLING_RATE
    if seconds < MIN_SECONDS:
        raise audio.AudioError("too_short", f"{seconds:.4f} s, expected at least {MIN_SECONDS} s")
    if not waveform.any():
        raise audio.AudioError("silent", f"all {len(waveform)} samples are zero")
    values = _smile().process_signal(waveform, audio.SAMPLING_RATE).to_numpy()[0]
    if np.isnan(values).any():
        count = int(np.isnan(values).sum())
        raise audio.AudioError("undefined", f"openSMILE left {count} features undefined")
    return np.append(values.astype(np.float64), seconds)


def measure_clip(clip: Clip) -> Result:
    """Return the features of a clip (89,), or why there are none."""
    stage = "read"
    try:
        path = audio.resolve_inside(clip.root, clip.file)
        waveform = audio.read_audio(path, clip.start, clip.end)
        stage = "features"
        return measure(waveform)
    except audio.AudioError as error:
        return Failure(stage, error.reason, str(error))
    except Exception as error:  # one clip must never stop the others; its row names the error
        return Failure(stage, type(error).__name__, str(error))


# --- All clips, in processes ---------------------------------------------------------------------


def _start_worker() -> None:
    """Prepare a worker: Ctrl-C is the parent's business, and without a parent it ends."""

    def follow_parent() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=follow_parent, daemon=True).start()
    _smile()


def _new_pool(workers: int) -> ProcessPoolExecutor:
    """Return a pool of fresh interpreters, which share no threads or locks with this one."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)


def _run_until_crash(
    clips: list[Clip],
    todo: list[int],
    workers: int,
    in_flight: int,
    function: Callable[[Clip], Result],
) -> Iterator[tuple[int, Result]]:
    """Yield (position, result) as they are done; ends early if a worker dies."""
    waiting, running = iter(todo), dict[Future, int]()
    with _new_pool(workers) as pool:
        try:
            while True:
                for position in islice(waiting, in_flight - len(running)):
                    running[pool.submit(function, clips[position])] = position
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        except BrokenProcessPool:
            return
        finally:
            pool.shutdown(cancel_futures=True)


def _run_all(
    clips: list[Clip], workers: int, function: Callable[[Clip], Result]
) -> Iterator[tuple[int, Result]]:
    """Yield (position, result) of every clip once, in any order; a crash costs only its clip.

    After the death of a worker, the clips that were in flight run again, one at a time: the first
    that does not come back is the culprit.
    """
    todo = dict.fromkeys(range(len(clips)))
    in_flight = workers * CLIPS_IN_FLIGHT
    while todo:
        for position, result in _run_until_crash(clips, list(todo), workers, in_flight, function):
            del todo[position]
            yield position, result
        suspects = dict.fromkeys(islice(todo, in_flight))
        for position, result in _run_until_crash(clips, list(suspects), 1, 1, function):
            del todo[position], suspects[position]
            yield position, result
        for culprit in islice(suspects, 1):
            del todo[culprit]
            yield culprit, Failure("worker", "crash", "the process that worked on it died")


def extract(
    table: pd.DataFrame,
    root: str | Path,
    workers: int = 1,
    *,
    function: Callable[[Clip], Result] = measure_clip,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return (features, errors) of a corpus table; both keep its order for any number of workers.

    Args:
        table: corpus table on the index ``file``, ``start``, ``end``
        root: folder that the files are relative to
        workers: processes; 0 works in this one, where a crash of the C library ends everything
        function: what is done with a clip

    Returns:
        the table's columns with 88 functionals (float32) and ``Duration`` [s], without the rows
        that failed; and a table of those: file, start, end, stage, reason, message

    Raises:
        CorpusError: if the table has a column that is called like a feature
    """
    names = feature_names()
    clashes = table.columns.intersection(names)
    if len(clashes):
        raise corpora.CorpusError(f"the table has columns {list(clashes)}, which are features")
    clips = [Clip(str(root), *row) for row in table.index]
    if workers:
        runs = _run_all(clips, workers, function)
    else:
        runs = enumerate(map(function, clips))
    results: list[Result | None] = [None] * len(clips)
    for position, result in tqdm(runs, total=len(clips), unit="clip", desc="features"):
        results[position] = result
    return _as_features(table, results, names), _as_errors(clips, results)


def _as_features(table: pd.DataFrame, results: list[Result], names: list[str]) -> pd.DataFrame:
    """Return the rows with features, the corpus table's columns first."""
    good = [position for position, result in enumerate(results) if isinstance(result, np.ndarray)]
    rows = table.iloc[good]
    values = np.array([results[position] for position in good]).reshape(len(good), len(names))
    features = pd.DataFrame(values, index=rows.index, columns=names)
    features = features.astype({name: "float32" for name in names if name != DURATION})
    joined = pd.concat([rows, features], axis=1)
    joined.attrs = dict(table.attrs)
    return joined


def _as_errors(clips: list[Clip], results: list[Result]) -> pd.DataFrame:
    """Return one row for each clip that failed."""
    rows = [
        (clip.file, clip.start, clip.end, result.stage, result.reason, result.message)
        for clip, result in zip(clips, results, strict=True)
        if isinstance(result, Failure)
    ]
    return pd.DataFrame(rows, columns=ERROR_COLUMNS)


# --- Files ---------------------------------------------------------------------------------------


def errors_path(output: Path) -> Path:
    """Return where the failures of a feature file are listed: ``<stem>.errors.csv`` beside it."""
    return output.with_name(f"{output.stem}.errors.csv")


def _replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file under a temporary name beside it, and rename it when it is whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_features(features: pd.DataFrame, errors: pd.DataFrame, output: Path) -> None:
    """Write the parquet file with its metadata, and the list of failures or none."""
    about = {
        "name": features.attrs.get("name"),
        "root": features.attrs.get("root"),
        "corpus": features.attrs.get("corpus"),
        "feature_set": opensmile.FeatureSet.eGeMAPSv02.name,
        "feature_level": opensmile.FeatureLevel.Functionals.name,
        "opensmile": opensmile.__version__,
        "sampling_rate": audio.SAMPLING_RATE,
        "conditioning": audio.CONDITIONING,
    }
    data = pa.Table.from_pandas(features)
    data = data.replace_schema_metadata(
        {**data.schema.metadata, METADATA_KEY: json.dumps(about).encode()}
    )
    listing = errors_path(output)
    if errors.empty:
        listing.unlink(missing_ok=True)
    else:
        _replace_file(listing, lambda path: errors.to_csv(path, index=False))
    _replace_file(output, lambda path: pq.write_table(data, path))


def read_features(path: str | Path) -> pd.DataFrame:
    """Return a feature file as `extract` gave it, with its metadata in ``attrs``.

    Raises:
        ValueError: if it was not written by features.py
    """
    data = pq.read_table(path)
    if METADATA_KEY not in (data.schema.metadata or {}):
        raise ValueError(f"{path} has no metadata of features.py, expected a feature file")
    features = data.to_pandas()
    features.attrs = json.loads(data.schema.metadata[METADATA_KEY])
    return features


# --- Command line --------------------------------------------------------------------------------


def _output_path(text: str) -> Path:
    """Return the path of the feature file to write."""
    path = Path(text)
    if path.suffix != ".parquet":
        raise argparse.ArgumentTypeError(f"{text} must end in .parquet")
    return path


def _worker_count(text: str) -> int:
    """Return a positive number of processes."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} must be a whole number from 1")
    return int(text)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="SOURCE", help=corpora.SOURCE_FORMS)
    parser.add_argument("-o", "--output", required=True, type=_output_path, metavar="FILE.parquet")
    parser.add_argument(
        "--workers", type=_worker_count, default=os.cpu_count(), help="processes (%(default)s)"
    )
    parser.add_argument(
        "--keep-going", action="store_true", help="exit code 0 although some clips failed"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Measure a corpus and return the exit code."""
    options = parse_arguments(arguments)
    try:
        table = corpora.read_corpus(options.source)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        features, errors = extract(table, table.attrs["root"], options.workers)
        write_features(features, errors, options.output)
    except (corpora.CorpusError, OSError) as error:
        print(f"features.py: {error}", file=sys.stderr)
        return 1
    print(f"{options.output}: {len(features)} of {len(table)} clips")
    if errors.empty:
        return 0
    reasons = ", ".join(
        f"{count} {reason}" for reason, count in errors.reason.value_counts().items()
    )
    print(
        f"{len(errors)} clips could not be measured ({reasons}), see {errors_path(options.output)};"
        " the others are written",
        file=sys.stderr,
    )
    return 0 if options.keep_going and len(features) else 1


if __name__ == "__main__":
    sys.exit(main())
