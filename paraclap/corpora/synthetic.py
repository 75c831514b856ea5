"""A corpus of emotional, speech-like clips from a voice model, for demos and tests.

No recordings are used. Speakers differ in gender, pitch, vocal-tract length, rate, loudness and
voice quality, and emotions change the prosody as described in the literature on vocal expression.
Classes overlap, because clips differ in how strongly they express their emotion. The corpus is an
audformat database; the same arguments give the same bytes for any number of workers.
"""

import functools
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import audformat
import numpy as np
import soundfile

from paraclap.audio import SAMPLING_RATE
from paraclap.corpora import CorpusError
from paraclap.corpora.databases import read_database
from paraclap.corpora.synthetic_speakers import (
    PROSODY,
    Speaker,
    draw_prosody,
    make_speakers,
    random_stream,
    split_speakers,
)
from paraclap.corpora.synthetic_voice import render
from paraclap.files import atomic_folder, read_yaml
from paraclap.progress import with_progress

RECIPE = 1  # stored with the corpus; raise it when audio or tables change


@dataclass(frozen=True)
class ClipPlan:
    """Everything that determines the content of a file."""

    speaker: Speaker
    emotion: str
    file: str  # relative to the corpus root
    stream: tuple[int, int, int, int]  # seed, speaker, emotion and repetition


def write_corpus(
    root: str | Path,
    speakers: int = 16,
    clips_per_emotion: int = 8,
    seed: int = 0,
    workers: int = 1,
    force: bool = False,
) -> bool:
    """Write the corpus as an audformat database, atomically.

    Args:
        root: folder to create
        speakers: number of speakers, at least 6
        clips_per_emotion: number of clips per speaker and emotion
        seed: non-negative integer
        workers: number of processes; 1 uses this process
        force: replace an existing folder

    Returns:
        True if it was written, False if the same corpus already existed

    Raises:
        CorpusError: if a number is too small, or the folder exists and must not be replaced
        OutputError: if the folder cannot be written
    """
    for name, value, lowest in (
        ("clips_per_emotion", clips_per_emotion, 1), ("workers", workers, 1), ("seed", seed, 0)
    ):  # fmt: skip
        if value < lowest:
            raise CorpusError(f"{name} is {value}, expected at least {lowest}")
    voices = make_speakers(speakers, seed)
    parameters = dict(
        recipe=RECIPE, speakers=speakers, clips_per_emotion=clips_per_emotion, seed=seed
    )
    root = Path(root).expanduser().resolve()
    if root.is_file() or (root.is_dir() and any(root.iterdir())):
        if not force and _is_finished(root, parameters):
            return False
        if not force:
            raise CorpusError(
                f"{root} exists with other or incomplete content; choose another folder, or add"
                " --force to replace it"
            )
        if not root.is_dir() or Path.cwd().is_relative_to(root):
            raise CorpusError(f"{root} is a file or contains the working folder, not replaced")
    with atomic_folder(root) as folder:
        _write_database(folder, voices, parameters, workers)
    return True


def _is_finished(root: Path, parameters: dict[str, int]) -> bool:
    """Return whether the folder contains the corpus of these parameters, with all files."""
    try:
        header = read_yaml(root / "db.yaml", CorpusError)
        return header["parameters"] == parameters and all(
            (root / file).is_file() for file in read_database(root)["file"]
        )
    except (CorpusError, ValueError, LookupError, TypeError):  # another database
        return False


def _write_database(
    root: Path, speakers: list[Speaker], parameters: dict[str, int], workers: int
) -> None:
    clips = [
        ClipPlan(
            speaker=speaker,
            emotion=name,
            file=f"audio/{speaker.name}/{speaker.name}_{name}_{repetition + 1:02d}.wav",
            stream=(parameters["seed"], voice, emotion, repetition),
        )
        for voice, speaker in enumerate(speakers)
        for emotion, name in enumerate(PROSODY)
        for repetition in range(parameters["clips_per_emotion"])
    ]
    dimensions = _write_clips(root, clips, workers)
    database = _describe_database(speakers, parameters)
    for split, members in split_speakers(speakers).items():
        rows = [row for row, clip in enumerate(clips) if clip.speaker in members]
        spoken = [clips[row] for row in rows]
        columns = {
            "emotion": [clip.emotion for clip in spoken],
            "speaker": [clip.speaker.name for clip in spoken],
            "arousal": dimensions[rows, 0],
            "valence": dimensions[rows, 1],
        }
        index = audformat.filewise_index([clip.file for clip in spoken])
        database.splits[split] = audformat.Split(type=split)
        table = audformat.Table(index, split_id=split, media_id="synthetic")
        database[f"emotion.{split}"] = table
        for name, values in columns.items():
            table[name] = audformat.Column(scheme_id=name)
            table[name].set(values)
    database.save(root, storage_format="csv")


def _describe_database(speakers: list[Speaker], parameters: dict[str, int]) -> audformat.Database:
    """Return the header of the database, which describes its columns."""
    database = audformat.Database(
        name="paraclap-synthetic",
        source="preprocessing/synthetic_corpus.py",
        usage=audformat.define.Usage.UNRESTRICTED,
        description="Emotional, speech-like clips made by a source-filter voice model",
        author="ParaCLAP authors",
        license=audformat.define.License.CC0_1_0,
        meta={"parameters": parameters},
    )
    database.media["synthetic"] = audformat.Media(
        type="audio", format="wav", sampling_rate=SAMPLING_RATE, channels=1, bit_depth=16
    )
    database.schemes["emotion"] = audformat.Scheme(labels=list(PROSODY))
    people = {person.name: {"gender": person.gender, "age": person.age} for person in speakers}
    database.schemes["speaker"] = audformat.Scheme(labels=people)
    for dimension in ("arousal", "valence"):
        database.schemes[dimension] = audformat.Scheme("float", minimum=0, maximum=1)
    return database


def _write_clips(root: Path, clips: list[ClipPlan], workers: int) -> np.ndarray:
    """Write all audio files; return arousal and valence, (clips, 2)."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        over = map if workers == 1 else functools.partial(pool.map, chunksize=8)
        written = over(_write_clip, [root] * len(clips), clips)
        return np.array(list(with_progress(written, len(clips), "synthetic corpus", "clip")))


def _write_clip(root: Path, clip: ClipPlan) -> tuple[float, float]:
    """Write an audio file; return its arousal and valence."""
    rng = random_stream(*clip.stream)
    prosody = draw_prosody(clip.speaker, clip.emotion, rng)
    waveform = render(clip.speaker, prosody, rng)
    samples = np.round(waveform * 2**15).astype(np.int16)
    (root / clip.file).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(root / clip.file, samples, SAMPLING_RATE, subtype="PCM_16")
    return round(prosody.arousal, 3), round(prosody.valence, 3)
