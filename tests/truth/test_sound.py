"""Sound that is not what it seems is read whole, refused or marked."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from audio_files import tone

from paraclap.audio import SAMPLING_RATE
from paraclap.audio.quality import quality_flags
from paraclap.audio.reading import read_audio
from paraclap.cli import predict, search
from paraclap.inference import page
from paraclap.inference.api import ParaCLAP
from paraclap.inference.page import Analyzer

DATA = Path(os.environ.get("PARACLAP_DATA", Path(__file__).resolve().parents[2] / "../shared/data"))

# --- Containers ----------------------------------------------------------------------------------

# --- Cancelling channels -------------------------------------------------------------------------

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


def test_python_scores_come_with_quality(tiny, sounds):
    files = [sounds / f"{name}.wav" for name in SOUNDS]
    scores = ParaCLAP(*tiny).score([*files, (SOUNDS["noise"], SAMPLING_RATE)], ["angry", "calm"])
    assert [text.partition(":")[0] for text in scores["quality"]] == [*FLAGS.values(), "unvoiced"]


# --- Segments ------------------------------------------------------------------------------------

# --- Processors ----------------------------------------------------------------------------------

# --- Converted files -----------------------------------------------------------------------------
