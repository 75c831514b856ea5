"""The recordings of one corpus, or of several, by file name.

    recordings = Files("/data/RAVDESS")
    waveform = recordings.crop("Actor_01/03-01-05-01-01-01-01.wav", None, None, 5.0, place=0.5)

T samples at 16 kHz.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from paraclap.audio.conditioning import CONDITIONING
from paraclap.audio.containers import read_duration
from paraclap.audio.paths import hash_audio, resolve_inside
from paraclap.audio.reading import read_audio, read_crop
from paraclap.audio.segments import Position
from paraclap.audio.waveform_cache import CachedWaveforms


class Files:
    """The recordings of a corpus, read from its files.

    Attributes:
        root: folder that file names are relative to.
        conditioning: description of the conditioning of the samples.
        in_memory: whether reading decodes nothing.
    """

    conditioning = CONDITIONING
    in_memory = False

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def seconds(self, file: str) -> float:
        """Return the duration of a file [s]."""
        return read_duration(resolve_inside(self.root, file))

    def read(self, file: str, start: Position = None, end: Position = None) -> np.ndarray:
        """Return a segment (T,), see `read_audio`."""
        return read_audio(resolve_inside(self.root, file), start, end)

    def crop(
        self, file: str, start: Position, end: Position, seconds: float, place: float
    ) -> np.ndarray:
        """Return a crop of a segment (T,), see `read_crop`."""
        return read_crop(resolve_inside(self.root, file), start, end, seconds, place)

    def hash(self, file: str) -> str:
        """Return the SHA-256 of the bytes of a file."""
        return hash_audio(resolve_inside(self.root, file))


class JoinedRecordings:
    """The recordings of several corpora; a file name begins with that of its corpus.

    Attributes:
        corpora: name of a corpus -> its recordings.
        conditioning: description of the conditioning of the samples.
        in_memory: whether reading decodes nothing.
    """

    def __init__(self, corpora: Mapping[str, Files | CachedWaveforms]) -> None:
        self.corpora = corpora
        self.conditioning = "; ".join(dict.fromkeys(c.conditioning for c in corpora.values()))
        self.in_memory = all(c.in_memory for c in corpora.values())

    def _find(self, file: str) -> tuple[Files | CachedWaveforms, str]:
        corpus, _, name = file.partition("/")
        return self.corpora[corpus], name

    def seconds(self, file: str) -> float:
        """Return the duration of a file [s]."""
        recordings, name = self._find(file)
        return recordings.seconds(name)

    def read(self, file: str, start: Position = None, end: Position = None) -> np.ndarray:
        """Return a segment (T,)."""
        recordings, name = self._find(file)
        return recordings.read(name, start, end)

    def crop(
        self, file: str, start: Position, end: Position, seconds: float, place: float
    ) -> np.ndarray:
        """Return a crop of a segment (T,)."""
        recordings, name = self._find(file)
        return recordings.crop(name, start, end, seconds, place)

    def hash(self, file: str) -> str:
        """Return the SHA-256 of the bytes of a file as hexadecimal text."""
        recordings, name = self._find(file)
        return recordings.hash(name)


Recordings = Files | CachedWaveforms | JoinedRecordings
"""Source of the recordings of a corpus, or of several; file names are relative to it."""
