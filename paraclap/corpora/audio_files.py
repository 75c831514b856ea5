"""Finding the audio files of a corpus, one per recording.

Skipped files are reported by a warning with their number and an example. No audio is opened.
"""

import os
import posixpath
import re
import warnings
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import pandas as pd
import soundfile

from paraclap.corpora import CorpusError

FORMAT_SUFFIXES = {
    "AIFF": ("aiff", "aif", "aifc"),
    "AU": ("au", "snd"),
    "AVR": ("avr",),
    "CAF": ("caf",),
    "FLAC": ("flac",),
    "IRCAM": ("sf",),
    "MP3": ("mp3",),
    "NIST": ("nist", "sph"),
    "OGG": ("ogg", "oga", "opus"),
    "PAF": ("paf",),
    "PVF": ("pvf",),
    "RF64": ("rf64",),
    "SVX": ("iff", "svx"),
    "VOC": ("voc",),
    "W64": ("w64",),
    "WAV": ("wav", "wave"),
}
"""Audio formats of libsndfile and their usual suffixes."""
CONVERTIBLE_SUFFIXES = ("m4a", "mp4", "aac", "wma", "webm", "mkv", "amr", "3gp")
"""Suffixes of audio that libsndfile does not decode."""


def warn_skipped(root: Path, count: int, what: str, examples: Iterable[str]) -> None:
    """Warn about skipped items, unless their number is 0."""
    if count:
        warnings.warn(f"{root}: {count} {what}, e.g. {next(iter(examples))}", stacklevel=3)


@cache
def audio_suffixes() -> frozenset[str]:
    """Return the lower-case suffixes, without dot, of the formats that libsndfile reads here."""
    available = soundfile.available_formats()
    return frozenset(
        s for name, suffixes in FORMAT_SUFFIXES.items() if name in available for s in suffixes
    )


def find_audio(root: str | Path, suffixes: frozenset[str] | None = None) -> list[str]:
    """Return the audio files below ``root``, sorted, as relative paths with ``/``.

    Hidden files and the ``__MACOSX`` folders of ZIP archives are skipped.

    Args:
        root: folder to search
        suffixes: lower-case suffixes without dot; None for all that libsndfile reads

    Raises:
        CorpusError: if a name is not UTF-8
    """
    suffixes = audio_suffixes() if suffixes is None else suffixes
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        relative = Path(folder).relative_to(root).as_posix()
        found += [
            posixpath.normpath(posixpath.join(relative, name))
            for name in files
            if not name.startswith(".") and posixpath.splitext(name)[1][1:].lower() in suffixes
        ]
    for name in found:
        if not name.isprintable() and any("\udc80" <= letter <= "\udcff" for letter in name):
            raise CorpusError(f"{root}: the name {os.fsencode(name)!r} is not UTF-8, rename it")
    return sorted(found)


def one_per_recording(root: Path, keys: Mapping[str, object], prefer: str | None) -> list[str]:
    """Return one file per recording, sorted.

    Files with the same name and size in several folders are copies, as often found in unpacked
    archives; the copy in the fewest folders is kept.

    Args:
        root: folder of the files
        keys: file -> key of its recording
        prefer: regular expression; of several files of a recording, the only match is kept

    Raises:
        CorpusError: if a recording exists with two suffixes, or in copies that differ in size
    """
    groups: dict[object, list[str]] = {}
    for file, key in keys.items():
        groups.setdefault(key, []).append(file)
    kept, copies, replaced = [], [], []
    for files in groups.values():
        preferred = [file for file in files if prefer and re.search(prefer, file)]
        if len(files) > 1 and len(preferred) == 1:
            replaced += [file for file in files if file not in preferred]
            files = preferred
        files = sorted(files, key=lambda file: (file.count("/"), file))
        first, others = files[0], files[1:]
        for other in others:
            same_name = posixpath.basename(first) == posixpath.basename(other)
            if not same_name or os.path.getsize(root / first) != os.path.getsize(root / other):
                raise CorpusError(
                    f"{root}: {first} and {other} are the same recording; keep one of them"
                )
        kept.append(first)
        copies += others
    warn_skipped(
        root, len(copies), "audio files are copies in another folder and are skipped", copies
    )
    warn_skipped(
        root, len(replaced), "audio files have a corrected version and are skipped", replaced
    )
    return sorted(kept)


def read_folder(root: Path) -> pd.DataFrame:
    """Return a table with one row (file) per audio file below ``root``.

    Raises:
        CorpusError: if a recording exists with two suffixes
    """
    files = find_audio(root)
    one_per_recording(root, {file: posixpath.splitext(file)[0] for file in files}, None)
    others = find_audio(root, frozenset(CONVERTIBLE_SUFFIXES))
    warn_skipped(root, len(others), "files must be converted with ffmpeg and are skipped", others)
    return pd.DataFrame({"file": files}, dtype="str")
