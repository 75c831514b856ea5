"""Edges as exact quantiles of the training rows, and their file."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from paraclap.captions.edges import (
    FIVE_QUANTILES,
    QUANTILES,
    Bounds,
    Edges,
    edges_beside,
    edges_to_dict,
    parse_edges,
)
from paraclap.captions.levels import VOICING_COLUMN
from paraclap.captions.sources import BATCH
from paraclap.captions.templates import InputError, default_descriptors, read_templates
from small_corpora import (
    DESCRIPTORS,
    EXTENDED,
    GENDER,
    INTENSITY,
    MEASURED,
    PITCH,
    bounds,
    caption,
    fit,
    join,
    levels_of,
    make_corpus,
    make_table,
    phrases_by_row,
    run,
    write,
)


def test_edges_equal_hand_computed_quantiles():
    # 1..11: positions 3 and 7; 0..9: positions 2.25 and 4.5, between two values
    for values, quantiles, expected in (
        (range(1, 12), (0.3, 0.7), (4.0, 8.0, 11)), (range(10), (0.25, 0.5), (2.25, 4.5, 10))
    ):  # fmt: skip
        table = make_table(equivalentSoundLevel_dBp=list(values))
        assert bounds(fit(table, [INTENSITY], quantiles)["intensity"]) == pytest.approx(expected)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_edges_equal_numpy_quantiles_to_the_bit(kind):
    generator = np.random.default_rng(0)
    for rows in (10, 11, 997, BATCH + 1):
        values = generator.lognormal(size=rows).astype(kind)
        expected = tuple(np.quantile(values.astype(np.float64), QUANTILES).tolist())
        table = make_table(equivalentSoundLevel_dBp=values)
        assert bounds(fit(table, [INTENSITY])["intensity"]) == (*expected, rows)


@pytest.mark.parametrize("descriptor", [d for d in MEASURED if d.voiced], ids=lambda d: d.name)
def test_unvoiced_clips_do_not_change_edges_and_have_no_level(descriptor):
    voiced = make_corpus(60)
    silent = voiced.sample(140, replace=True, random_state=0)
    silent[VOICING_COLUMN] = np.repeat([0.0, np.nan], 70)
    both = join(silent, voiced)
    assert fit(both, [descriptor]) == fit(voiced, [descriptor])
    levels = levels_of(both, descriptor)
    assert levels[:140] == [None] * 140 and None not in levels[140:]
    assert None not in levels_of(both, INTENSITY)
    zeros = voiced[[descriptor.column]].where(np.arange(60)[:, None] >= 20, 0.0)
    assert levels_of(zeros, descriptor)[:20] == [None] * 20  # even without a column for pitch


def test_zeros_and_integers_are_values():
    table = make_table(equivalentSoundLevel_dBp=list(range(-10, 11)))
    assert levels_of(table, INTENSITY)[10] == "normal"
    assert levels_of(table, INTENSITY) == levels_of(table.astype(float), INTENSITY)


@pytest.mark.parametrize("undefined", [np.nan, np.inf, -np.inf])
def test_undefined_values_do_not_change_edges_and_have_no_phrase(undefined):
    table = make_corpus(30)
    broken = join(table, table.assign(equivalentSoundLevel_dBp=undefined))
    assert fit(broken, [INTENSITY]) == fit(table, [INTENSITY])
    captions = phrases_by_row(broken, [INTENSITY])
    assert all(captions[:30]) and not any(captions[30:])


@pytest.mark.parametrize(
    "values",
    [[], [1.0] * 30, [np.nan] * 30, [1.0, 2.0, 3.0], list(range(9)), [0.0] + [1.0] * 28 + [2.0]],
    ids=["empty", "constant", "nan", "three", "nine", "tied"],
)
def test_too_few_or_constant_values_warn_and_get_no_phrase(values):
    table = make_table(equivalentSoundLevel_dBp=np.asarray(values, dtype=float))
    with pytest.warns(UserWarning, match="intensity gets no phrase.*equivalentSoundLevel_dBp"):
        captions = phrases_by_row(table, [INTENSITY])
    assert captions == [[]] * len(values)


@pytest.mark.parametrize("rows", range(4))
def test_a_few_rows_have_no_level(rows):
    with pytest.warns(UserWarning, match=f"has {rows} defined training values"):
        assert levels_of(make_corpus(60).iloc[:rows], INTENSITY) == [None] * rows


@pytest.mark.parametrize("unvoiced", [0.0, np.nan])
def test_edges_of_a_mostly_unvoiced_corpus_are_those_of_its_voiced_part(unvoiced):
    table = make_corpus(200)
    voiced = [descriptor for descriptor in MEASURED if descriptor.voiced]
    silent = np.random.default_rng(0).permutation(200) < 140
    for descriptor in voiced:
        table.loc[silent, descriptor.column] = unvoiced
    assert fit(table, voiced) == fit(table[~silent], voiced)
    levels = caption(table, fit(table, voiced), voiced)[[d.output_column for d in voiced]]
    assert levels[silent].isna().all(axis=None) and levels[~silent].notna().all(axis=None)


def test_edges_depend_on_training_rows_alone():
    table = make_corpus(90).assign(split=np.repeat(["train", "dev", "test"], 30))
    changed = table.copy()
    changed.loc[changed["split"] != "train", INTENSITY.column] = 1000.0
    alone = table[table["split"] == "train"].drop(columns="split")
    expected = fit(alone)
    assert fit(table) == fit(changed) == expected
    changed.loc[changed["split"] == "train", INTENSITY.column] += 1
    assert fit(changed) != expected
    with pytest.raises(InputError, match="'train'.*'test'.*--edges"):
        fit(table.assign(split="test"))


def test_edges_file_does_not_depend_on_test_rows(tmp_path):
    table, contents = make_corpus(300), []
    for name, scale in (("same", 1.0), ("changed", 7.0)):
        test = table["speaker"].isin(["05", "06"])
        columns = [descriptor.column for descriptor in MEASURED]
        rows = table.astype({c: "float32" for c in columns})
        rows.loc[test, columns] *= np.float32(scale)
        output = tmp_path / name / "captions.parquet"
        features = write(rows, tmp_path / f"{name}.parquet")
        assert run(features, "-o", output, "--test-speakers", "05,06") == 0
        contents.append(output.with_name("captions.edges.json").read_bytes())
    assert contents[0] == contents[1]
    assert run(features, "-o", output, "--test-speakers", "01,02") == 0
    assert output.with_name("captions.edges.json").read_bytes() != contents[0]


def test_group_edges_are_the_quantiles_of_its_rows():
    table = make_corpus(200)
    table["gender"] = ["female", "F", "male", "woman", "unknown"] * 40
    edges = fit(table, MEASURED, comparisons=[GENDER])
    women = table["gender"].isin(["female", "F", "woman"])
    assert set(edges["pitch"].groups) == {("woman",), ("man",)}
    for group, rows in (("woman", women), ("man", table["gender"] == "male")):
        values = table[rows][PITCH.column].astype(float)
        expected = (*np.quantile(values, QUANTILES), len(values))
        assert bounds(edges["pitch"], group) == expected
    assert edges["pitch"].by == ("gender",)
    assert edges["duration"].by == () and edges["arousal"].by == ()


def test_missing_and_small_groups_warn_and_get_no_phrase(tmp_path, capsys):
    table = make_corpus(60)
    table["gender"] = ["female"] * 45 + ["male"] * 9 + [None, "unknown"] * 3
    output = tmp_path / "captions.parquet"
    assert run(write(table, tmp_path / "f.parquet"), "-o", output, "--edges-by", "gender") == 0
    errors = capsys.readouterr().err
    assert re.search("pitch gets no phrase for man: column .* 9 defined training values", errors)
    assert "6 rows have no gender and no phrase compared by it" in errors
    captions = pd.read_parquet(output)
    assert captions["pitch_level"][:45].notna().all() and captions["pitch_level"][45:].isna().all()
    assert captions["duration_level"].notna().all()
    assert "pitch" not in captions["caption_descriptors"][45:].explode().array


# --- File of edges


def test_stored_edges_are_equal_to_the_bit_and_reused(features, tmp_path):
    table, edges = make_corpus(), tmp_path / "captions.edges.json"
    assert run(features, "-o", tmp_path / "captions.parquet") == 0
    fitted = fit(table, [d for d in MEASURED if d.default])
    assert parse_edges(edges.read_text(), DESCRIPTORS) == fitted
    shifted = table.assign(equivalentSoundLevel_dBp=table["equivalentSoundLevel_dBp"] + 10)
    assert run(write(shifted, features), "-o", tmp_path / "b.parquet", "--edges", edges) == 0
    assert set(pd.read_parquet(tmp_path / "b.parquet")["intensity_level"]) == {"high"}
    assert (tmp_path / "b.edges.json").read_bytes() == edges.read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"column": "loudness_sma3_amean"}, "'intensity' are of column 'loudness_sma3_amean'"),
        ({"groups": [{"group": [], "low": "5.0", "high": "4.0", "n": 10}]}, "low below high"),
        ({"groups": [{"group": [], "low": "nan", "high": "4.0", "n": 10}]}, "finite"),
        ({"groups": [{"group": ["man"], "low": "1", "high": "4.0", "n": 10}]}, "'intensity' are"),
        ({"groups": [{"group": [], "low": "x", "high": "4.0", "n": 10}]}, "not a file of edges"),
        ({"groups": 3}, "not a file of edges"),
        ({"groups": [{"group": [], "low": 10**400, "high": "4.0", "n": 10}]}, "not a file of"),
        ({"groups": [{"group": [1], "low": "1", "high": "4.0", "n": 10}]}, "not a file of edges"),
        ({"by": "gender"}, "not a file of edges"),
        ({"by": [["gender"]]}, "not a file of edges"),
        ({"quantiles": ["0.3"]}, "not a file of edges"),
    ],
)
def test_invalid_edges_raise(change, message):
    edges = {"intensity": Edges(INTENSITY.column, {(): Bounds((2.0, 4.0), 10)})}
    content = edges_to_dict(edges)
    assert parse_edges(json.dumps(content), DESCRIPTORS) == edges
    with pytest.raises(InputError, match="unknown descriptor 'intensity'"):
        parse_edges(json.dumps(content), [PITCH])
    with pytest.raises(InputError, match="format 3, expected 2"):
        parse_edges(json.dumps(content | {"format": 3}), DESCRIPTORS)
    content["descriptors"]["intensity"].update(change)
    with pytest.raises(InputError, match=message):
        parse_edges(json.dumps(content), DESCRIPTORS)


def test_group_edges_are_reused_and_other_groups_get_no_phrase(tmp_path, capsys):
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


# --- Five levels ---------------------------------------------------------------------------------

FIVE = default_descriptors(five_levels=True)


def test_five_levels_have_edges_of_their_own_around_those_of_three():
    table = make_table(equivalentSoundLevel_dBp=list(range(21)))  # edges at 2, 6, 14 and 18
    descriptor = next(d for d in FIVE if d.name == "intensity")
    three = fit(table, [INTENSITY], FIVE_QUANTILES)["intensity"]
    five = fit(table, [descriptor], FIVE_QUANTILES, templates=FIVE)["intensity"]
    assert five.groups[()].edges == pytest.approx((2, 6, 14, 18))
    assert bounds(three) == bounds(five) and three.quantiles == QUANTILES
    captions = caption(table, {"intensity": five}, [descriptor], FIVE)
    levels = captions["intensity_level"]
    assert levels.tolist() == np.repeat([*descriptor.values], [3, 4, 7, 4, 3]).tolist()
    middle = levels.replace({"very low": "low", "very high": "high"})
    assert middle.tolist() == levels_of(table, INTENSITY)
    for level, phrases in zip(levels, captions["captions"], strict=True):
        assert phrases[0] == f"intensity is {level}"
    with pytest.raises(
        InputError, match="intensity has the levels very low, .* 4 quantiles, got 2"
    ):
        fit(table, [descriptor], QUANTILES, templates=FIVE)


def test_edges_of_five_levels_are_stored_and_need_their_templates(features, tmp_path, capsys):
    three, five = tmp_path / "three.parquet", tmp_path / "five.parquet"
    templates = ["--templates", "paraclap", "five_levels"]
    figure = tmp_path / "edges.png"
    assert run(features, "-o", five, *templates, "--plot", figure) == 0
    assert "very low 6, low 12, normal 24, high 12, very high 6" in capsys.readouterr().out
    stored = edges_beside(five)
    fitted = parse_edges(stored.read_text(), FIVE)
    assert len(fitted["pitch"].groups[()].edges) == 4
    assert run(features, "-o", three) == 0
    assert run(features, "-o", tmp_path / "a.parquet", *templates, "--edges", stored) == 0
    pd.testing.assert_frame_equal(*map(pd.read_parquet, (five, tmp_path / "a.parquet")))
    for options in (["--edges", stored], [*templates, "--edges", edges_beside(three)]):
        assert run(features, "-o", tmp_path / "b.parquet", *options) == 1
        assert "add five_levels to --templates, or leave it out" in capsys.readouterr().err
    assert run(features, "-o", three, *templates, "--quantiles", "0.3", "0.7") == 1
    assert "4 quantiles, got 2" in capsys.readouterr().err
    assert run(features, "-o", three, "--quantiles", "0.3", "0.7", "0.8") == 1
    assert "expected 2 or 4, ascending" in capsys.readouterr().err


def test_levels_of_rules_include_those_beyond():
    generator, measures = np.random.default_rng(0), [d for d in EXTENDED if d.kind == "level"]
    table = make_table(**{d.column: generator.uniform(1, 2, 500) for d in measures})
    five = read_templates(["paraclap", "extended", "five_levels"])
    found = []
    for templates in (EXTENDED, five):
        selected = [d for d in templates if d.name in ("pitch", "jitter", "creaky")]
        edges = fit(table, selected, FIVE_QUANTILES, templates=templates)
        found.append(caption(table, edges, selected, templates))
    assert found[0]["creaky_level"].tolist() == found[1]["creaky_level"].tolist()
    assert "present" in set(found[0]["creaky_level"])
    assert "very low" in set(found[1]["pitch_level"])
