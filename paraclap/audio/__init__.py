"""Audio input: decoding, conditioning to mono 16 kHz, augmentation, the waveform cache."""

from paraclap.errors import ParaCLAPError

SAMPLING_RATE = 16_000
"""Sampling rate of every waveform in this package [Hz]."""


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
