"""Edges come back from their file as they were fitted, and others are refused."""

import json

import pandas as pd
import pytest

from paraclap.captions.edges import Bounds, Edges
from paraclap.captions.edges_file import edges_to_dict, parse_edges
from paraclap.captions.input_errors import InputError
from small_corpora import DESCRIPTORS, INTENSITY, MEASURED, PITCH, fit, make_corpus, run, write


def test_edges_come_back_bit_for_bit_and_are_reused(features, tmp_path):
    table, edges = make_corpus(), tmp_path / "captions.edges.json"
    assert run(features, "-o", tmp_path / "captions.parquet") == 0
    fitted = fit(table, [d for d in MEASURED if d.default])
    assert parse_edges(edges.read_text(), DESCRIPTORS) == fitted
    shifted = table.assign(equivalentSoundLevel_dBp=table["equivalentSoundLevel_dBp"] + 10)
    assert run(write(shifted, features), "-o", tmp_path / "b.parquet", "--edges", edges) == 0
    assert set(pd.read_parquet(tmp_path / "b.parquet")["intensity_level"]) == {"high"}
    assert (tmp_path / "b.edges.json").read_bytes() == edges.read_bytes()


def test_edges_without_groups_are_still_read():
    entry = {"column": INTENSITY.column, "low": "0.1", "high": "0.30000000000000004", "n": 10}
    old = {"format": 1, "descriptors": {"intensity": entry | {"quantiles": ["0.3", "0.7"]}}}
    edges = parse_edges(json.dumps(old), DESCRIPTORS)
    assert edges == {"intensity": Edges(INTENSITY.column, {(): Bounds(0.1, 0.1 + 0.2, 10)})}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"column": "loudness_sma3_amean"}, "'intensity' are .*loudness.*expected column"),
        ({"groups": [{"group": [], "low": "5.0", "high": "4.0", "n": 10}]}, "low below high"),
        ({"groups": [{"group": [], "low": "nan", "high": "4.0", "n": 10}]}, "finite"),
        ({"groups": [{"group": ["man"], "low": "1", "high": "4.0", "n": 10}]}, "'intensity' are"),
        ({"groups": [{"group": [], "low": "x", "high": "4.0", "n": 10}]}, "no edges of this"),
        ({"colour": "red"}, "no edges of this program"),
    ],
)
def test_edges_that_do_not_fit_are_refused(change, message):
    edges = {"intensity": Edges(INTENSITY.column, {(): Bounds(2.0, 4.0, 10)})}
    content = edges_to_dict(edges)
    assert parse_edges(json.dumps(content), DESCRIPTORS) == edges
    with pytest.raises(InputError, match="unknown descriptor 'intensity'"):
        parse_edges(json.dumps(content), [PITCH])
    with pytest.raises(InputError, match="format is 3"):
        parse_edges(json.dumps(content | {"format": 3}), DESCRIPTORS)
    content["descriptors"]["intensity"].update(change)
    with pytest.raises(InputError, match=message):
        parse_edges(json.dumps(content), DESCRIPTORS)


def test_edges_of_groups_are_reused_and_unknown_groups_get_no_phrase(tmp_path, capsys):
    table, output = make_corpus(60), tmp_path / "captions.parquet"
    features = write(table, tmp_path / "f.parquet")
    assert run(features, "-o", output, "--edges-by", "gender") == 0
    captions, edges = pd.read_parquet(output), output.with_name("captions.edges.json")
    again = tmp_path / "again.parquet"
    assert run(features, "-o", again, "--edges", edges) == 0
    pd.testing.assert_frame_equal(pd.read_parquet(again), captions)
    other = table.assign(gender=["girl", "female"] * 30)
    assert run(write(other, features), "-o", again, "--edges", edges) == 0
    assert "pitch gets no phrase for girl: " in capsys.readouterr().err
    levels = pd.read_parquet(again)["pitch_level"]
    assert levels[::2].isna().all() and levels[1::2].notna().all()
    assert run(features, "-o", again, "--edges", edges, "--edges-by", "gender") == 1
    lacking = write(other.drop(columns="gender"), features)
    assert run(lacking, "-o", again, "--edges", edges) == 1
    assert run(lacking, "-o", again, "--edges-by", "gender") == 1
