"""The synthetic corpus is reproducible, loads as audformat and has the prosody of its tables."""

import dataclasses
import hashlib
import shutil
from pathlib import Path

import audformat
import numpy as np
import opensmile
import pandas as pd
import pytest
import scipy.signal
import soundfile

from paraclap.audio import SAMPLING_RATE
from paraclap.cli import synthetic_corpus
from paraclap.corpora import CorpusError, synthetic, synthetic_speakers, synthetic_voice

F0 = "F0semitoneFrom27.5Hz_sma3nz_amean"
LOUDNESS = "loudness_sma3_amean"
JITTER = "jitterLocal_sma3nz_amean"
SHIMMER = "shimmerLocaldB_sma3nz_amean"
RATE = "VoicedSegmentsPerSec"

TOY = {"speakers": 6, "clips_per_emotion": 1, "seed": 3}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synthetic") / "corpus"
    assert synthetic.write_corpus(root, **TOY)
    return root


@pytest.fixture(scope="module")
def smile() -> opensmile.Smile:
    return opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)


@pytest.fixture(scope="module")
def rows(corpus: Path) -> pd.DataFrame:
    database = audformat.Database.load(corpus)
    mapping = {"speaker": ["speaker", "gender", "age"]}
    tables = [database[f"emotion.{split}"].get(map=mapping) for split in database.splits]
    return pd.concat(tables, keys=database.splits, names=["split"]).reset_index()


@pytest.fixture(scope="module")
def features(smile: opensmile.Smile) -> pd.DataFrame:
    """Mean features of three clips each of a woman and a man in three emotions."""
    means = {}
    for speaker in synthetic_speakers.make_speakers(6, seed=0)[:2]:
        for emotion in ("anger", "neutral", "sadness"):
            streams = map(np.random.default_rng, range(3))
            clips = [synthesize(speaker, emotion, rng) for rng in streams]
            means[speaker.gender, emotion] = _measure(smile, clips)
    return pd.DataFrame(means).T


def synthesize(speaker, emotion: str, rng: np.random.Generator) -> np.ndarray:
    prosody = synthetic_speakers.draw_prosody(speaker, emotion, rng)
    return synthetic_voice.render(speaker, prosody, rng)


def _measure(smile: opensmile.Smile, waveforms: list[np.ndarray]) -> pd.Series:
    rate = SAMPLING_RATE
    return pd.concat([smile.process_signal(waveform, rate) for waveform in waveforms]).mean()


def _digests(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_forced_rewrite_by_two_workers_gives_the_same_bytes(corpus, tmp_path):
    root = tmp_path / "corpus"
    shutil.copytree(corpus, root)
    next((root / "audio").rglob("*.wav")).unlink()
    with pytest.raises(CorpusError):
        synthetic.write_corpus(root, **TOY)
    assert synthetic.write_corpus(root, **TOY, force=True, workers=2)
    assert _digests(root) == _digests(corpus)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_another_seed_gives_other_speakers_and_clips():
    seven, eight = (synthetic_speakers.make_speakers(6, seed) for seed in (7, 8))
    assert seven == synthetic_speakers.make_speakers(16, 7)[:6]
    assert not {voice.f0 for voice in seven} & {voice.f0 for voice in eight}
    streams = [synthetic_speakers.random_stream(seed, 0, 0, 0) for seed in (7, 8)]
    first, second = (synthesize(seven[0], "fear", rng) for rng in streams)
    assert not np.array_equal(first[:16000], second[:16000])


def test_audio_is_16_bit_mono_of_1_to_4_s_and_not_clipped(corpus, rows):
    for file in rows["file"]:
        info = soundfile.info(corpus / file)
        assert (info.format, info.subtype, info.channels) == ("WAV", "PCM_16", 1)
        assert info.samplerate == 16000
        assert 1.0 <= info.duration <= 4.0
        waveform, _ = soundfile.read(corpus / file)
        assert np.abs(waveform).max() < 0.98
        assert np.sqrt(np.mean(waveform**2)) > 0.001


def _assert_fit(waveform):
    assert waveform.dtype == np.float32 and waveform.ndim == 1
    assert np.isfinite(waveform).all()
    assert np.abs(waveform).max() <= synthetic_voice.PEAK + 1e-6
    assert 16000 <= len(waveform) <= 64000


@pytest.mark.parametrize("emotion", synthetic_speakers.PROSODY)
def test_waveform_is_finite_float32_in_range(emotion):
    for speaker in synthetic_speakers.make_speakers(6, seed=1)[:2]:
        _assert_fit(synthesize(speaker, emotion, np.random.default_rng(5)))


@pytest.mark.parametrize("prosody", [synthetic_speakers.LOWEST, synthetic_speakers.HIGHEST])
def test_extreme_prosody_stays_in_range(prosody):
    speaker = synthetic_speakers.make_speakers(6)[1]
    _assert_fit(synthetic_voice.render(speaker, prosody, np.random.default_rng(0)))


def test_tables_are_complete(corpus, rows):
    database = audformat.Database.load(corpus)
    assert sorted(database.tables) == ["emotion.dev", "emotion.test", "emotion.train"]
    assert all(database[table].split_id == table.split(".")[1] for table in database.tables)
    assert database.license == "CC0-1.0"
    assert set(rows["emotion"]) == set(synthetic_speakers.PROSODY)
    assert set(rows["file"]) == {
        path.relative_to(corpus).as_posix() for path in (corpus / "audio").rglob("*.wav")
    }
    assert len(set(_digests(corpus / "audio").values())) == len(rows) == 36, "all clips differ"
    assert not rows.isna().any().any()
    assert (rows.groupby("speaker", observed=True)["split"].nunique() == 1).all()
    assert rows[["arousal", "valence"]].stack().between(0, 1).all()
    assert rows["age"].astype(int).between(20, 65).all()


def test_arousal_and_valence_follow_the_emotion(rows):
    means = rows.groupby(rows["emotion"].astype(str))[["arousal", "valence"]].mean()
    assert means["arousal"].drop(["boredom", "sadness"]).min() > means.loc["sadness", "arousal"]
    assert means["valence"].idxmax() == "happiness"


@pytest.mark.parametrize(
    "count, sizes",
    [(6, (2, 2, 2)), (7, (3, 2, 2)), (8, (4, 2, 2)), (12, (6, 2, 4)), (16, (10, 2, 4))],
)
def test_splits_share_no_speaker_and_have_both_genders(count, sizes):
    speakers = synthetic_speakers.make_speakers(count)
    splits = synthetic_speakers.split_speakers(speakers)
    assert tuple(len(splits[name]) for name in ("train", "dev", "test")) == sizes
    names = [speaker.name for members in splits.values() for speaker in members]
    assert sorted(names) == [speaker.name for speaker in speakers]
    for members in splits.values():
        assert {speaker.gender for speaker in members} == {"female", "male"}


@pytest.mark.parametrize("gender", ["female", "male"])
@pytest.mark.parametrize(
    "feature, high, low, difference",
    [
        (F0, "anger", "sadness", 3.0),
        (F0, "anger", "neutral", 2.0),
        (LOUDNESS, "anger", "sadness", 0.1),
        (LOUDNESS, "anger", "neutral", 0.05),
        (LOUDNESS, "neutral", "sadness", 0.02),
        (RATE, "anger", "sadness", 0.3),
        (JITTER, "anger", "neutral", 0.001),
    ],
)
def test_measured_prosody_follows_the_table(features, gender, feature, high, low, difference):
    measured = features.loc[gender, feature]
    assert measured[high] - measured[low] > difference
    assert (features.loc["female", F0] - features.loc["male", F0]).min() > 5


@pytest.mark.parametrize(
    "parameter, low, high, feature",
    [
        ("jitter", 0.002, 0.03, JITTER),
        ("shimmer", 0.1, 1.5, SHIMMER),
        ("level", -36.0, -24.0, LOUDNESS),
        ("f0_shift", -3.0, 3.0, F0),
        ("hnr", 5.0, 28.0, "HNRdBACF_sma3nz_amean"),
        ("f0_range", 0.5, 3.5, "F0semitoneFrom27.5Hz_sma3nz_stddevNorm"),
    ],
)
def test_parameters_change_the_measured_functionals(smile, parameter, low, high, feature):
    speaker = synthetic_speakers.make_speakers(6)[1]
    measured = []
    for value in (low, high):
        prosody = dataclasses.replace(synthetic_speakers.PROSODY["neutral"], **{parameter: value})
        streams = map(np.random.default_rng, range(2))
        clips = [synthetic_voice.render(speaker, prosody, rng) for rng in streams]
        measured.append(_measure(smile, clips)[feature])
    assert measured[1] > 1.1 * measured[0]


def test_glottal_cycles_have_the_requested_jitter_and_f0():
    f0 = np.full(20 * SAMPLING_RATE, 150.0)
    for jitter in (0.0, 0.01, 0.03):
        _, periods = synthetic_voice._glottal_cycles(f0, jitter, np.random.default_rng(0))
        measured = np.abs(np.diff(periods)).mean() / periods.mean()
        assert measured == pytest.approx(jitter, rel=0.05, abs=1e-9)
        assert SAMPLING_RATE / periods.mean() == pytest.approx(150.0, rel=0.005)


def test_vocal_tract_with_constant_formants_equals_a_recursive_filter():
    formants = np.array([500.0, 1500.0, 2500.0, 3500.0])
    source = np.random.default_rng(0).standard_normal(4001)
    blocks = -(-len(source) // synthetic_voice.BLOCK) + 1
    expected = source
    for frequency, bandwidth in zip(formants, synthetic_voice.BANDWIDTHS, strict=False):
        pole = np.exp((-np.pi * bandwidth + 2j * np.pi * frequency) / 16000)
        coefficients = np.poly([pole, pole.conj()]).real
        expected = scipy.signal.lfilter([coefficients.sum()], coefficients, expected)
    output = synthetic_voice.vocal_tract(source, np.tile(formants, (blocks, 1)))
    np.testing.assert_allclose(output, expected, atol=1e-3)


def test_spectral_tilt_attenuates_3_khz_and_keeps_0_hz():
    impulse = np.eye(1, 16000)[0]
    spectrum = np.abs(np.fft.rfft(synthetic_voice.spectral_tilt(impulse, 12.0)))
    assert spectrum[0] == pytest.approx(1.0)
    assert 20 * np.log10(spectrum[3000]) == pytest.approx(-12.0, abs=0.01)


@pytest.mark.parametrize("content", ["name: another database", "damaged: ["])
def test_existing_folder_is_not_replaced_without_force(tmp_path, content):
    (tmp_path / "data").mkdir()
    note = tmp_path / "data" / "db.yaml"
    note.write_text(content)
    arguments = ["-o", str(note.parent), "--speakers", "6", "--clips-per-emotion", "1"]
    with pytest.raises(CorpusError, match="--force"):
        synthetic_corpus.main(arguments)
    assert note.read_text() == content


def test_existing_corpus_is_reused_for_the_same_arguments(corpus, tmp_path):
    before = _digests(corpus)
    assert not synthetic.write_corpus(corpus, **TOY)
    with pytest.raises(CorpusError, match="--force"):
        synthetic.write_corpus(corpus, **{**TOY, "seed": 9})
    assert _digests(corpus) == before


def test_force_does_not_replace_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "note.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CorpusError, match="working folder"):
        synthetic.write_corpus(".", **TOY, force=True)
    assert (tmp_path / "note.txt").exists()


def test_failure_leaves_no_files(tmp_path, monkeypatch):
    monkeypatch.setattr(soundfile, "write", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        synthetic.write_corpus(tmp_path / "corpus", **TOY)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"speakers": 5}, "at least 6"),
        ({"clips_per_emotion": 0}, "clips_per_emotion is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"workers": 0}, "workers is 0"),
    ],
)
def test_wrong_numbers_are_an_error(tmp_path, wrong, message):
    with pytest.raises(CorpusError, match=message):
        synthetic.write_corpus(tmp_path / "corpus", **{**TOY, **wrong})
    assert list(tmp_path.iterdir()) == []
