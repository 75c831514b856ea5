"""Headers, and files that are refused for their content."""

import os
import struct

import numpy as np
import pytest
import soundfile
from audio_files import reason_of, tone, write

from paraclap.audio import SAMPLING_RATE, AudioError, paths
from paraclap.audio.containers import Header, read_duration, read_header
from paraclap.audio.reading import read_audio


def patched(content: bytes, position: int, value: int) -> bytes:
    return content[:position] + struct.pack("<I", value) + content[position + 4 :]


@pytest.fixture
def wav(tmp_path) -> bytes:
    return write(tmp_path / "source.wav", tone()).read_bytes()


CONTENTS = {
    "zero bytes": (lambda wav: b"", "empty"),
    "header only": (lambda wav: patched(wav, 40, 0)[:44], "empty"),
    "web page": (lambda wav: b"<!DOCTYPE html><html></html>", "html"),
    "LFS pointer": (lambda wav: b"version https://git-lfs.github.com/spec/v1\n", "lfs_pointer"),
    "text": (lambda wav: b"not found\n", "text"),
    "zip": (lambda wav: b"PK\x03\x04\0\0\0\0", "archive"),
    "random bytes": (lambda wav: np.random.default_rng(1).bytes(5000), "not_audio"),
    "cut in half": (lambda wav: wav[: len(wav) // 2], "truncated"),
    "rate 1 Hz": (lambda wav: patched(wav, 24, 1), "sample_rate"),
    "rate 800 MHz": (lambda wav: patched(wav, 24, 800_000_000), "sample_rate"),
}


def test_header_describes_the_content_whatever_the_suffix(tmp_path):
    stereo = np.stack([tone(0.5, 96_000)] * 2, axis=1)
    soundfile.write(tmp_path / "a.wav", stereo, 96_000, format="AIFF", subtype="PCM_24")
    assert read_header(tmp_path / "a.wav") == Header(0.5, 96_000, 2, "AIFF PCM_24")
    assert read_duration(tmp_path / "a.wav") == 0.5
    (tmp_path / "b.wav").write_text("<html>")
    with pytest.raises(AudioError, match="HTML"):
        read_header(tmp_path / "b.wav")


@pytest.mark.parametrize("make, reason", CONTENTS.values(), ids=CONTENTS.keys())
def test_damaged_and_foreign_content_has_a_reason(tmp_path, wav, make, reason):
    path = tmp_path / "clip.wav"
    path.write_bytes(make(wav))
    assert reason_of(path) == reason


@pytest.mark.parametrize("suffix", ["aiff", "au", "w64", "rf64"])
def test_file_shorter_than_announced_is_refused(tmp_path, suffix):
    path = write(tmp_path / f"a.{suffix}", tone())
    assert len(read_audio(path)) == SAMPLING_RATE
    path.write_bytes(path.read_bytes()[:20_000])
    assert reason_of(path) == "truncated"


def test_stream_of_unknown_length_is_accepted(tmp_path, wav):
    (tmp_path / "a.wav").write_bytes(patched(wav, 40, 0xFFFFFFFF))
    assert len(read_audio(tmp_path / "a.wav")) == SAMPLING_RATE


def test_unreadable_file_is_not_called_missing(tmp_path, monkeypatch):
    path = write(tmp_path / "a.wav", tone())
    path.chmod(0)
    if os.access(path, os.R_OK):  # root reads everything: simulate the error of another user

        def refuse(*arguments, **keywords):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(paths, "open", refuse, raising=False)
    assert reason_of(path) == "unreadable"
