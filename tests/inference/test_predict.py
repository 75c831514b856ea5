"""predict.py: files, lists, unreadable files, windows, streams, figures, options."""

import io
import json
import re

import audformat
import numpy as np
import pandas as pd
import pytest
import soundfile
from matplotlib.figure import Figure

from paraclap.cli import predict
from paraclap.corpora.table import read_clips, read_corpus
from paraclap.errors import ParaCLAPError
from paraclap.evaluation.zero_shot import classify_clips
from paraclap.inference import measurement, textgrid, timelines
from paraclap.inference.api import ParaCLAP
from paraclap.inference.predict import stream_windows
from paraclap.inference.timelines import write_annotations

PROMPTS = ["--prompts", "angry", "calm"]


def given(program, model, sources):
    """In place of the search for a model."""
    return model, list(sources)


@pytest.fixture
def folder(tmp_path):
    """Three recordings of noise, one in a folder, and a file that is none."""
    rng = np.random.default_rng(5)
    (tmp_path / "audio" / "sub").mkdir(parents=True)
    for name, samples in (("a, b.wav", 16_000), ("sub/c.flac", 40_000), ("d.wav", 24_000)):
        signal = rng.uniform(-0.3, 0.3, samples)
        soundfile.write(tmp_path / "audio" / name, signal, 16_000)
    return tmp_path / "audio"


@pytest.fixture
def score(tiny, monkeypatch):
    """The command line with a tiny model."""
    model = ParaCLAP(*tiny)
    monkeypatch.setattr(ParaCLAP, "from_pretrained", lambda *arguments: model)
    monkeypatch.setattr(predict, "with_default_model", given)
    return lambda *arguments: predict.main(["MODEL", *map(str, arguments)])


def test_csv_holds_a_row_for_each_clip_of_a_folder(score, folder, tmp_path, tiny):
    assert score(folder, *PROMPTS, "-o", tmp_path / "x.csv") == 0
    table = pd.read_csv(tmp_path / "x.csv")
    assert sorted(table["file"]) == [str(folder / n) for n in ("a, b.wav", "d.wav", "sub/c.flac")]
    expected = ParaCLAP(*tiny).score(list(table["file"]), ["angry", "calm"])
    for column in expected.columns.drop("prediction"):
        assert table[column].to_numpy() == pytest.approx(expected[column].to_numpy(), abs=1e-5)
    assert table["prediction"].tolist() == expected["prediction"].tolist()


def test_columns_are_named_as_those_of_evaluate(score, folder, tmp_path, tiny):
    prompts = {name: (name,) for name in ("angry", "calm")}
    corpus = read_corpus(folder)
    evaluated = classify_clips(*tiny, corpus, folder, prompts).reset_index()
    assert score(folder, *PROMPTS, "-o", tmp_path / "x.csv") == 0
    assert score(folder, *PROMPTS, "-o", tmp_path / "x.json") == 0
    table = pd.read_csv(tmp_path / "x.csv")
    for column in evaluated.columns.drop(["file", "start", "end", "prediction"]):
        assert table[column].to_numpy() == pytest.approx(evaluated[column].to_numpy(), abs=1e-5)
    assert table["prediction"].tolist() == evaluated["prediction"].tolist()
    for row, expected in zip(
        json.loads((tmp_path / "x.json").read_text()), table.to_dict("records"), strict=True
    ):
        assert row["prediction"] == expected["prediction"]
        for name in ("confidence", "none_of_these"):
            assert row[name] == pytest.approx(expected[name])


def test_files_patterns_and_tables_of_segments_keep_their_order(score, folder, tmp_path):
    (folder / "t.csv").write_text("file,start,end\nsub/c.flac,0.5,1.5\nd.wav,,\n")
    arguments = (folder / "d.wav", folder / "**" / "*.flac", folder / "t.csv")
    assert score(*arguments, *PROMPTS, "-o", tmp_path / "x.json") == 0
    rows = json.loads((tmp_path / "x.json").read_text())
    assert [row["file"].split("audio/")[1] for row in rows] == [
        "d.wav", "sub/c.flac", "sub/c.flac", "d.wav"
    ]  # fmt: skip
    assert [(row["start"], row["end"]) for row in rows] == [
        (0, None), (0, None), (0.5, 1.5), (0, None)
    ]  # fmt: skip
    assert rows[0]["prompts"] == rows[3]["prompts"] != rows[1]["prompts"]
    assert sum(q["probability"] for q in rows[0]["prompts"].values()) == pytest.approx(1)


def test_list_on_stdin(score, folder, capsys, monkeypatch):
    lines = "".join(f"{folder / name}\n" for name in ("d.wav", "a, b.wav"))
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    assert score("-", *PROMPTS, "--format", "jsonl") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["file"] for row in rows] == lines.splitlines()


def test_unreadable_file_is_reported_and_changes_no_other(score, folder, tmp_path, capsys):
    assert score(folder, *PROMPTS, "-o", tmp_path / "good.csv") == 0
    (folder / "b.wav").write_text("<html>not found</html>")
    assert score(folder, folder / "gone.wav", *PROMPTS, "-o", tmp_path / "x.csv") == 1
    assert "2 unreadable clips" in capsys.readouterr().err
    table = pd.read_csv(tmp_path / "x.csv")
    bad = table[table["error"].notna()]
    assert bad["error"].str.contains("HTML|does not exist").all() and len(bad) == 2
    good = table[table["error"].isna()].reset_index(drop=True).drop(columns="error")
    expected = pd.read_csv(tmp_path / "good.csv").drop(columns="error")
    pd.testing.assert_frame_equal(good, expected)
    score(folder, *PROMPTS, "--format", "json")
    rows = json.loads(capsys.readouterr().out)
    assert [row.keys() for row in rows if "error" in row] == [{"file", "start", "end", "error"}]


def test_missing_files_stop_before_the_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "with_default_model", given)
    with pytest.raises(ParaCLAPError, match="gone.wav does not exist"):
        predict.main(["MODEL", str(tmp_path / "gone.wav"), *PROMPTS])


def test_table_on_screen_has_a_line_for_each_clip(score, folder, capsys):
    assert score(folder / "d.wav", *PROMPTS) == 0
    head, line, legend = capsys.readouterr().out.splitlines()
    assert head.split() == ["start", "end", "prediction", "none", "angry", "calm", "file"]
    assert line.endswith("d.wav  (check: unvoiced)") and "softmax" in legend


def test_windows_are_plotted_over_time(score, folder, tmp_path):
    options = ["--windows", 1, "--hop", 0.5, "--plot", tmp_path / "p", "-o", tmp_path / "x.csv"]
    assert score(folder / "sub", folder / "d.wav", *PROMPTS, *options) == 0
    table = pd.read_csv(tmp_path / "x.csv")
    assert table["end"].tolist() == [1, 1.5, 2, 2.5, 1, 1.5]
    pictures = sorted((tmp_path / "p").iterdir())
    assert [path.name for path in pictures] == ["0000_c.png", "0001_d.png"]
    assert pictures[0].read_bytes().startswith(b"\x89PNG")


def read_text_grid(path):
    """Tiers of a TextGrid: name -> rows (start, end, text), as Praat reads its long format."""
    text = path.read_text(encoding="utf-8")
    assert text.startswith('File type = "ooTextFile"\nObject class = "TextGrid"\n')
    tiers = {}
    for tier in text.split('class = "IntervalTier"')[1:]:
        (name,) = re.findall(r'name = "(.*)"', tier)
        rows = re.findall(r'xmin = (\S+)\s+xmax = (\S+)\s+text = "(.*)"', tier)
        assert f"intervals: size = {len(rows)}" in tier
        tiers[name] = [(float(start), float(end), label) for start, end, label in rows]
    return tiers


def test_annotations_are_read_back(score, folder, tmp_path):
    options = ["--windows", 1, "--hop", 0.5, "--export", tmp_path / "e", "-o", tmp_path / "x.csv"]
    assert score(folder / "sub" / "c.flac", *PROMPTS, *options) == 0
    table = pd.read_csv(tmp_path / "x.csv")
    tiers = read_text_grid(tmp_path / "e" / "0000_c.TextGrid")
    assert list(tiers) == ["prediction", "angry", "calm"]
    starts = [0, 0.75, 1.25, 1.75]
    expected = [f"{value:.3f}" for value in table["probability.angry"]]
    assert [(start, label) for start, _, label in tiers["angry"]] == list(
        zip(starts, expected, strict=True)
    )
    assert tiers["angry"][-1][1] == 2.5
    rows = pd.read_csv(tmp_path / "e" / "0000_c.csv")
    assert rows.columns.tolist() == ["tier", "start", "end", "label", "quality"]
    best = rows[rows["tier"] == "prediction"]
    assert set(best["quality"]) == {"unvoiced"}, "the recording is noise"
    shown = best.assign(label=best["label"] + " (unvoiced)")[["start", "end", "label"]]
    assert [*shown.itertuples(index=False, name=None)] == tiers["prediction"]
    segments = pd.read_parquet(tmp_path / "e" / "segments.parquet")
    assert audformat.is_segmented_index(segments)
    ends = segments.index.get_level_values("end").total_seconds()
    assert [*ends] == best["end"].tolist() and segments["prediction"].tolist() == best[
        "label"
    ].tolist()
    assert segments["quality"].tolist() == best["quality"].tolist()


def test_silent_windows_are_not_averaged(tmp_path, folder, monkeypatch):
    windows = pd.DataFrame({"start": [0.0, 0.5, 1.0], "end": [1.0, 1.5, 2.0], "error": ""})
    windows = windows.assign(prediction=["calm", "angry", "calm"], quality=["silent", "", ""])
    windows["probability.angry"], windows["probability.calm"] = [0.0, 0.9, 0.4], [1.0, 0.1, 0.6]
    clips = read_clips([str(folder / "sub" / "c.flac")])
    [*write_annotations(tmp_path, [windows], clips, ["angry", "calm"], 3)]
    table = pd.read_csv(tmp_path / "0000_c.csv", keep_default_na=False)
    angry = table.loc[table["tier"] == "angry", "label"]
    assert angry.map(float).tolist() == pytest.approx([0.65, 0.65])
    assert table.loc[table["tier"] == "prediction", "label"].tolist() == ["angry"]


def test_figures_have_the_name_below_the_source_as_title(score, folder, tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(
        timelines, "plot_timeline", lambda good, title, *_: titles.append(title) or Figure()
    )
    assert score(folder, *PROMPTS, "--windows", 1, "--plot", tmp_path / "p") in (0, 1)
    assert "sub/c.flac" in titles


def test_times_of_windows_are_rounded(score, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.full(93_227, 0.1), 16_000)
    options = ["--windows", 3, "-o", tmp_path / "x.csv"]
    assert score(tmp_path / "a.wav", *PROMPTS, *options) == 0
    assert "2.8266875,5.8266875" in (tmp_path / "x.csv").read_text()


def test_time_between_segments_of_a_table_is_not_annotated(score, folder, tmp_path):
    (folder / "t.csv").write_text("file,start,end\nsub/c.flac,0.25,1\nsub/c.flac,1.5,2.25\n")
    options = ["--windows", 0.5, "--hop", 0.25, "--smooth", 10, "--export", tmp_path / "e"]
    assert score(folder / "t.csv", *PROMPTS, *options, "--plot", tmp_path / "p") == 0
    tiers = read_text_grid(tmp_path / "e" / "0000_c.TextGrid")
    assert [row[:2] for row in tiers["prediction"] if row[2]] == [(0.25, 1), (1.5, 2.25)]
    assert [row[:2] for row in tiers["prediction"] if not row[2]] == [
        (0, 0.25),
        (1, 1.5),
        (2.25, 2.5),
    ]
    assert len({row[2] for row in tiers["angry"] if row[0] < 1 and row[2]}) == 1  # smoothed
    assert len(list((tmp_path / "p").iterdir())) == 2


def test_prompt_called_prediction_is_apart_in_overlapping_segments(score, folder, tmp_path):
    rows = "sub/c.flac,0,1\nsub/c.flac,0.5,1.5\nsub/c.flac,0.9,2.4\n"
    (folder / "t.csv").write_text(f"file,start,end\n{rows}")
    options = ["--windows", 0.3, "--hop", 0.1, "--export", tmp_path / "e"]
    assert score(folder / "t.csv", "--prompts", "prediction", "calm", *options) == 0
    table = pd.read_csv(tmp_path / "e" / "0000_c.csv")
    tiers = [rows for _, rows in table.groupby(textgrid.tier_numbers(table))]
    assert [rows["tier"].iloc[0] for rows in tiers] == ["prediction", "prediction", "calm"]
    assert set(tiers[0]["label"]) <= {"prediction", "calm"}
    assert len(tiers[1]) == len(tiers[2]) and tiers[1]["label"].str.fullmatch(r"0\.\d+").all()
    assert table["end"].map(lambda end: len(str(end)) < 12).all()  # no 0.8999999999999999


def test_annotations_of_a_name_that_is_not_utf_8(score, folder, tmp_path):
    path = folder / b"bad\xff.flac".decode(errors="surrogateescape")
    path.write_bytes((folder / "sub" / "c.flac").read_bytes())
    assert score(path, *PROMPTS, "--windows", 1, "--export", tmp_path / "e") == 0
    segments = pd.read_parquet(tmp_path / "e" / "segments.parquet")
    assert segments.index.get_level_values("file")[0].endswith("/bad\\udcff.flac")


def test_segments_that_are_read_are_not_replaced(score, folder):
    rows = pd.DataFrame({"file": ["sub/c.flac"], "start": [0.25], "end": [1.0]})
    rows.to_parquet(folder / "segments.parquet")
    before = (folder / "segments.parquet").read_bytes()
    with pytest.raises(ParaCLAPError, match="segments.parquet would replace an input"):
        score(folder / "segments.parquet", *PROMPTS, "--windows", 1, "--export", folder)
    assert (folder / "segments.parquet").read_bytes() == before


def test_outline_has_the_range_of_each_part(tmp_path):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 16_000 * 3)
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    low, high = timelines.outline(tmp_path / "a.wav", 1.0, 3.0)
    parts = np.split(samples[16_000:].astype(np.float32), timelines.POINTS)
    np.testing.assert_allclose(low, [part.min() for part in parts], atol=1e-4)
    np.testing.assert_allclose(high, [part.max() for part in parts], atol=1e-4)
    assert timelines.outline(tmp_path / "gone.wav", 0.0, 1.0) is None


def test_windows_of_a_segment_stay_inside_it(score, folder, tmp_path):
    (folder / "t.csv").write_text("file,start,end\nsub/c.flac,0.5,1.75\n")
    options = ["--windows", 1, "-o", tmp_path / "x.csv"]
    assert score(folder / "t.csv", *PROMPTS, *options) == 0
    table = pd.read_csv(tmp_path / "x.csv")
    assert table[["start", "end"]].to_numpy().tolist() == [[0.5, 1.5], [0.75, 1.75]]


# --- Streams -------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [24_000, 24_001, 31_999, 100])
def test_stream_scores_like_the_file_with_the_same_windows(score, tmp_path, monkeypatch, samples):
    signal = np.random.default_rng(6).integers(-9000, 9000, samples).astype("<i2")
    soundfile.write(tmp_path / "a.wav", signal, 16_000)
    size = ["--windows", 1, "--hop", 0.25]
    score(tmp_path / "a.wav", *PROMPTS, *size, "-o", tmp_path / "file.csv")
    pipe = type("Pipe", (), {"buffer": io.BytesIO(signal.tobytes() + b"\0")})  # half a sample
    monkeypatch.setattr("sys.stdin", pipe)
    score("--stdin-pcm", 16_000, *PROMPTS, *size, "-o", tmp_path / "pipe.csv")
    whole, live = (
        pd.read_csv(tmp_path / f"{n}.csv").drop(columns="file") for n in ("file", "pipe")
    )
    pd.testing.assert_frame_equal(live, whole, atol=1e-5)


def test_window_is_yielded_before_more_is_read():
    class Pipe:
        given = 0

        def read(self, size):
            self.given += size
            return bytes(size)

    pipe = Pipe()
    found = stream_windows(pipe, 8_000, window=2, hop=0.5)
    assert next(found)[:2] == (0, 2) and pipe.given == 2 * 8_000 * 2
    assert next(found)[:2] == (0.5, 2.5) and pipe.given == 2.5 * 8_000 * 2
    assert len(next(found)[2]) == 16_000


def test_short_hop_of_a_stream_is_refused():
    with pytest.raises(ParaCLAPError, match=r"hop of at least 0.01 s"):
        next(stream_windows(io.BytesIO(b"ab"), 8_000, window=1, hop=1e-5))


# --- Options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.wav"], "--prompts or --describe"),
        (PROMPTS, "AUDIO or --stdin-pcm"),
        (["x.wav", "--stdin-pcm", "16000", *PROMPTS], "AUDIO or --stdin-pcm"),
        (["--stdin-pcm", "16000", *PROMPTS], "requires --windows"),
        (["x.wav", "--hop", "1", *PROMPTS], "requires --windows"),
        (["x.wav", "--plot", "p", *PROMPTS], "requires --windows"),
        (["x.wav", "--windows", "1", "--hop", "2", *PROMPTS], "hop 2 s: expected"),
        (["x.wav", "--describe"], "requires --edges"),
        (["x.wav", *PROMPTS, "--group", "gender=female"], "--group requires --describe"),
        (["x.wav", "--describe", "--group", "female"], "expected COLUMN=LABEL"),
        (["--stdin-pcm", "12", "--windows", "1", *PROMPTS], "12 Hz"),
        (["x.wav", *PROMPTS, "-o", "x.wav"], "x.wav must end in .csv or .json or"),
        (["x.wav", "--queries", "angry", "calm"], "--queries: renamed to --prompts"),
    ],
)
def test_invalid_combinations_of_options_are_refused(score, capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        score(*arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_descriptions_continue_after_an_unreadable_file(score, corpus, captions, tmp_path, capsys):
    clip = sorted(corpus.rglob("*.wav"))[0]
    edges = captions.with_name("captions.edges.json")
    assert score(tmp_path / "gone.wav", clip, "--describe", "--edges", edges) == 1
    printed = capsys.readouterr().out
    assert "does not exist" in printed and "measured: pitch is" in printed


def test_yaml_file_has_several_prompts_for_a_name(score, folder, tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text("anger: [an angry voice, rage]\ncalm: a calm voice\n")
    assert score(folder / "d.wav", "--prompts", path, "--format", "jsonl") == 0
    row = json.loads(capsys.readouterr().out)
    assert list(row["prompts"]) == ["anger", "calm"]


def test_groups_of_the_clips_reach_the_description(score, folder, monkeypatch, capsys):
    monkeypatch.setattr(ParaCLAP, "describe", lambda self, clip, edges, labels, *limits: labels)
    groups = ["--group", "gender=female", "corpus=a=b"]
    monkeypatch.setattr(measurement, "check_labels", lambda edges, labels: None)
    assert score(folder / "d.wav", "--describe", "--edges", "e.json", *groups) == 0
    assert "{'gender': 'female', 'corpus': 'a=b'}" in capsys.readouterr().out
