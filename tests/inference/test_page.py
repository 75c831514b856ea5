"""page.py: what a recording is answered, how it reads, and what is refused."""

import base64
import dataclasses
import io
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import soundfile

from paraclap.audio import reading
from paraclap.cli import template_creation
from paraclap.corpora.table import read_clips
from paraclap.inference import describe, page
from paraclap.inference.api import ParaCLAP
from paraclap.inference.index import ClipIndex, update_index
from paraclap.inference.page import Limits, Listener, RefusalError

PROMPTS = "angry\ncalm\n\n  sad  \n"
NAMES = ["angry", "calm", "sad"]
TEMPLATE = "the speaker sounds {}"


@pytest.fixture
def paraclap(tiny):
    return ParaCLAP(*tiny)


@pytest.fixture
def listener(paraclap):
    return Listener(paraclap)


@pytest.fixture
def clip(tmp_path, voice):
    soundfile.write(tmp_path / "clip.wav", voice(1.5), 16_000)
    return tmp_path / "clip.wav"


# --- Scores --------------------------------------------------------------------------------------


def test_short_recording_is_answered_as_elsewhere(listener, paraclap, clip):
    answer = listener.answer(clip, PROMPTS, TEMPLATE)
    expected = paraclap.score(clip, NAMES, TEMPLATE).iloc[0]
    assert answer.names == tuple(NAMES) and answer.timeline is None
    for column in expected.index.drop("best"):
        assert answer.scores[column] == pytest.approx(expected[column], abs=1e-5)


def test_long_recording_is_answered_by_windows_and_their_mean(paraclap, tmp_path, voice):
    limits = Limits(whole=2, window=1, hop=0.5)
    signal = np.concatenate([voice(1.1), 0.3 * voice(1.2, f0=220)]).astype(np.float32)
    soundfile.write(tmp_path / "long.wav", signal, 16_000, subtype="FLOAT")
    answer = Listener(paraclap, limits=limits).answer(tmp_path / "long.wav", PROMPTS)
    expected = paraclap.score_windows(tmp_path / "long.wav", NAMES, window=1, hop=0.5)
    pd.testing.assert_frame_equal(answer.timeline, expected, atol=1e-5, check_dtype=False)
    windows = [
        paraclap.embed_audio(signal[round(a * 16_000) : round(b * 16_000)], 16_000)
        for a, b in zip(expected["start"], expected["end"], strict=True)
    ]
    mean = np.mean(windows, axis=0)
    alone = paraclap.ask(NAMES).answer((mean / np.linalg.norm(mean))[None]).iloc[0]
    assert answer.scores["cosine.sad"] == pytest.approx(alone["cosine.sad"], abs=1e-5)


def test_chart_has_a_bar_for_each_query_the_best_first(listener, clip):
    answer = listener.answer(clip, PROMPTS, TEMPLATE)
    text = page.scores_html(answer)
    bars = re.findall(r"scope='row'>(.*?)</th>.*?width:([\d.]+)%.*?cosine (-?[\d.]+)", text)
    assert sorted(name for name, _, _ in bars) == sorted(NAMES)
    widths = [float(width) for _, width, _ in bars]
    assert widths == sorted(widths, reverse=True) and sum(widths) == pytest.approx(100, abs=0.2)
    for name, _, cosine in bars:
        assert float(cosine) == pytest.approx(answer.scores[f"cosine.{name}"], abs=0.006)
    assert "single prompt" not in text
    assert "single prompt always gets 100 %" in page.scores_html(listener.answer(clip, "angry"))


def test_words_of_people_are_not_markup(listener, tmp_path, voice):
    path = tmp_path / "<img src=x>.wav"
    soundfile.write(path, voice(0.5), 16_000)
    answer = listener.answer(path, "<script>x</script>\ncalm & quiet")
    text = page.scores_html(answer)
    assert "<script>" not in text and "<img" not in text and "calm &amp; quiet" in text
    assert "<b>" not in page.refusal_html("<b>")


def test_timeline_draws_the_share_of_each_window(paraclap, tmp_path, voice):
    soundfile.write(tmp_path / "a.wav", voice(4.0), 16_000)
    listener = Listener(paraclap, limits=Limits(whole=2, window=1, hop=1))
    answer = listener.answer(tmp_path / "a.wav", "angry\ncalm")
    text = page.timeline_html(answer)
    curves = re.findall(r"polyline class='pc-line' points='([^']*)'", text)
    assert len(curves) == 2 and text.count("<title>") == 8
    points = [tuple(map(float, p.split(","))) for p in curves[0].split()]
    best = page.ranked(answer)[0]
    shares = answer.timeline[f"probability.{best}"]
    assert [x for x, _ in points] == [0, 12.5, 37.5, 62.5, 87.5, 100]  # middles of the windows
    np.testing.assert_allclose([100 - y for _, y in points[1:-1]], 100 * shares, atol=0.06)
    with pytest.raises(ValueError, match="as a whole"):
        page.timeline_html(dataclasses.replace(answer, timeline=None))


def test_times_read_as_clocks():
    assert [page.clock(s) for s in (0, 9.6, 59.5, 125)] == ["0:00", "0:10", "1:00", "2:05"]


# --- Acoustics -----------------------------------------------------------------------------------


def test_value_level_and_place_are_those_of_the_training_clips(paraclap, captions, corpus):
    edges, features = (captions.with_name(n) for n in ("captions.edges.json", "features.parquet"))
    row = pd.read_parquet(features).reset_index().iloc[5]
    answer = Listener(paraclap, edges, features).answer(corpus / row["file"], PROMPTS)
    stored = pd.read_parquet(features)
    training = stored.loc[stored["split"] == "train", "equivalentSoundLevel_dBp"]
    value = row["equivalentSoundLevel_dBp"]
    share = ((training < value).mean() + (training <= value).mean()) / 2
    text = page.acoustics_html(answer)
    line = re.search(r"<tr><th scope='row'>Loudness</th>.*?</tr>", text)[0]
    assert f"<b>{value:.1f}</b> dBFS" in line
    assert f"above {100 * share:.0f} % of {len(training)} clips" in line
    assert answer.acoustics.loc["intensity", "level"] in line


def test_without_features_the_edges_tell_the_third(paraclap, captions, corpus):
    edges = captions.with_name("captions.edges.json")
    levels = pd.read_parquet(captions)["pitch_level"]
    said = {"low": "the lowest 30 %", "normal": "the middle 40 %", "high": "the highest 30 %"}
    listener = Listener(paraclap, edges)
    for level, words in said.items():
        file = levels.index[levels.eq(level).argmax()][0]
        text = page.acoustics_html(listener.answer(corpus / file, "x"))
        line = re.search(r"<tr><th scope='row'>Pitch</th>.*?</tr>", text)[0]
        assert words in line
        left, width = map(float, re.search(r"pc-normal' x='(.*?)' width='(.*?)'", line).groups())
        here = float(re.search(r"pc-here' x1='(.*?)'", line)[1])
        assert {"low": here <= left, "high": here >= left + width}.get(level, here > left)


def test_share_below_counts_equal_values_half():
    values = np.array([1.0, 2.0, 2.0, 4.0])
    assert [page.share_below(values, v) for v in (0, 2, 3, 4, 9)] == [0, 0.5, 0.75, 0.875, 1]
    many = np.arange(1000.0)
    said = [page.place_among(many, v) for v in (-1, 2, 500.5, 998, 1000)]
    edges = ["below all", "above less than 1 %", "above 50 %", "above more than 99 %", "above all"]
    assert said == edges


def test_everything_that_is_measured_has_a_title():
    assert set(page.DISPLAYS) == set(describe.wordings_of_levels())
    assert page.hertz(12) == 55


def test_noise_has_no_pitch_and_says_so(paraclap, captions, tmp_path):
    noise = 0.1 * np.random.default_rng(0).standard_normal(16_000)
    soundfile.write(tmp_path / "noise.wav", noise, 16_000)
    listener = Listener(paraclap, captions.with_name("captions.edges.json"))
    answer = listener.answer(tmp_path / "noise.wav", PROMPTS)
    assert "<i>undefined</i>" in page.acoustics_html(answer)
    assert "no voiced sound" in page.scores_html(answer)


def test_what_is_odd_about_a_recording_is_said(listener, tmp_path, voice):
    signal = np.clip(20 * voice(1.0), -1, 1)
    soundfile.write(tmp_path / "loud.wav", np.stack([signal, 0 * signal], 1), 16_000)
    text = page.scores_html(listener.answer(tmp_path / "loud.wav", PROMPTS))
    assert "clipped" in text and "a channel is silent" in text


def test_edges_by_group_wait_for_the_group(paraclap, captions, corpus, tmp_path):
    features = captions.with_name("features.parquet")
    made = [str(features), "-o", str(tmp_path / "c.parquet"), "--edges-by", "gender"]
    assert template_creation.main(made) == 0
    listener = Listener(paraclap, tmp_path / "c.edges.json", features)
    assert listener.groups == {"gender": ("woman", "man")}
    file = corpus / pd.read_parquet(captions).index[0][0]
    untold = page.acoustics_html(listener.answer(file, "x", labels={"gender": ""}))
    assert "<b>" in untold and "pc-level" not in untold
    told = page.acoustics_html(listener.answer(file, "x", labels={"gender": "woman"}))
    assert "for a woman" in told and "pc-level" in told


def test_features_without_edges_are_refused(paraclap, captions):
    with pytest.raises(ValueError, match="needs the edges"):
        Listener(paraclap, features=captions.with_name("features.parquet"))


# --- Similar clips -------------------------------------------------------------------------------


@pytest.fixture
def index(paraclap, tmp_path, voice):
    (tmp_path / "clips").mkdir()
    for number in range(4):
        path = tmp_path / "clips" / f"c{number}.wav"
        soundfile.write(path, voice(0.8 + 0.1 * number, f0=90 + 50 * number), 16_000)
    clips = read_clips([str(tmp_path / "clips")])
    update_index(tmp_path / "index", paraclap, "MODEL", clips)
    return ClipIndex(tmp_path / "index")


def test_nearest_clip_of_a_clip_is_itself_and_plays(paraclap, index, tmp_path):
    path = tmp_path / "clips" / "c2.wav"
    answer = Listener(paraclap, index=index).answer(path, PROMPTS)
    text = page.neighbours_html(answer.neighbours, len(index))
    assert text.count("<audio") == 4 and "nearest of 4" in text
    assert str(tmp_path) not in text  # no folder of this machine
    name, content = re.search(r"pc-name'>(.*?)<.*?base64,(.*?)'", text).groups()
    played, rate = soundfile.read(io.BytesIO(base64.b64decode(content)))
    assert (name, rate) == ("c2.wav", 16_000)
    np.testing.assert_allclose(played, reading.read_audio(path), atol=1e-4)


def test_clip_that_is_gone_costs_its_player_alone(paraclap, index, tmp_path):
    answer = Listener(paraclap, index=index).answer(tmp_path / "clips" / "c2.wav", PROMPTS)
    (tmp_path / "clips" / "c1.wav").unlink()
    text = page.neighbours_html(answer.neighbours, len(index))
    assert text.count("<audio") == 3 and "cannot be played: missing" in text
    assert str(tmp_path) not in text


# --- Refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompts", "template", "told"),
    [
        (" \n\n", "{}", "no prompt yet"),
        ("\n".join(map(str, range(21))), "{}", "21 prompts, expected at most 20"),
        ("x" * 201, "{}", "201 letters, expected at most 200"),
        ("x", "{}" + "y" * 199, "201 letters, expected at most 200"),
        ("angry\nangry", "{}", "given twice"),
        ("angry", "the speaker", "must hold {} once"),
    ],
)
def test_queries_that_do_not_do_are_refused(listener, clip, prompts, template, told):
    with pytest.raises(RefusalError, match=told):
        listener.answer(clip, prompts, template)


def test_empty_sentence_means_none(listener, clip):
    asked = [listener.answer(clip, "angry", sentence).scores for sentence in ("", " ", "{}")]
    assert asked[0].equals(asked[2]) and asked[1].equals(asked[2])


def damaged(path, kind):
    content = path.read_bytes()
    text = b"<!doctype html><p>Not found</p>"
    path.write_bytes({"cut": content[: len(content) // 2], "html": text, "empty": b""}[kind])


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("cut", r"^clip.wav: header announces 48000 bytes .* to the end\?$"),
        ("html", r"^clip.wav is an HTML page, probably saved from a failed download\.$"),
        ("empty", r"^clip.wav has 0 bytes\. Record or choose it again\.$"),
    ],
)
def test_bad_audio_is_told_in_the_words_of_its_error_without_folders(listener, clip, kind, told):
    damaged(clip, kind)
    with pytest.raises(RefusalError, match=told):
        listener.answer(clip, PROMPTS)


@pytest.mark.parametrize(
    ("samples", "told"),
    [
        (np.zeros(16_000), "clip.wav: all 16000 samples are 0. Is the microphone on"),
        (np.ones(500) / 9, "clip.wav: 0.0312 s, expected at least 0.06 s"),
    ],
)
def test_what_cannot_be_measured_is_refused(listener, clip, samples, told):
    soundfile.write(clip, samples, 16_000)
    with pytest.raises(RefusalError, match=told):
        listener.answer(clip, PROMPTS)


def test_too_long_recording_is_refused_before_it_is_decoded(paraclap, clip, monkeypatch):
    monkeypatch.setattr(reading, "_mono_blocks", lambda *arguments: pytest.fail("decoded"))
    with pytest.raises(RefusalError, match=r"clip.wav: 1.5 s to read, expected at most 1 s\. Cho"):
        Listener(paraclap, limits=Limits(seconds=1)).answer(clip, PROMPTS)


def test_recording_that_is_absent_or_gone_is_told(listener, tmp_path):
    with pytest.raises(RefusalError, match="no recording yet"):
        listener.answer(None, PROMPTS)
    with pytest.raises(RefusalError, match="^The recording is not here any more"):
        listener.answer(tmp_path / "gone.wav", PROMPTS)


# --- Together ------------------------------------------------------------------------------------


def test_answers_do_not_depend_on_who_asks_at_the_same_time(listener, tmp_path, voice):
    paths = [tmp_path / f"{number}.wav" for number in range(6)]
    for number, path in enumerate(paths):
        soundfile.write(path, voice(0.5 + 0.4 * number, f0=90 + 30 * number), 16_000)
    alone = [listener.answer(path, f"angry\n{path.stem}") for path in paths]
    with ThreadPoolExecutor(6) as pool:
        together = [
            pool.submit(listener.answer, path, f"angry\n{path.stem}")
            for _ in range(3)
            for path in paths
        ]
    for number, future in enumerate(together):
        one, other = alone[number % 6], future.result()
        assert other.names == one.names and other.name == one.name
        assert other.acoustics["value"].equals(one.acoustics["value"])
        np.testing.assert_allclose(*(list(a.scores[3:]) for a in (one, other)), atol=1e-5)
