"""Tables and figures of hand-made scores."""

import numpy as np
import pandas as pd
import pytest

from paraclap.evaluation import figures, report

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
    assert not {"speakers", "AUC [95 %]", "probe UAR [95 %]"} & set(table)
    opposed = {**SCORES, "AUC": 0.7, "AUC_interval": [0.6, 0.8], "speakers": 3}
    table = report.score_rows({"one": SCORES, "two": opposed}, {"two": SCORES})
    assert table["AUC [95 %]"].tolist() == ["-", "0.700 [0.600, 0.800]"]
    assert table["probe UAR [95 %]"].tolist() == ["-", "0.500 [0.400, 0.600]"]


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


def test_page_holds_selection_and_remarks():
    page = report.markdown_page(
        {"model": "m", "split": ["dev", "test"], "speakers": None},
        [pd.DataFrame({"x": ["1"]})],
        ["a remark"],
    )
    assert page.startswith("model: m; split: dev, test\n\n| x |")
    assert "- a remark" in page and "speakers: None" not in page


def test_confusion_matrix_shows_shares_and_counts_of_present_classes():
    predictions = pd.DataFrame({"truth": ["a", "a", "b"], "prediction": ["a", "c", "b"]})
    calibration = {"ECE": 0.1, "bins": [{"confidence": 0.6, "accuracy": 0.5, "clips": 3}]}
    left, right = figures.plot_predictions(predictions, ["a", "b", "c"], calibration, "t").axes
    assert [text.get_text() for text in left.texts] == [
        "50%\n1", "0%\n0", "50%\n1", "0%\n0", "100%\n1", "0%\n0"
    ]  # fmt: skip
    assert [label.get_text() for label in left.get_yticklabels()] == ["a", "b"]
    assert [label.get_text() for label in left.get_xticklabels()] == ["a", "b", "c"]
    assert np.allclose(right.collections[0].get_offsets(), [[0.6, 0.5]])


@pytest.mark.parametrize("windows, averaged", [(50, 1), (199, 1), (200, 3), (600, 7)])
def test_timeline_of_a_long_recording_shows_moving_averages(windows, averaged):
    rng = np.random.default_rng(0)
    starts = np.arange(windows) * 0.25
    predictions = pd.DataFrame({"start": starts, "end": starts + 1, "none_of_these": 0.5})
    predictions["probability.a"] = rng.uniform(size=windows)
    axes = figures.plot_timeline(predictions, "title").axes[0]
    lines = [line.get_ydata() for line in axes.get_lines()]
    assert len(lines) == (1 if averaged == 1 else 2)
    half, values = averaged // 2, predictions["probability.a"].to_numpy()
    for place in (0, windows // 2, windows - 1):
        expected = values[max(place - half, 0) : place + half + 1].mean()
        assert lines[0][place] == pytest.approx(expected)
    assert (f"means of {averaged} windows" in axes.get_title()) == (averaged > 1)
