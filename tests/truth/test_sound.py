"""Sound that is not what it seems is read whole, refused or marked."""

import json
import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from audio_files import assert_read_alike, babble, reason_of, tone, write

import corpus_files
from paraclap.acoustics import extraction
from paraclap.acoustics.egemaps import Extractor
from paraclap.audio import SAMPLING_RATE, AudioError
from paraclap.audio.conditioning import condition, condition_with_report
from paraclap.audio.containers import read_duration, read_header
from paraclap.audio.mp3 import parse_frame
from paraclap.audio.quality import quality_flags
from paraclap.audio.reading import (
    read_audio,
    read_audio_with_report,
    read_crop,
    read_in_blocks,
)
from paraclap.audio.waveform_cache import cache_waveforms
from paraclap.cli import evaluate, predict, search
from paraclap.corpora.table import read_clips, read_corpus
from paraclap.inference import page, results
from paraclap.inference.api import ParaCLAP
from paraclap.inference.page import Analyzer
from paraclap.model.modeling_paraclap import ParaCLAPFeatureExtractor

DATA = Path(os.environ.get("PARACLAP_DATA", Path(__file__).resolve().parents[2] / "../shared/data"))

# --- Containers ----------------------------------------------------------------------------------


def first_frame(content: bytes) -> int:
    """Return the size of the first frame of an MP3 file, its Xing header."""
    return parse_frame(content[:4]).size


def vbr_mp3(path: Path, seconds: float, seed: int = 0, xing: bool = True) -> bytes:
    """Return the content of an MP3 file with a variable bitrate."""
    write(path, babble(seconds, 44_100, seed), 44_100, format="MP3", bitrate_mode="VARIABLE")
    content = path.read_bytes()
    assert b"Xing" in content[: first_frame(content)]
    return content if xing else content[first_frame(content) :]


def ogg(path: Path, seconds: float, subtype: str, seed: int = 0) -> bytes:
    """Return the content of an Ogg file."""
    samples = babble(seconds, 48_000, seed)
    return write(path, samples, 48_000, format="OGG", subtype=subtype).read_bytes()


def wav(path: Path, seconds: float, announced: bool = True, seed: int = 0) -> bytes:
    """Return the content of a WAV file, with both sizes 0 unless announced."""
    content = bytearray(write(path, babble(seconds, seed=seed), format="WAV").read_bytes())
    if not announced:
        content[4:8] = content[40:44] = bytes(4)
    return bytes(content)


def with_sizes(content: bytes, whole: int | None, data: int | None) -> bytes:
    """Return a WAV file with other sizes in its header; None keeps one."""
    sizes = {4: whole, 40: data}
    changed = bytearray(content)
    for place, size in sizes.items():
        if size is not None:
            struct.pack_into("<I", changed, place, size)
    return bytes(changed)


def chunk(size: int, order: str = "<") -> bytes:
    """Return a chunk of text."""
    return struct.pack(f"{order}4sI", b"LIST", size) + b"a" * (size + size % 2)


def aiff_with(content: bytes, added: bytes) -> bytes:
    """Return an AIFF file with a chunk at its end."""
    return content[:4] + struct.pack(">I", len(content + added) - 8) + content[8:] + added


def flac_of(path: Path, seconds: float, samples: int, **options) -> bytes:
    """Return the content of a FLAC file that announces so many samples."""
    path = write(path, babble(seconds, 44_100), 44_100, format="FLAC", **options)
    content = bytearray(path.read_bytes())
    content[21] = content[21] & 0xF0 | samples >> 32
    content[22:26] = (samples % 2**32).to_bytes(4, "big")
    return bytes(content)


def piped_flac(path: Path, seconds: float, **options) -> bytes:
    """Return the content of a FLAC file of unknown length."""
    return flac_of(path, seconds, 0, **options)


ID3 = b"ID3\4\0\0\0\0\2\0" + bytes(256)
PICTURE = b"ID3\4\0\0\0\x7f\x7f\x7f" + b"\xff\xfb" * (2**20 - 1) + b"\0"
OPEN = "unknown_length"
WHOLE = {
    "VBR MP3 without Xing": (lambda p: vbr_mp3(p, 4, xing=False), 4, OPEN),
    "VBR MP3 without Xing behind a tag": (lambda p: ID3 + vbr_mp3(p, 4, xing=False), 4, OPEN),
    "two MP3": (lambda p: vbr_mp3(p, 2) + vbr_mp3(p, 2, 1), 4, None),
    "two MP3 with tags": (
        lambda p: ID3 + vbr_mp3(p, 2) + b"TAG" + bytes(125) + ID3 + vbr_mp3(p, 2), 4, None),
    "MP3, and one without Xing": (lambda p: vbr_mp3(p, 2) + vbr_mp3(p, 2, 1, xing=False), 4, OPEN),
    "two MP3 with a picture": (lambda p: vbr_mp3(p, 2) + PICTURE + vbr_mp3(p, 2), 4, None),
    "chained Vorbis": (lambda p: ogg(p, 2, "VORBIS") + ogg(p, 2, "VORBIS", 1), 4, None),
    "chained Opus": (lambda p: ogg(p, 2, "OPUS") + ogg(p, 2, "OPUS", 1), 4, None),
    "an Ogg file twice": (lambda p: ogg(p, 2, "VORBIS") * 2, 4, None),
    "three Ogg files": (lambda p: b"".join(ogg(p, 1.5, "OPUS", n) for n in range(3)), 4.5, None),
    "two FLAC": (lambda p: write(p, babble(2), format="FLAC").read_bytes() * 2, 4, None),
    "two WAV": (lambda p: wav(p, 2) + wav(p, 2, seed=1), 4, None),
    "FLAC of unknown length": (lambda p: piped_flac(p, 4), 4, OPEN),
    "24-bit FLAC of unknown length": (lambda p: piped_flac(p, 4, subtype="PCM_24"), 4, OPEN),
    "WAV of a recorder that died": (lambda p: wav(p, 4, announced=False), 4, OPEN),
    "WAV with earlier sizes": (lambda p: with_sizes(wav(p, 4), 32_036, 32_000), 4, OPEN),
    "WAV with an earlier size": (lambda p: with_sizes(wav(p, 4), None, 32_000), 4, OPEN),
    "WAV with no size of its data": (lambda p: with_sizes(wav(p, 4), None, 0), 4, OPEN),
    "FLAC with an impossible length": (lambda p: flac_of(p, 4, 2**36 - 1), 4, OPEN),
    "FLAC with an earlier length": (lambda p: flac_of(p, 4, 44_100), 4, OPEN),
    "WAV with chunks behind its data": (lambda p: wav(p, 4) + chunk(9000) + chunk(8001), 4, None),
    "WAV with counted chunks": (
        lambda p: with_sizes(wav(p, 4) + chunk(9000), 128_036 + 9008, None), 4, None),
    "WAV with a tag": (lambda p: wav(p, 4) + b"ID3\4" + bytes(8000), 4, None),
    "AIFF with a chunk": (
        lambda p: aiff_with(write(p, babble(4), format="AIFF").read_bytes(), chunk(9000, ">")),
        4, None),
    "CAF with a chunk": (
        lambda p: write(p, babble(4), format="CAF").read_bytes()
        + struct.pack(">4sq", b"note", 9000) + bytes(9000), 4, None),
}  # fmt: skip


@pytest.mark.parametrize("make, seconds, flag", WHOLE.values(), ids=WHOLE.keys())
def test_joined_and_unfinished_files_are_read_to_their_end(tmp_path, make, seconds, flag):
    path = tmp_path / "clip"
    path.write_bytes(make(tmp_path / "source"))
    waveform = assert_read_alike(path, seconds)
    assert np.abs(waveform[-8000:]).max() > 0.1, "sound to the end"
    flags = read_audio_with_report(path)[1].flags()
    assert [name for name in flags if ":" not in name] == ([flag] if flag else [])


def test_joined_parts_are_those_of_their_files(tmp_path):
    for name, make in (("mp3", vbr_mp3), ("wav", wav)):
        parts = [make(tmp_path / name, 2.0, seed=seed) for seed in range(2)]
        sounds = []
        for content in parts:
            (tmp_path / "part").write_bytes(content)
            sounds.append(read_audio(tmp_path / "part"))
        (tmp_path / "joined").write_bytes(b"".join(parts))
        joined = read_audio(tmp_path / "joined")
        for begin, sound in ((0, sounds[0]), (32_000, sounds[1])):
            inner = slice(begin + 400, begin + 31_600)
            np.testing.assert_allclose(joined[inner], sound[400:31_600], atol=1e-3)


def au(path: Path, seconds: float, size: int | None = None) -> bytes:
    """Return the content of an AU file, with another size of its data."""
    content = write(path, babble(seconds), format="AU").read_bytes()
    return content if size is None else content[:8] + struct.pack(">I", size) + content[12:]


def rf64_of(path: Path, seconds: float, size: int) -> bytes:
    """Return the content of an RF64 file that announces so many bytes of data."""
    content = write(path, babble(seconds), format="RF64").read_bytes()
    return content[:28] + struct.pack("<Q", size) + content[36:]


def xing_of(content: bytes, frames: int) -> bytes:
    """Return an MP3 file that announces so many frames."""
    place = content.index(b"Xing") + 8
    return content[:place] + struct.pack(">I", frames) + content[place + 4 :]


REFUSED = {
    "AU of a recorder that died": (lambda p: au(p, 2, 0), "unfinished"),
    "AU with an earlier size": (lambda p: au(p, 2, 32_000), "unfinished"),
    "two AU": (lambda p: au(p, 1) * 2, "unfinished"),
    "RF64 of a recorder that died": (lambda p: rf64_of(p, 2, 0), "unfinished"),
    "RF64 with an earlier size": (lambda p: rf64_of(p, 2, 32_000), "unfinished"),
    "FLAC with a later length": (lambda p: flac_of(p, 3, 200_000), "truncated"),
    "MP3 with an impossible length": (lambda p: xing_of(vbr_mp3(p, 2), 10**9), "truncated"),
    "FLAC of unknown length, cut": (lambda p: piped_flac(p, 3)[:-50], "truncated"),
    "MP3 of two rates": (
        lambda p: vbr_mp3(p, 2) + write(p, babble(2), format="MP3").read_bytes(), "joined"),
    "Vorbis and Opus of other channels": (
        lambda p: ogg(p, 1, "VORBIS")
        + write(p, np.stack([babble(1)] * 2, 1), 48_000, format="OGG").read_bytes(), "joined"),
    "second part cut": (lambda p: wav(p, 2) + wav(p, 2)[:-9000], "truncated"),
    "WAV with an empty data chunk and a list": (
        lambda p: b"RIFF\x40\0\0\0" + wav(p, 1)[8:40] + bytes(4) + b"LIST\x14\0\0\0" + bytes(20),
        "empty"),
}  # fmt: skip


@pytest.mark.parametrize("make, reason", REFUSED.values(), ids=REFUSED.keys())
def test_parts_that_do_not_fit_are_refused(tmp_path, make, reason):
    path = tmp_path / "clip"
    path.write_bytes(make(tmp_path / "source"))
    assert reason_of(path) == reason


@pytest.mark.parametrize(
    "container, subtype",
    [
        *(("WAV", name) for name in ("GSM610", "G721_32", "IMA_ADPCM", "MS_ADPCM")),
        *(("WAV", f"NMS_ADPCM_{bits}") for bits in (16, 24, 32)),
        *(("AU", name) for name in ("G721_32", "G723_24", "G723_40")),
        *(("AIFF", name) for name in ("GSM610", "DWVW_16", "DWVW_24")),
        ("W64", "GSM610"),
        ("CAF", "ALAC_16"),
    ],
)
def test_codings_without_seeking_are_read_in_order(tmp_path, container, subtype):
    samples = tone(3.0, 8_000)
    path = write(tmp_path / "clip", samples, 8_000, format=container, subtype=subtype)
    waveform = assert_read_alike(path, 3.0)
    assert 0.2 < np.sqrt(np.mean(waveform**2)) < 0.5


def test_files_of_unknown_length_are_split_into_rows(tmp_path, monkeypatch):
    (tmp_path / "a.flac").write_bytes(piped_flac(tmp_path / "a.flac", 3.5))
    write(tmp_path / "b.flac", babble(3.5, 44_100), 44_100, format="FLAC")
    monkeypatch.setattr(extraction, "MAX_SECONDS", 2.0)
    extractor = Extractor("captions")
    rows, expected = (
        extraction.measure_clip(extractor, extraction.Clip(str(tmp_path), name, longest=1.0))
        for name in ("a.flac", "b.flac")
    )
    assert [row.end for row in rows] == [875_000_000, 1_750_000_000, 2_625_000_000, 3_500_000_000]
    for row, other in zip(rows, expected, strict=True):
        assert not row.error and row.digest == other.digest and "unknown_length" in row.quality
        np.testing.assert_array_equal(row.values, other.values)


# --- Cancelling channels -------------------------------------------------------------------------


def cancelling(gain: float = -1.0) -> np.ndarray:
    """Return two channels (F, 2), the second of which is a multiple of the first."""
    samples = babble(3.0)
    return np.stack([samples, gain * samples], axis=1)


READERS = {
    "segment": lambda path: read_audio(path, 0.5, 2.0),
    "report": read_audio_with_report,
    "crop": lambda path: read_crop(path, None, None, 1.0, 0.5),
    "blocks": lambda path: read_in_blocks(path, lambda block: None),
    "memory": lambda path: condition(*soundfile.read(path)),
    "cache": lambda path: cache_waveforms(path.parent / "cache", path.parent, [path.name]),
}


@pytest.mark.parametrize("gain", [-1.0, -0.9])
@pytest.mark.parametrize("options", [{}, {"subtype": "FLOAT"}, {"format": "FLAC"}])
@pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())
def test_channels_that_cancel_are_refused_wherever_audio_is_read(tmp_path, read, options, gain):
    path = write(tmp_path / "clip.wav", cancelling(gain), **options)
    with pytest.raises(AudioError, match="cancel each other") as caught:
        read(path)
    assert caught.value.reason == "antiphase"


@pytest.mark.parametrize(
    "options",
    [
        {"format": "OGG", "subtype": "VORBIS"},
        {"format": "OGG", "subtype": "OPUS"},
        {"format": "MP3", "bitrate_mode": "VARIABLE"},
    ],
)
@pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())
def test_lossy_copies_of_channels_that_cancel_are_refused(tmp_path, read, options):
    samples = np.tile(voice(220)[8000:16000], 6) + 0.3 * noise(1.0, 3.0)
    path = write(tmp_path / "clip.wav", np.stack([samples, -samples], axis=1), **options)
    with pytest.raises(AudioError, match="cancel each other"):
        read(path)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_channels_that_cancel_in_a_part_are_flagged_in_each_part(tmp_path, share):
    samples = babble(4.0)
    second = np.where(np.arange(len(samples)) < (1 - share) * len(samples), samples, -samples)
    path = write(tmp_path / "clip.wav", np.stack([samples, second], axis=1))
    expected = ["mixed:2", f"antiphase:{share:.2f}"]
    for place in range(4):
        assert len(read_crop(path, None, None, 1.0, place / 3)) == SAMPLING_RATE
        assert read_audio_with_report(path, place, place + 1)[1].flags() == expected
    reports = [read_audio_with_report(path)[1], read_in_blocks(path, lambda block: None)]
    for report in (*reports, condition_with_report(*soundfile.read(path))[1]):
        assert report.flags() == expected


def test_one_part_that_does_not_cancel_is_refused_with_the_whole(tmp_path):
    samples = babble(20.0)
    second = np.where(np.arange(len(samples)) < SAMPLING_RATE, samples, -samples)
    path = write(tmp_path / "clip.wav", np.stack([samples, second], axis=1))
    assert reason_of(path) == reason_of(path, 0.0, 1.0) == "antiphase"


def test_silence_is_readable_on_one_or_two_channels(tmp_path):
    for shape in ((8000,), (8000, 2)):
        path = write(tmp_path / "clip.wav", np.zeros(shape))
        assert not read_audio(path).any() and not condition(np.zeros(shape), 16_000).any()


# --- Silence and noise ---------------------------------------------------------------------------


def noise(exponent: float, seconds: float = 4.0) -> np.ndarray:
    """Return noise with a peak of 0.3 whose power falls with this exponent of the frequency."""
    frequencies = np.maximum(np.fft.rfftfreq(round(seconds * SAMPLING_RATE), 1 / SAMPLING_RATE), 1)
    spectrum = np.random.default_rng(0).normal(size=(2, len(frequencies))).T @ [1, 1j]
    samples = np.fft.irfft(spectrum * frequencies ** (-exponent / 2))
    return 0.3 * samples / np.abs(samples).max()


def hum(frequency: float) -> np.ndarray:
    """Return mains hum with its harmonics."""
    return sum(tone(4.0, frequency=order * frequency) / order for order in range(1, 10)) / 5


def voice(pitch: float) -> np.ndarray:
    """Return half a second of a vowel-like sound between two pauses with soft noise."""
    samples = noise(0.0, 2.0) * 0.01
    phases = 2 * np.pi * np.cumsum(pitch * np.linspace(1.2, 0.8, SAMPLING_RATE // 2))
    orders = np.arange(1, 20)
    vowel = sum(np.sin(order * phases / SAMPLING_RATE) / order for order in orders)
    samples[8000:16000] += 0.1 * vowel * np.hanning(8000)
    return samples


@pytest.mark.parametrize(
    "samples, flags",
    [
        (np.zeros(SAMPLING_RATE), ["silent"]),
        (np.zeros(100), ["silent"]),
        (np.full(SAMPLING_RATE, 0.2), ["silent"]),
        (noise(0.0) * 1e-3, ["silent"]),
        *(
            (noise(exponent) * gain, ["unvoiced"])
            for exponent in (-1, 0, 1, 2)
            for gain in (1, 0.1)
        ),
        (noise(0.0, 120.0), ["unvoiced"]),
        (hum(50), ["unvoiced"]),
        (hum(60), ["unvoiced"]),
        (np.eye(4, 8000).reshape(-1), ["unvoiced"]),  # four clicks
        *((voice(pitch) * gain, []) for pitch in (80, 120, 220, 400) for gain in (1, 0.01)),
        (np.tile(voice(120)[8000:16000], 3)[:6000], []),
    ],
)
def test_sound_without_speech_is_marked_at_any_level(samples, flags):
    assert quality_flags(samples.astype(np.float32)) == flags


def test_marks_of_speech_are_rare_and_cheap():
    files = sorted(DATA.glob("*/**/*.flac"))[::100]
    if not files:
        pytest.skip(f"{DATA} has no speech (set PARACLAP_DATA)")
    waveforms = [read_audio(file) for file in files]
    began = time.process_time()
    assert [quality_flags(waveform) for waveform in waveforms] == [[]] * len(files)
    seconds = sum(map(len, waveforms)) / SAMPLING_RATE
    assert time.process_time() - began < 0.005 * seconds


SOUNDS = {
    "silence": np.zeros(SAMPLING_RATE),
    "noise": noise(0.0),
    "clipped": np.clip(30 * voice(120), -1, 1),
    "voice": voice(120),
}
FLAGS = {"silence": "silent", "noise": "unvoiced", "clipped": "clipped", "voice": ""}
"""The first flag of each sound."""


@pytest.fixture
def sounds(tmp_path):
    """A folder of SOUNDS."""
    (tmp_path / "sounds").mkdir()
    for name, samples in SOUNDS.items():
        soundfile.write(tmp_path / "sounds" / f"{name}.wav", samples, SAMPLING_RATE)
    return tmp_path / "sounds"


def first_flags(table, column):
    """The first flag of each row, by the stem of a file name in a column."""
    stems = table[column].map(lambda name: Path(name).stem)
    flags = table["quality"].fillna("").str.partition(":")[0]
    return dict(zip(stems, flags.str.partition(";")[0], strict=True))


@pytest.mark.parametrize("options", [[], ["--windows", "9"]])
@pytest.mark.parametrize("kind", ["csv", "json"])
def test_predict_marks_what_is_no_speech(model_folder, sounds, tmp_path, capsys, options, kind):
    output = tmp_path / f"x.{kind}"
    arguments = [model_folder, sounds, "--prompts", "angry", "calm", "-o", output, *options]
    assert predict.main(list(map(str, arguments))) == 0
    table = pd.read_csv(output) if kind == "csv" else pd.DataFrame(json.loads(output.read_text()))
    assert first_flags(table, "file") == FLAGS
    assert "check the recordings: of 4 " in capsys.readouterr().err


def test_predict_marks_a_line_on_the_screen(model_folder, sounds, capsys):
    predict.main([str(model_folder), str(sounds), "--prompts", "angry", "calm"])
    lines = capsys.readouterr().out.splitlines()
    marked = {line.split("sounds/")[1] for line in lines if "(check: " in line}
    assert {name.partition(".")[0] for name in marked} == {"silence", "noise", "clipped"}


def test_search_marks_what_is_no_speech(model_folder, sounds, tmp_path, capsys):
    index, hits, page = (tmp_path / name for name in ("index", "hits.csv", "hits.html"))
    assert search.main(["index", str(model_folder), str(sounds), "-o", str(index)]) == 0
    outputs = ["-o", str(hits), "--page", str(page)]
    assert search.main(["query", str(index), "angry", *outputs]) == 0
    assert first_flags(pd.read_csv(hits), "file") == FLAGS
    assert "noise.wav  (check: unvoiced)" in capsys.readouterr().out
    assert '<span class="check">check: silent</span>' in page.read_text()
    (sounds / "noise.wav").rename(sounds / "renamed.wav")  # stored with the embedding
    assert search.main(["index", str(model_folder), str(sounds), "-o", str(index)]) == 0
    search.main(["query", str(index), "angry", "-o", str(hits)])
    assert first_flags(pd.read_csv(hits), "file")["renamed"] == "unvoiced"


@pytest.mark.parametrize("name", SOUNDS)
def test_page_notes_what_is_no_speech(tiny, sounds, name):
    analysis = Analyzer(ParaCLAP(*tiny)).analyze(sounds / f"{name}.wav", "angry\ncalm")
    assert len(analysis.probabilities()) == 2
    assert (analysis.acoustics is None) == (name == "silence")
    assert (
        (analysis.checks[:1] == (page.FLAGS[FLAGS[name]],)) if FLAGS[name] else not analysis.checks
    )


def test_silent_windows_are_left_out_of_the_mean_and_noted(tiny, tmp_path):
    speech = np.concatenate([np.tile(voice(120)[8000:16000], 16), noise(0.0, 8.0)])
    analyses = []
    for name, samples in (("a", speech), ("b", np.concatenate([speech, np.zeros(320_000)]))):
        soundfile.write(tmp_path / f"{name}.wav", samples, SAMPLING_RATE)
        analyses.append(Analyzer(ParaCLAP(*tiny)).analyze(tmp_path / f"{name}.wav", "angry\ncalm"))
    plain, with_silence = analyses
    assert plain.checks == ("no voice was found in 3 of 7 windows",)
    assert with_silence.checks == (
        "9 of 17 windows are silent and left out of the mean",
        "no voice was found in 4 of 17 windows",
    )
    kept = with_silence.timeline.iloc[:8]
    for column in ("none_of_these", "probability.angry", "cosine.calm"):
        assert with_silence.scores[column] == pytest.approx(kept[column].mean(), abs=1e-6)
    assert "Mean of 8 windows" in results.notes_of(with_silence)


def test_python_scores_come_with_quality(tiny, sounds):
    files = [sounds / f"{name}.wav" for name in SOUNDS]
    scores = ParaCLAP(*tiny).score([*files, (SOUNDS["noise"], SAMPLING_RATE)], ["angry", "calm"])
    assert [text.partition(":")[0] for text in scores["quality"]] == [*FLAGS.values(), "unvoiced"]


def test_evaluation_counts_clips_without_speech(model_folder, tmp_path, capsys):
    sounds = {"silence": 0 * noise(0.0), "noise": noise(0.0), "a": babble(1.0, 16_000, 0)}
    sounds |= {"b": babble(1.0, 16_000, 1), "rain": noise(1.0)}
    for name, samples in sounds.items():
        soundfile.write(tmp_path / f"{name}.wav", samples, SAMPLING_RATE)
    table = pd.DataFrame({"file": [f"{name}.wav" for name in sounds]})
    table["emotion"] = ["sad", "angry", "angry", "sad", "sad"]
    table.to_csv(tmp_path / "labels.csv", index=False)
    command = [str(model_folder), str(tmp_path / "labels.csv"), "-o", str(tmp_path / "results")]
    for _ in range(2):  # the second time from the cache of embeddings
        assert evaluate.main(command) == 0
        printed = capsys.readouterr().out
        assert "labels: 2 of 5 clips are unvoiced" in printed
        assert "labels: 1 of 5 clips are silent" in printed
        rows = pd.read_csv(tmp_path / "results" / "labels.csv", index_col="file")
        assert rows["quality"].dropna().to_dict() == {
            "silence.wav": "silent",
            "noise.wav": "unvoiced",
            "rain.wav": "unvoiced",
        }


# --- Segments ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "start, end, expected",
    [
        ("4,5", "7", (4.5, 7)),
        ("4.5", "7,25", (4.5, 7.25)),
        ("00:00:04,500", "00:00:07,000", (4.5, 7)),
        ("00:00:04.500", "0 days 00:00:07", (4.5, 7)),
        ("4500ms", "7s", (4.5, 7)),
        ("1e-3", "2", (0.001, 2)),
        ("1.234,5", "2000", None),
        ("1,234.5", "2000", None),
        ("1:30", "2:00", None),
        ("00:00:04:500", "00:00:07:000", None),
        ("4,5s", "7s", None),
    ],
)
@pytest.mark.parametrize("separator", [";", "\t"])
def test_positions_are_read_as_written_or_refused(tmp_path, start, end, expected, separator):
    corpus_files.touch(tmp_path, "a.wav")
    lines = [separator.join(row) for row in (("file", "start", "end"), ("a.wav", start, end))]
    table = corpus_files.write(tmp_path, "labels.csv", "\n".join(lines))
    if expected is None:
        assert "is neither seconds nor a timedelta" in corpus_files.message_of(table)
        return
    _, *limits = read_corpus(table).index[0]
    assert tuple(limit.total_seconds() for limit in limits) == expected
    assert read_clips([str(table)])[["start", "end"]].to_numpy().tolist() == [list(expected)]


# --- Processors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [16, 32])
def test_integer_samples_are_scaled_by_the_processor(width):
    extractor = ParaCLAPFeatureExtractor(gain=6.0)
    floats = (babble(1.0) * 32767).astype(np.int16) / np.float32(32768)
    integers = (floats.astype(np.float64) * 2 ** (width - 1)).astype(f"int{width}")
    expected, found = (extractor(x, 16_000)["input_values"] for x in (floats, integers))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("kind", [np.float32, np.int64])
def test_unscaled_samples_are_refused_by_the_processor(kind):
    with pytest.raises(ValueError, match=r"peaks at .*, expected float samples in \[-1, 1\]"):
        ParaCLAPFeatureExtractor()((babble(1.0) * 32767).astype(kind), 16_000)


# --- Converted files -----------------------------------------------------------------------------


FFMPEG = '''#!{python}
"""Stands in for ffmpeg: decodes what follows the first 12 bytes of a file with libsndfile."""
import io, sys, soundfile
arguments = sys.argv[1:]
open({log!r}, "a").write(" ".join(arguments) + "\\n")
name = arguments[arguments.index("-i") + 1].removeprefix("file:")
content = open(name, "rb").read()[12:]
if content.startswith(b"bad"):
    sys.exit("[in#0 @ 0x5557] moov atom not found")
samples, rate = soundfile.read(io.BytesIO(content), dtype="int16")
output = io.BytesIO()
soundfile.write(output, samples, rate, format="AU", subtype="PCM_16")
header = bytearray(output.getvalue())
header[8:12] = b"\\xff" * 4  # written to a pipe
sys.stdout.buffer.write(header)
'''
MPEG_4 = b"\0\0\0\x20ftypM4A "


@pytest.fixture
def ffmpeg(tmp_path, monkeypatch) -> Path:
    """Put a program called ffmpeg on the path; returns the log of its calls."""
    program, log = tmp_path / "bin" / "ffmpeg", tmp_path / "calls"
    program.parent.mkdir()
    program.write_text(FFMPEG.format(python=sys.executable, log=str(log)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    log.touch()
    return log


def test_converted_file_is_read_like_any_other_and_decoded_once(tmp_path, ffmpeg):
    flac = write(tmp_path / "a.flac", babble(3.0, 44_100), 44_100)
    path = tmp_path / "-i $(id).m4a"
    path.write_bytes(MPEG_4 + flac.read_bytes())
    waveform = assert_read_alike(path, 3.0)
    np.testing.assert_array_equal(waveform, read_audio(flac))
    assert read_audio_with_report(path)[1].flags() == ["resampled:44100", "converted"]
    assert read_header(path).kind == "MPEG-4 audio (m4a, mp4), converted by ffmpeg"
    calls = ffmpeg.read_text().splitlines()
    assert len(calls) == 1
    assert "-protocol_whitelist file,pipe -f mov -i file:/" in calls[0]


def test_changed_file_is_converted_again(tmp_path, ffmpeg):
    path = tmp_path / "a.m4a"
    for seconds in (1.0, 2.0):
        content = write(tmp_path / "a.flac", babble(seconds)).read_bytes()
        path.write_bytes(MPEG_4 + content)
        assert read_duration(path) == seconds


def test_file_that_ffmpeg_does_not_decode_is_refused(tmp_path, ffmpeg):
    path = tmp_path / "a.m4a"
    path.write_bytes(MPEG_4 + b"bad")
    with pytest.raises(AudioError, match="is not decoded by ffmpeg: moov atom not found$"):
        read_audio(path)
    assert reason_of(path) == "decoding"


def test_without_ffmpeg_its_need_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    heads = {
        "MPEG-4": MPEG_4,
        "WebM": b"\x1a\x45\xdf\xa3",
        "AAC": b"\xff\xf1",
        "AMR": b"#!AMR\n",
        "Windows Media": b"\x30\x26\xb2\x75",
        "AVI": b"RIFF\0\0\0\0AVI ",
        "Flash": b"FLV\1",
    }
    for name, head in heads.items():
        (tmp_path / "clip.wav").write_bytes(head + bytes(100))
        with pytest.raises(AudioError, match=f"is {name}.*, which needs ffmpeg to convert it"):
            read_header(tmp_path / "clip.wav")


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
@pytest.mark.parametrize("suffix", ["m4a", "webm", "mp4", "mkv", "aac", "wma", "flv", "avi"])
def test_real_conversions_have_the_samples_of_their_source(tmp_path, suffix):
    source = write(tmp_path / "a.wav", tone(3.0, 44_100), 44_100)
    path = tmp_path / f"a.{suffix}"
    subprocess.run(["ffmpeg", "-v", "error", "-i", source, path], check=True)
    waveform = assert_read_alike(path, 3.0)
    assert np.sqrt(np.mean(waveform**2)) == pytest.approx(0.35, abs=0.02)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    if suffix == "flv":  # does not state its length
        assert "unknown_length" in read_audio_with_report(path)[1].flags()
    else:
        assert reason_of(path) in ("decoding", "truncated")
