"""page.py: results equal those of ParaCLAP and of the captions, and invalid input is refused."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import soundfile

from paraclap.audio import reading
from paraclap.cli import template_creation
from paraclap.corpora.table import read_clips
from paraclap.errors import ParaCLAPError
from paraclap.inference import measurement, page, tables
from paraclap.inference.api import ParaCLAP
from paraclap.inference.index import ClipIndex
from paraclap.inference.index_update import update_index
from paraclap.inference.page import Analyzer, RequestError, split_prompts

PROMPTS = "angry\ncalm\n\n  sad  \n"
NAMES = ["angry", "calm", "sad"]
TEMPLATE = "the speaker sounds {}"


@pytest.fixture
def paraclap(tiny):
    return ParaCLAP(*tiny)


@pytest.fixture
def analyzer(paraclap):
    return Analyzer(paraclap)


@pytest.fixture
def clip(tmp_path, voice):
    soundfile.write(tmp_path / "clip.wav", voice(1.5), 16_000)
    return tmp_path / "clip.wav"


# --- Scores --------------------------------------------------------------------------------------


def test_scores_of_a_short_recording_equal_paraclap_score(analyzer, paraclap, clip):
    analysis = analyzer.analyze(clip, PROMPTS, TEMPLATE)
    expected = paraclap.score(clip, NAMES, TEMPLATE).iloc[0].drop("quality")
    assert analysis.names == tuple(NAMES) and analysis.timeline is None
    for column in expected.index.drop(["prediction", "confidence"]):
        assert analysis.scores[column] == pytest.approx(expected[column], abs=1e-5)
    assert list(analysis.probabilities()) == NAMES
    assert sum(analysis.probabilities().values()) == pytest.approx(1)


def test_long_recordings_have_a_timeline_and_the_mean_of_its_scores(
    analyzer, paraclap, tmp_path, voice, monkeypatch
):
    for name, seconds in (("WHOLE", 2), ("WINDOW", 1), ("HOP", 0.5)):
        monkeypatch.setattr(page, f"{name}_SECONDS", seconds)
    signal = np.concatenate([voice(1.1), 0.3 * voice(1.2, f0=220)]).astype(np.float32)
    soundfile.write(tmp_path / "long.wav", signal, 16_000, subtype="FLOAT")
    analysis = analyzer.analyze(tmp_path / "long.wav", PROMPTS)
    expected = paraclap.score_windows(tmp_path / "long.wav", NAMES, window=1, hop=0.5)
    pd.testing.assert_frame_equal(analysis.timeline, expected, atol=1e-5, check_dtype=False)
    for column in ("none_of_these", "probability.sad", "cosine.sad"):
        assert analysis.scores[column] == pytest.approx(expected[column].mean(), abs=1e-5)
    assert sum(analysis.probabilities().values()) == pytest.approx(1)
    curves = tables.timeline_table(analysis).pivot(index="time", columns="prompt")["probability"]
    assert list(curves.index) == pytest.approx([0.5, 1.0, 1.5, 1.8])  # centres of the windows
    np.testing.assert_allclose(curves["sad"], expected["probability.sad"], atol=1e-5)


@pytest.mark.parametrize(
    ("text", "prompts"),
    [
        ("angry, calm ,sad", NAMES),
        (" angry,\n\ncalm\n sad,", NAMES),
        ('"a calm, deep voice", the "angry" one', ["a calm, deep voice", 'the "angry" one']),
        ('"a calm, deep voice\nsad', ["a calm, deep voice", "sad"]),
        (" , \n", []),
    ],
)
def test_prompts_are_separated_by_commas_and_lines(text, prompts):
    assert split_prompts(text) == prompts


def test_table_of_scores_has_the_columns_of_predict(analyzer, paraclap, clip):
    table = tables.score_table(analyzer.analyze(clip, PROMPTS, TEMPLATE), "clip.wav")
    expected = paraclap.score(clip, NAMES, TEMPLATE)
    assert set(table) == {*expected, "file", "start", "end"}
    assert table["prediction"].tolist() == expected["prediction"].tolist()
    assert table[["start", "end"]].values.tolist() == [[0, 1.5]]


# --- Acoustics -----------------------------------------------------------------------------------


def row_of(analysis, descriptor):
    return tables.acoustics_table(analysis).set_index("descriptor").loc[descriptor]


def test_value_level_and_percentile_agree_with_the_training_clips(paraclap, captions, corpus):
    edges, features = (captions.with_name(n) for n in ("captions.edges.json", "features.parquet"))
    stored = pd.read_parquet(features)
    row = stored.reset_index().iloc[5]
    analysis = Analyzer(paraclap, edges, features).analyze(corpus / row["file"], PROMPTS)
    training = stored.loc[stored["split"] == "train", "equivalentSoundLevel_dBp"]
    value = row["equivalentSoundLevel_dBp"]
    share = ((training < value).mean() + (training <= value).mean()) / 2
    shown = row_of(analysis, "Sound level")
    level = pd.read_parquet(captions)["intensity_level"].iloc[5]
    assert shown["value"] == f"{value:.1f} dBFS" and shown["level"] == level
    assert shown["percentile"] == f"{100 * share:.0f}"


def test_edges_alone_give_levels_and_no_edges_give_values(paraclap, captions, corpus):
    file = corpus / pd.read_parquet(captions).index[0][0]
    edges = captions.with_name("captions.edges.json")
    with_edges = tables.acoustics_table(Analyzer(paraclap, edges).analyze(file, "x"))
    assert list(with_edges) == ["descriptor", "value", "level", "normal range"]
    assert list(tables.acoustics_table(Analyzer(paraclap).analyze(file, "x"))) == [
        "descriptor",
        "value",
    ]


def test_every_measurable_descriptor_has_a_display():
    assert set(tables.DISPLAYS) == set(measurement.level_phrases())
    assert tables.hertz(12) == 55


@pytest.mark.parametrize(
    ("value", "shown", "bound"),
    [(199.4, "199.4 Hz", "199.2 Hz"), (210.0, "210 Hz", "199 Hz"), (199.2, "199 Hz", "199 Hz")],
)
def test_rounding_does_not_contradict_the_level(value, shown, bound):
    semitones, limit = (12 * np.log2(number / 27.5) for number in (value, 199.2))
    display = tables.DISPLAYS["pitch"]
    digits = display.digits_apart(semitones, limit)
    assert display.text(semitones, digits=digits) == shown
    assert display.text(limit, digits=digits) == bound


def test_pitch_of_noise_is_undefined_and_noted(paraclap, captions, tmp_path):
    noise = 0.1 * np.random.default_rng(0).standard_normal(16_000)
    soundfile.write(tmp_path / "noise.wav", noise, 16_000)
    analyzer = Analyzer(paraclap, captions.with_name("captions.edges.json"))
    analysis = analyzer.analyze(tmp_path / "noise.wav", PROMPTS)
    assert row_of(analysis, "Pitch")["value"] == "undefined"
    assert analysis.checks == (page.FLAGS["unvoiced"],)


def test_clipping_and_silent_channels_are_noted(analyzer, tmp_path, voice):
    signal = np.clip(20 * voice(1.0), -1, 1)
    soundfile.write(tmp_path / "loud.wav", np.stack([signal, 0 * signal], 1), 16_000)
    checks = analyzer.analyze(tmp_path / "loud.wav", PROMPTS).checks
    assert {page.FLAGS["clipped"], page.FLAGS["silent_channels"]} <= set(checks)


def test_edges_by_group_give_levels_once_the_group_is_chosen(paraclap, captions, corpus, tmp_path):
    features = captions.with_name("features.parquet")
    made = [str(features), "-o", str(tmp_path / "c.parquet"), "--edges-by", "gender"]
    assert template_creation.main(made) == 0
    analyzer = Analyzer(paraclap, tmp_path / "c.edges.json", features)
    assert analyzer.groups == {"gender": ("woman", "man")}
    file = corpus / pd.read_parquet(captions).index[0][0]
    for group, has_levels in (("", False), ("woman", True)):
        table = tables.acoustics_table(analyzer.analyze(file, "x", labels={"gender": group}))
        assert ("level" in table) == has_levels == ("percentile" in table)


def test_wrong_reference_data_is_refused_at_the_start(paraclap, captions, tmp_path):
    edges, wrong = captions.with_name("captions.edges.json"), tmp_path / "text"
    wrong.write_text("no table")
    for files, culprit in (
        ((wrong,), wrong),
        ((edges, wrong), wrong),
        ((edges, captions), captions),
    ):
        with pytest.raises(ParaCLAPError, match=str(culprit)):
            Analyzer(paraclap, *files)


# --- Similar clips -------------------------------------------------------------------------------


def test_most_similar_clip_of_a_clip_is_itself_and_can_be_played(paraclap, tmp_path, voice):
    (tmp_path / "clips").mkdir()
    for number in range(4):
        path = tmp_path / "clips" / f"c{number}.wav"
        soundfile.write(path, voice(0.8 + 0.1 * number, f0=90 + 50 * number), 16_000)
    update_index(tmp_path / "index", paraclap, "MODEL", read_clips([str(tmp_path / "clips")]))
    analyzer = Analyzer(paraclap, index=ClipIndex(tmp_path / "index"))
    path = tmp_path / "clips" / "c2.wav"
    neighbours = analyzer.analyze(path, PROMPTS).neighbours
    assert len(neighbours) == 4 and neighbours["file"].iloc[0] == "c2.wav"
    rate, played = tables.excerpt(neighbours.iloc[0])
    assert rate == 16_000
    np.testing.assert_allclose(played / 32767, reading.read_audio(path), atol=1e-4)


def test_damaged_index_is_refused_at_the_start(paraclap, clip, tmp_path):
    update_index(tmp_path / "index", paraclap, "MODEL", read_clips([str(clip)]))
    (path,) = (tmp_path / "index" / "chunks").glob("*.npy")
    np.save(path, -np.load(path))
    with pytest.raises(ParaCLAPError, match="damaged"):
        Analyzer(paraclap, index=ClipIndex(tmp_path / "index"))


# --- Invalid input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompts", "template", "message"),
    [
        (" \n\n", "{}", "at least one prompt"),
        ("\n".join(map(str, range(21))), "{}", "21 prompts, expected at most 20"),
        ("x" * 201, "{}", "201 characters, expected at most 200"),
        ("x" * 200_000, "{}", "131072 characters, expected at most 200"),
        ("\udcff, sad", "{}", "is not valid Unicode"),
        ("x", "{}" + "y" * 199, "201 characters, expected at most 200"),
        ("angry\nangry", "{}", "twice"),
        ("angry", "the speaker", "{}"),
    ],
)
def test_invalid_prompts_are_refused(analyzer, clip, prompts, template, message):
    with pytest.raises(RequestError, match=message):
        analyzer.analyze(clip, prompts, template)


def test_empty_template_means_none(analyzer, clip):
    scores = [analyzer.analyze(clip, "angry", template).scores for template in ("", " ", "{}")]
    assert scores[0].equals(scores[2]) and scores[1].equals(scores[2])


def antiphase(audio):
    """A recording and its inverse as the channels of one file."""
    samples, rate = soundfile.read(io.BytesIO(audio))
    stream = io.BytesIO()
    soundfile.write(stream, np.stack([samples, -samples], 1), rate, format="WAV")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda audio: audio[: len(audio) // 2], r"^clip.wav: header announces 48044 bytes"),
        (lambda audio: b"<!doctype html><p>Not found</p>", r"^clip.wav is an HTML page"),
        (lambda audio: b"", r"^clip.wav has 0 bytes\."),
        (antiphase, r"^clip.wav: its channels cancel each other.*: export one of them\.$"),
    ],
)
def test_unreadable_audio_is_refused_without_naming_folders(analyzer, clip, content, message):
    clip.write_bytes(content(clip.read_bytes()))
    with pytest.raises(RequestError, match=message) as raised:
        analyzer.analyze(clip, PROMPTS)
    assert str(clip.parent) not in str(raised.value)


def test_too_short_recordings_are_refused(analyzer, clip):
    soundfile.write(clip, np.ones(500) / 9, 16_000)
    with pytest.raises(RequestError, match="^clip.wav: "):
        analyzer.analyze(clip, PROMPTS)


def test_too_long_recording_is_refused_before_decoding(paraclap, clip, monkeypatch):
    monkeypatch.setattr(reading, "_mono_blocks", lambda *arguments: pytest.fail("decoded"))
    with pytest.raises(RequestError, match=r"clip.wav: 1.5 s to read, expected at most 1 s\."):
        Analyzer(paraclap, max_seconds=1).analyze(clip, PROMPTS)


def test_missing_recording_is_refused(analyzer, tmp_path):
    with pytest.raises(RequestError, match="Upload or record"):
        analyzer.analyze(None, PROMPTS)
    with pytest.raises(RequestError, match="has been deleted"):
        analyzer.analyze(tmp_path / "gone.wav", PROMPTS)


# --- Concurrency ---------------------------------------------------------------------------------


def test_concurrent_requests_give_the_results_of_single_ones(analyzer, tmp_path, voice):
    paths = [tmp_path / f"{number}.wav" for number in range(6)]
    for number, path in enumerate(paths):
        soundfile.write(path, voice(0.5 + 0.4 * number, f0=90 + 30 * number), 16_000)
    alone = [analyzer.analyze(path, f"angry\n{path.stem}") for path in paths]
    with ThreadPoolExecutor(6) as pool:
        together = [
            pool.submit(analyzer.analyze, path, f"angry\n{path.stem}")
            for _ in range(3)
            for path in paths
        ]
    for number, future in enumerate(together):
        one, other = alone[number % 6], future.result()
        assert other.names == one.names
        assert other.acoustics["value"].equals(one.acoustics["value"])
        np.testing.assert_allclose(*(list(a.scores[3:]) for a in (one, other)), atol=1e-5)
