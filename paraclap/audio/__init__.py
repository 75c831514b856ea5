"""Audio input: decoding, conditioning to mono 16 kHz, augmentation, the waveform cache."""

from paraclap.errors import ParaCLAPError

SAMPLING_RATE = 16_000
"""Sampling rate of every waveform in this package [Hz]."""
AUDIO_SUFFIXES = frozenset(
    "aif aifc aiff au avr caf flac iff mp3 nist oga ogg opus paf pvf rf64 sf snd sph svx voc w64"
    " wav wave".split()
)
"""Suffixes of audio that libsndfile decodes, in lower case."""
CONVERTIBLE_SUFFIXES = frozenset("3gp aac amr avi flv m4a mkv mov mp4 mpeg mpg webm wma".split())
"""Suffixes of audio and video that ffmpeg converts."""


class AudioError(ParaCLAPError, ValueError):
    """An audio file, or a segment of it, that cannot be read faithfully.

    Attributes:
        reason: short code for tables and counts, e.g. `truncated`.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)  # both arguments, so that the error can be pickled
        self.reason = reason

    def __str__(self) -> str:
        """Return the message without the code."""
        return self.args[1]
