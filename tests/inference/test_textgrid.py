"""textgrid.py: annotations cover a recording once, and Praat's format is written."""

import re

import pandas as pd
import pytest

from paraclap.errors import ParaCLAPError
from paraclap.inference.textgrid import annotations, text_grid


@pytest.fixture
def timeline():
    """Four windows of 4 s, every 2 s, of which the third is silent; the recording has 9.5 s."""
    return pd.DataFrame(
        {
            "start": [0.0, 2.0, 4.0, 5.5],
            "end": [4.0, 6.0, 8.0, 9.5],
            "prediction": ["sad", "sad", "sad", 'a "calm" voice'],
            "probability.sad": [0.9, 0.8, 0.5, 0.1],
            'probability.a "calm" voice': [0.1, 0.2, 0.5, 0.9],
            "quality": ["", "clipped:0.01", "silent", ""],
        }
    )


NAMES = ["sad", 'a "calm" voice']


def test_windows_are_annotated_once_and_silence_is_not(timeline):
    table = annotations(timeline, NAMES, 9.5)
    joined = table[table["tier"] == "prediction"].drop(columns=["tier", "quality"])
    assert joined.values.tolist() == [[0, 5, "sad"], [6.75, 9.5, 'a "calm" voice']]
    sad = table[table["tier"] == "sad"].drop(columns=["tier", "quality"])
    assert sad.values.tolist() == [[0, 3, "0.900"], [3, 5, "0.800"], [6.75, 9.5, "0.100"]]


def test_unvoiced_windows_are_marked(timeline):
    timeline["quality"] = ["", "clipped:0.01;unvoiced", "silent", "unvoiced"]
    table = annotations(timeline, NAMES, 9.5)
    assert table["quality"].tolist()[:3] == ["", "unvoiced", "unvoiced"]
    assert table["label"].tolist()[:3] == ["sad", "sad", 'a "calm" voice']
    text = text_grid(table, 9.5)
    assert 'text = "sad (unvoiced)"' in text and 'text = "a ""calm"" voice (unvoiced)"' in text
    assert text.count("(unvoiced)") == 2, "probabilities stay numbers"


def test_times_are_rounded_to_nanoseconds(timeline):
    timeline["start"], timeline["end"] = timeline["start"] + 0.1, timeline["end"] + 0.2
    times = re.findall(r"xm\w+ = (\S+)", text_grid(annotations(timeline, NAMES, 9.7), 9.7))
    assert max(map(len, times)) < 12


def test_text_grid_is_complete_and_quotes_are_doubled(timeline):
    text = text_grid(annotations(timeline, NAMES, 9.5), 9.5)
    assert text.startswith('File type = "ooTextFile"\nObject class = "TextGrid"\n')
    assert "size = 3" in text and 'name = "a ""calm"" voice"' in text
    for tier in text.split("IntervalTier")[1:]:
        limits = re.findall(r"intervals \[\d+\]:\s+xmin = (\S+)\s+xmax = (\S+)", tier)
        assert limits[0][0] == "0" and limits[-1][1] == "9.5"
        assert [end for _, end in limits[:-1]] == [start for start, _ in limits[1:]]
        assert f"intervals: size = {len(limits)}" in tier


def test_prompt_called_prediction_has_a_tier_of_its_own(timeline):
    renamed = timeline.rename(columns={"probability.sad": "probability.prediction"})
    text = text_grid(annotations(renamed, ["prediction"], 9.5), 9.5)
    assert text.count('name = "prediction"') == 2 and "size = 2\n" in text
    text = text_grid(annotations(renamed[:1], ["prediction"], 3.2), 3.2)
    assert text.count('name = "prediction"') == 2 and "intervals: size = 2" not in text


def test_one_window_is_the_whole_recording(timeline):
    table = annotations(timeline[:1], ["sad"], 3.2)
    assert table.values.tolist() == [
        ["prediction", 0, 3.2, "sad", ""],
        ["sad", 0, 3.2, "0.900", ""],
    ]


def test_silence_is_an_empty_tier(timeline):
    table = annotations(timeline[2:3], ["sad"], 2.0)
    assert table.empty
    text = text_grid(table, 2.0)
    assert 'name = "prediction"' in text and 'text = ""' in text and "size = 1\n" in text


def test_timeline_of_an_earlier_version_stops_with_the_new_name(timeline):
    with pytest.raises(ParaCLAPError, match="best was renamed to prediction"):
        annotations(timeline.rename(columns={"prediction": "best"}), ["sad"], 9.5)
