"""Every file of a corpus of damaged and unusual files is measured or listed as an error."""

import os
import struct
import unicodedata

import numpy as np
import pandas as pd
import pytest
import soundfile

from paraclap.acoustics import merge, worker_pool
from paraclap.audio.paths import SYSTEM_REASONS
from paraclap.cli import features
from paraclap.corpora import CorpusError

RATE = 16_000
rng = np.random.default_rng(0)
NOISE = rng.normal(0, 0.1, RATE)


def speech(seconds=1.0, rate=RATE):
    """Return a harmonic tone of 120 Hz (T,)."""
    time = np.arange(round(seconds * rate)) / rate
    harmonics = np.arange(1, 50)[:, None]
    return 0.2 * (np.sin(2 * np.pi * 120 * harmonics * time) / harmonics**2).sum(axis=0)


def sound(samples, rate=RATE, **keywords):
    """Return a function that writes a file with these samples."""

    def write(path):
        with open(path, "wb") as file:
            soundfile.write(file, samples, rate, **{"format": "WAV", **keywords})

    return write


def data(content):
    """Return a function that writes a file with these bytes."""
    return lambda path: path.write_bytes(content)


def cut(share, **keywords):
    """Return a function that writes a file cut to a share of its bytes."""

    def write(path):
        sound(np.tile(NOISE, 3), **keywords)(path)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    return write


def patched(offset, value):
    """Return a function that writes a WAV with a changed number in its header."""

    def write(path):
        sound(speech())(path)
        content = bytearray(path.read_bytes())
        content[offset : offset + 4] = struct.pack("<I", value)
        path.write_bytes(content)

    return write


def long(path):
    """Write two hours of silence (175 kB as FLAC)."""
    with soundfile.SoundFile(path, "w", RATE, 1, format="FLAC") as file:
        for _ in range(120):
            file.write(np.zeros(60 * RATE, dtype=np.int16))


def secret(path):
    """Write a link to a file outside of the root."""
    outside = path.parent.parent / "secret.wav"
    sound(speech())(outside)
    path.symlink_to(outside)


def frames(count):
    """Return a function that writes a WAV with a number of frames."""
    return sound(speech()[:count])


stereo = np.stack
limited = np.clip(speech() * 8, -1, 32767 / 32768)
CASES = (
    # row of the list of faults, name, function that writes the file, expected outcome
    (0, "good.wav", sound(speech()), "ok"),
    (2, "rate_1.wav", patched(24, 1), "sample_rate"),
    (2, "rate_800M.wav", patched(24, 800_000_000), "sample_rate"),
    (3, "segfault.wav", frames(8_001), "crash"),
    (3, "abort.wav", frames(8_002), "crash"),
    (3, "exit.wav", frames(8_003), "crash"),
    (3, "hang.wav", frames(8_004), "timeout"),
    (3, "memory.wav", frames(8_005), "MemoryError"),
    (6, "pipe.wav", os.mkfifo, "not_regular"),
    (6, "folder.wav", os.mkdir, "directory"),
    (6, "dangling.wav", lambda path: path.symlink_to("nowhere.wav"), "dangling_link"),
    (6, "loop.wav", lambda path: path.symlink_to("loop.wav"), "looping_link"),
    (6, "gone.wav", lambda path: None, "missing"),
    (7, "samples_0.wav", frames(0), "empty"),
    (7, "samples_1.wav", frames(1), "too_short"),
    (7, "samples_80.wav", frames(80), "too_short"),
    (7, "ms_59.wav", frames(944), "too_short"),
    (7, "ms_60.wav", frames(960), "ok"),
    (7, "ms_99.wav", frames(1_584), "ok"),
    (7, "ms_100.wav", frames(1_600), "ok"),
    (8, "silence.wav", sound(np.zeros(RATE)), "silent"),
    (8, "below_16_bit.wav", sound(speech() * 5e-5, subtype="FLOAT"), "silent"),
    (8, "noise.wav", sound(NOISE), "ok unvoiced"),
    (8, "constant.wav", sound(np.full(RATE, 0.5)), "silent"),
    (8, "offset.wav", sound(speech() + 0.4), "ok offset:0.400"),
    (9, "one_nan.wav", sound(np.append(NOISE, np.nan), subtype="FLOAT"), "non_finite"),
    (9, "one_inf.wav", sound(np.append(NOISE, np.inf), subtype="FLOAT"), "non_finite"),
    (9, "all_nan.wav", sound(np.full(RATE, np.nan), subtype="FLOAT"), "non_finite"),
    (9, "integers.wav", sound(NOISE * 32768, subtype="FLOAT"), "range"),
    (10, "clipped.wav", sound(limited, subtype="FLOAT"), "ok clipped:0."),
    (10, "above_1.wav", sound(speech() * 8, subtype="FLOAT"), "ok clipped:0."),
    (11, "hz_8000.wav", sound(speech(rate=8_000), 8_000), "ok resampled:8000"),
    (11, "hz_44100.wav", sound(speech(rate=44_100), 44_100), "ok resampled:44100"),
    (11, "hz_96000.wav", sound(speech(rate=96_000), 96_000), "ok resampled:96000"),
    (
        12,
        "left_silent.wav",
        sound(stereo([np.zeros(RATE), speech()], axis=1)),
        "ok mixed:2;silent_channels:1",
    ),
    (12, "antiphase.wav", sound(stereo([speech(), -speech()], axis=1)), "antiphase"),
    (
        12,
        "nearly_antiphase.wav",
        sound(stereo([speech(), -0.5 * speech()], axis=1)),
        "ok mixed:2;antiphase:1.00",
    ),
    (12, "channels_6.wav", sound(stereo([speech()] * 6, axis=1)), "ok mixed:6"),
    (13, "a.mp3", sound(speech(), format="MP3"), "ok"),
    (13, "a.ogg", sound(speech(), format="OGG", subtype="VORBIS"), "ok"),
    (13, "a.opus", sound(speech(), format="OGG", subtype="OPUS"), "ok"),
    (13, "a.flac", sound(speech(), format="FLAC"), "ok"),
    (13, "bits_24.wav", sound(speech(), subtype="PCM_24"), "ok"),
    (13, "flac_as.wav", sound(speech(0.9), format="FLAC"), "ok"),
    (13, "a.m4a", data(b"\0\0\0\x20ftypM4A \0\0\0\0"), "needs_ffmpeg"),
    (14, "cut.wav", cut(0.5), "truncated"),
    (14, "cut.flac", cut(0.5, format="FLAC"), "decoding"),
    (14, "cut.mp3", cut(0.5, format="MP3"), "truncated"),
    (14, "cut.ogg", cut(0.5, format="OGG", subtype="VORBIS"), "ok truncated;unvoiced"),
    (14, "cut.opus", cut(0.9, format="OGG", subtype="OPUS"), "ok truncated;unvoiced"),
    (14, "cut.aiff", cut(0.5, format="AIFF"), "truncated"),
    (14, "cut.au", cut(0.5, format="AU"), "truncated"),
    (14, "cut.w64", cut(0.5, format="W64"), "truncated"),
    (14, "cut.rf64", cut(0.5, format="RF64"), "truncated"),
    (15, "page.wav", data(b"<!DOCTYPE html><html>not found</html>"), "html"),
    (15, "pointer.wav", data(b"version https://git-lfs.github.com/spec/v1\n"), "lfs_pointer"),
    (15, "text.wav", data(b"not found\n"), "text"),
    (15, "bytes.wav", data(rng.bytes(5_000)), "not_audio"),
    (15, "archive.wav", data(b"PK\3\4\0\0\0\0"), "archive"),
    (16, "two_hours.flac", long, "too_long"),
    (17, unicodedata.normalize("NFC", "é.wav"), sound(speech(0.5)), "ok"),
    (17, unicodedata.normalize("NFD", "é.wav"), sound(speech(0.6)), "ok"),
    (17, "new\nline, comma, \"quote\" 'and' tab\t.wav", sound(speech(0.7)), "ok"),
    (17, "-rf", sound(speech(0.71)), "ok"),
    (17, "$(id);%s.wav", sound(speech(0.72)), "ok"),
    (17, "NA", sound(speech(0.73)), "ok"),
    (17, "001", sound(speech(0.74)), "ok"),
    (17, "x" * 247 + ".wav", sound(speech(0.75)), "ok"),
    (17, "y" * 300 + ".wav", lambda path: None, "name"),
    (17, "link.wav", secret, "outside_root"),
    (18, "one/same.wav", sound(speech(0.8)), "ok"),
    (18, "two/same.wav", sound(speech(0.81)), "ok"),
)
MUTANTS = 60
"""Number of WAVs with random changes in their first 80 bytes (row 4), with any outcome."""


def mutants(root):
    """Write WAVs with randomly damaged headers and return their names."""
    sound(speech(0.3))(root / "whole.wav")
    whole = (root / "whole.wav").read_bytes()
    for number in range(MUTANTS):
        content = bytearray(whole)
        for place in rng.integers(0, 80, rng.integers(1, 6)):
            content[place] = rng.integers(0, 256)
        (root / f"mutant{number:02}.wav").write_bytes(content)
    return [f"mutant{number:02}.wav" for number in range(MUTANTS)]


@pytest.fixture(scope="module")
def tortured(tmp_path_factory, faulty_decoder):
    """Feature table, errors and exit code of all cases and mutants."""
    folder = tmp_path_factory.mktemp("torture")
    root = folder / "clips"
    for _, name, make, _ in CASES:
        if len(name.encode()) < 255:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            make(root / name)
    names = [name for _, name, _, _ in CASES] + mutants(root)
    pd.DataFrame({"file": names}).to_csv(root / "table.csv", index=False)
    output = folder / "f.parquet"
    options = ["--feature-set", "captions", "--workers", "2", "--timeout", "3", "--chunk", "16"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", faulty_decoder)
        worker_pool.stop_workers()
        code = features.main([str(root / "table.csv"), "-o", str(output), *options])
    errors = pd.read_csv(merge.beside(output, "errors.csv"), dtype=str, keep_default_na=False)
    return pd.read_parquet(output), errors.set_index("file"), code


def outcomes(tortured):
    """Return file -> error, or ``ok`` with flags."""
    found, errors, _ = tortured
    quality = found[merge.QUALITY].droplevel(["start", "end"])
    return errors["error"].to_dict() | {
        file: f"ok {flags}".strip() for file, flags in quality.items()
    }


def test_every_row_has_one_outcome_and_counts_add_up(tortured):
    found, errors, code = tortured
    assert len(found) + len(errors) == len(CASES) + MUTANTS == len(outcomes(tortured))
    assert not set(found.index.get_level_values("file")) & set(errors.index)
    assert code == 1, "more than 1 % were rejected"


@pytest.mark.parametrize("row, name, expected", [(r, n, e) for r, n, _, e in CASES])
def test_case_has_the_expected_outcome(tortured, row, name, expected):
    found = outcomes(tortured)[name]
    assert found.startswith(expected) if expected.endswith(".") else found == expected


def test_measured_rows_have_values_and_errors_a_reason(tortured):
    found, errors, _ = tortured
    assert found["loudness_sma3_amean"].gt(0).all() and found["Duration"].ge(0.06).all()
    assert errors["message"].str.len().gt(0).all()
    assert set(errors["stage"]) == {"read", "features", "process"}
    voiced = found["F0semitoneFrom27.5Hz_sma3nz_amean"]
    unvoiced = found[merge.QUALITY].str.contains("unvoiced")
    assert voiced[unvoiced].isna().all() and voiced[~unvoiced].gt(0).all() and unvoiced.any()


def test_formats_and_rates_of_one_signal_have_similar_values(tortured):
    found = tortured[0].droplevel(["start", "end"])
    good = found.loc["good.wav"]
    pitch, loudness = "F0semitoneFrom27.5Hz_sma3nz_amean", "loudness_sma3_amean"
    for row, name, _, expected in CASES:
        if row in (11, 13) and expected.startswith("ok"):
            assert found.loc[name, pitch] == pytest.approx(good[pitch], abs=0.1), name
        if row == 13 and expected == "ok" and name != "flac_as.wav":
            assert found.loc[name, loudness] == pytest.approx(good[loudness], rel=0.1), name
    assert found.loc["clipped.wav"].drop("quality").equals(found.loc["above_1.wav"].drop("quality"))


def test_equal_samples_are_listed(tortured, tmp_path):
    samples = np.round(speech() * 32768).astype(np.int16)
    sound(samples)(tmp_path / "a.wav")
    sound(samples, format="FLAC")(tmp_path / "b.flac")
    sound(NOISE)(tmp_path / "c.wav")
    (tmp_path / "table.csv").write_text("file,split\na.wav,train\nb.flac,test\nc.wav,train\n")
    output = tmp_path / "f.parquet"
    arguments = [tmp_path / "table.csv", "-o", output, "--workers", 1, "--feature-set", "captions"]
    assert features.main([str(argument) for argument in arguments]) == 0
    twins = pd.read_csv(merge.beside(output, "duplicates.csv"))
    assert twins["file"].tolist() == ["a.wav", "b.flac"]
    assert twins["split"].tolist() == ["train", "test"]


@pytest.mark.parametrize(
    "rows, problem",
    [
        ("a.wav,-0.1,0.5", "negative or empty"),
        ("a.wav,0.6,0.4", "negative or empty"),
        ("a.wav,0.5,0.5", "negative or empty"),
        ("a.wav,0.1,0.5\na.wav,0.1,0.5", "occurs twice"),
        (",0.1,0.5", "without a file"),
        ("../a.wav,0.1,0.5", "leaves"),
    ],
)
def test_impossible_segments_are_rejected_before_measuring(tmp_path, rows, problem):
    sound(speech())(tmp_path / "a.wav")
    (tmp_path / "table.csv").write_text(f"file,start,end\n{rows}\n")
    with pytest.raises(CorpusError, match=problem):
        features.main([str(tmp_path / "table.csv"), "-o", str(tmp_path / "f.parquet")])
    assert not (tmp_path / "f.parts").exists()


def test_segments_beyond_the_end_are_rejected_individually(tmp_path):
    sound(speech())(tmp_path / "a.wav")
    (tmp_path / "table.csv").write_text(
        "file,start,end\na.wav,0.5,\na.wav,0.5,1.04\na.wav,0.5,1.2\na.wav,1.5,\n"
    )
    output = tmp_path / "f.parquet"
    arguments = [str(tmp_path / "table.csv"), "-o", str(output), "--workers", "1"]
    assert features.main([*arguments, "--max-reject", "0.5"]) == 0
    assert pd.read_parquet(output)["Duration"].tolist() == [0.5, 0.5]
    errors = pd.read_csv(merge.beside(output, "errors.csv"))
    assert errors["error"].tolist() == ["segment", "segment"]


def test_report_of_all_outcomes(tortured, happened):
    """Report the outcomes."""
    found = outcomes(tortured)
    others = pd.Series([found[f"mutant{number:02}.wav"] for number in range(MUTANTS)])
    counts = "; ".join(f"{n} {outcome}" for outcome, n in others.value_counts().items())
    for row, name, _, _ in CASES:
        shown = name.encode("unicode_escape").decode()
        happened(found[name], row, f"`{shown[:60]}`")
    happened(counts, 4, f"{MUTANTS} WAV with 1-5 of the first 80 bytes replaced")
    assert all(outcome.isascii() and outcome for outcome in found.values())
    assert others.isin(["ok"]).any() and others.isin(list(audio_errors())).any()


def audio_errors():
    """Return the error codes of damaged headers."""
    systems = {reason for reason, _ in SYSTEM_REASONS.values()}
    return {"not_audio", "sample_rate", "channels", "truncated", "empty", *systems}
