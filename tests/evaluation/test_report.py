"""Tables and figures of hand-made scores."""

import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from paraclap.evaluation import figures, report
from paraclap.style import COLUMN, write_figure

SCORES = {
    "UAR": 0.5,
    "interval": [0.4, 0.6],
    "ACC": 0.55,
    "F1": 0.52,
    "chance": 0.25,
    "clips": 40,
    "classes": 4,
    "speakers": None,
    "unknown_speakers": 40,
    "quality": {},
    "recall": {"a": 1.0, "b|c": 0.0},
    "support": {"a": 30, "b|c": 10},
    "calibration": {"ECE": 0.125},
}


def test_empty_columns_are_dropped():
    table = report.score_rows({"one": SCORES, "two": {**SCORES, "interval": None}})
    assert table["UAR [95 %]"].tolist() == ["0.500 [0.400, 0.600]", "0.500"]
    assert not {"speakers", "AUC [95 %]", "closed-set eGeMAPS UAR [95 %]"} & set(table)
    opposed = {**SCORES, "AUC": 0.7, "AUC_interval": [0.6, 0.8], "speakers": 3}
    table = report.score_rows({"one": SCORES, "two": opposed}, {"two": {"eGeMAPS": SCORES}})
    assert table["AUC [95 %]"].tolist() == ["-", "0.700 [0.600, 0.800]"]
    assert table["closed-set eGeMAPS UAR [95 %]"].tolist() == ["-", "0.500 [0.400, 0.600]"]


def test_adapted_scores_have_a_column_of_their_own():
    adapted = {**SCORES, "adapted": {"UAR": 0.6, "interval": [0.5, 0.7]}}
    table = report.score_rows({"one": SCORES, "two": adapted})
    assert table.pop("adapted UAR [95 %]").tolist() == ["-", "0.600 [0.500, 0.700]"]
    assert table.equals(report.score_rows({"one": SCORES, "two": SCORES}))


def test_published_scores_have_their_own_columns():
    references = {"one": {"CLAP": 0.2, "ParaCLAP": 0.3}, "two": {"ParaCLAP": 0.4}}
    table = report.score_rows({"one": SCORES, "two": SCORES, "three": SCORES}, {}, references)
    assert table["CLAP (published)"].tolist() == ["0.200", "-", "-"]
    assert table["ParaCLAP (published)"].tolist() == ["0.300", "0.400", "-"]


def test_markdown_escapes_names():
    table = report.recall_rows({"one": SCORES})
    lines = report.to_markdown(table).splitlines()
    assert lines[0] == "| corpus | class | clips | recall |"
    assert lines[3] == r"| one | b\|c | 10 | 0.000 |"
    assert report.to_markdown(pd.DataFrame({"x": ["a\nb"]})).endswith("| a b |")


def test_page_holds_selection_and_remarks():
    page = report.markdown_page(
        {"model": "m", "split": ["dev", "test"], "speakers": None},
        [pd.DataFrame({"x": ["1"]})],
        ["a remark"],
    )
    assert page.startswith("model: m; split: dev, test\n\n| x |")
    assert "- a remark" in page and "speakers: None" not in page


def texts_of(figure):
    """All texts of a figure that are drawn."""
    figures.to_pixels(figure)
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]


def test_confusion_matrix_shows_percent_of_present_classes_and_no_zeros():
    predictions = pd.DataFrame(
        {"truth": ["a"] * 300 + ["b"], "prediction": ["a"] * 100 + ["b"] + ["c"] * 199 + ["b"]}
    )
    figure = figures.plot_confusion(predictions, ["a", "b", "c"], "$t$")
    (axes,) = figure.axes
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "33", (1, 0): "<1", (2, 0): "66", (1, 1): "100"}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a (300)", "b (1)"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c"]
    assert figure.get_figwidth() == COLUMN
    assert min(text.get_fontsize() for text in texts_of(figure)) >= 7


def page_width(figure, path):
    """Width of the page of a saved PDF [in]."""
    write_figure(figure, path)
    (box,) = re.findall(rb"/MediaBox \[([^\]]*)\]", path.read_bytes())
    return float(box.split()[2]) / 72


EMOTIONS = "neutral calm happy sad angry fearful disgust surprised".split()


@pytest.mark.parametrize("classes, width", [(EMOTIONS, 3.3), ([*EMOTIONS, "a", "b"], 6.9)])
def test_confusion_matrix_has_the_width_of_a_column_or_page(tmp_path, classes, width):
    predictions = pd.DataFrame({"truth": classes * 20, "prediction": classes * 20})
    predictions.loc[: len(classes), "prediction"] = "sad"
    figure = figures.plot_confusion(predictions, classes, "ravdess\nUAR 0.5 [0.4, 0.6]")
    assert page_width(figure, tmp_path / "a.pdf") == pytest.approx(width, abs=0.01)
    assert min(text.get_fontsize() for text in texts_of(figure)) >= 7
    figures.to_pixels(figure)
    boxes = {text.get_position(): text.get_window_extent() for text in figure.axes[0].texts}
    for (column, row), box in boxes.items():
        right = boxes.get((column + 1, row))
        assert right is None or box.x1 < right.x0


def test_differences_have_the_width_of_a_column(tmp_path):
    values = {"difference": 0.1, "low": 0.0, "high": 0.2, "baseline": "results/as_published"}
    rows = pd.DataFrame({"task": ["ravdess emotion", "all"], **values})
    for names in (["results/new"], ["results/new", "results/other", "results/with_long_name_here"]):
        figure = figures.plot_differences(pd.concat([rows.assign(results=name) for name in names]))
        assert page_width(figure, tmp_path / "a.pdf") == pytest.approx(3.3, abs=0.01)
        texts = texts_of(figure)
        assert min(text.get_fontsize() for text in texts) >= 7
        ticks = figure.axes[0].get_xticklabels()  # some of them are outside and not drawn
        limits = [text.get_window_extent().intervalx for text in texts if text not in ticks]
        assert np.min(limits) >= 0 and np.max(limits) <= figure.bbox.x1


def test_calibration_leaves_out_bins_below_five_clips_and_says_so():
    bins = [(0.3, 0.0, 4), (0.6, 0.5, 5), (0.9, 1.0, 15)]
    bins = [dict(zip(("confidence", "accuracy", "clips"), row, strict=True)) for row in bins]
    figure = figures.plot_calibration({"ECE": 0.123, "bins": bins}, "t")
    (axes,) = figure.axes
    assert np.allclose(axes.collections[0].get_offsets(), [[60, 50], [90, 100]])
    assert axes.get_title() == "calibration error 12.3 %; 4 clips in bins below 5 not drawn"
    assert "%" in axes.get_xlabel() and "%" in axes.get_ylabel()
    assert min(text.get_fontsize() for text in texts_of(figure)) >= 7


def test_title_has_the_uar_with_its_interval():
    scores = {"UAR": 0.5, "interval": [0.41, 0.6], "chance": 0.25}
    assert figures.score_title("x", scores) == "x\nUAR 0.500 [0.410, 0.600], chance 0.250"
    assert "UAR 0.500, chance" in figures.score_title("x", scores | {"interval": None})


@pytest.mark.parametrize(
    "suffix, start", [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")]
)
def test_figures_are_written_in_each_format(tmp_path, suffix, start):
    predictions = pd.DataFrame({"truth": ["a"], "prediction": ["a"]})
    path = tmp_path / f"a.{suffix}"
    write_figure(figures.plot_confusion(predictions, ["a"], "t"), path)
    assert path.read_bytes().startswith(start)


@pytest.mark.parametrize("windows, averaged", [(50, 1), (199, 1), (200, 3), (600, 7)])
def test_timeline_of_a_long_recording_shows_moving_averages(windows, averaged):
    rng = np.random.default_rng(0)
    starts = np.arange(windows) * 0.25
    predictions = pd.DataFrame({"start": starts, "end": starts + 1, "none_of_these": 0.5})
    predictions["probability.a"] = rng.uniform(size=windows)
    figure = figures.plot_timeline(predictions, "title")
    axes = figure.axes[0]
    lines = [line.get_ydata() for line in axes.get_lines()]
    assert len(lines) == (1 if averaged == 1 else 2)
    half, values = averaged // 2, predictions["probability.a"].to_numpy()
    for place in (0, windows // 2, windows - 1):
        expected = values[max(place - half, 0) : place + half + 1].mean()
        assert lines[0][place] == pytest.approx(expected)
    assert (f"means of {averaged} windows" in figure.get_suptitle()) == (averaged > 1)


@pytest.mark.parametrize("smooth, expected", [(1, 0.2), (3, 0.25)])
def test_timeline_has_gaps_at_silent_windows_and_averages_without_them(smooth, expected):
    starts = np.arange(6.0)
    predictions = pd.DataFrame({"start": starts, "end": starts + 1, "none_of_these": 0.5})
    predictions["probability.a"] = [0.99, 0.98, 0.2, 0.3, 0.9, 0.4]
    predictions["quality"] = ["silent", "truncated;silent", "", "unvoiced", "silent", ""]
    figure = figures.plot_timeline(predictions, "title", smooth=smooth)
    for line in figure.axes[0].get_lines():
        assert np.isnan(line.get_ydata()).tolist() == [True, True, False, False, True, False]
    assert figure.axes[0].get_lines()[0].get_ydata()[2] == pytest.approx(expected)


def test_timeline_has_the_waveform_above_and_none_of_these_below():
    starts = np.arange(20) * 0.5
    predictions = pd.DataFrame({"start": starts, "end": starts + 1, "none_of_these": 0.25})
    predictions["probability.a"] = np.linspace(0, 1, 20)
    waveform = np.array([[-0.5] * 100, [0.5] * 100])
    figure = figures.plot_timeline(predictions, "title", waveform, smooth=5)
    speech, curves, none = figure.axes
    assert speech.get_xlim() == curves.get_xlim() == (0, 10.5)
    assert curves.get_lines()[0].get_ydata()[10] == pytest.approx(predictions.iloc[8:13, -1].mean())
    assert none.get_ylabel() == "none of\nthese" and none.get_xlabel() == "time (s)"
    assert none.collections[0].get_paths()[0].vertices[:, 1].max() == 0.25
    assert min(text.get_fontsize() for text in texts_of(figure)) >= 7
