"""Edges are exact quantiles of what is defined in the training part, or there are none."""

import re

import numpy as np
import pandas as pd
import pytest

from paraclap.captions.edges import QUANTILES
from paraclap.captions.feature_tables import BATCH
from paraclap.captions.input_errors import InputError
from paraclap.captions.survey import VOICING_COLUMN
from small_corpora import (
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
def test_edges_equal_numpy_over_the_whole_column_bit_for_bit(kind):
    generator = np.random.default_rng(0)
    for rows in (10, 11, 997, BATCH + 1):
        values = generator.lognormal(size=rows).astype(kind)
        expected = tuple(np.quantile(values.astype(np.float64), QUANTILES).tolist())
        table = make_table(equivalentSoundLevel_dBp=values)
        assert bounds(fit(table, [INTENSITY])["intensity"]) == (*expected, rows)


@pytest.mark.parametrize("descriptor", [d for d in MEASURED if d.voiced], ids=lambda d: d.name)
def test_unvoiced_clips_neither_move_edges_nor_get_levels(descriptor):
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


def test_zero_and_whole_numbers_are_values_of_a_measure():
    table = make_table(equivalentSoundLevel_dBp=list(range(-10, 11)))
    assert levels_of(table, INTENSITY)[10] == "normal"
    assert levels_of(table, INTENSITY) == levels_of(table.astype(float), INTENSITY)


@pytest.mark.parametrize("undefined", [np.nan, np.inf, -np.inf])
def test_undefined_values_get_no_phrase_and_do_not_move_edges(undefined):
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
def test_without_evidence_there_is_a_warning_and_no_phrase(values):
    table = make_table(equivalentSoundLevel_dBp=np.asarray(values, dtype=float))
    with pytest.warns(UserWarning, match="intensity gets no phrase.*equivalentSoundLevel_dBp"):
        captions = phrases_by_row(table, [INTENSITY])
    assert captions == [[]] * len(values)


@pytest.mark.parametrize("rows", range(4))
def test_too_few_rows_are_never_normal(rows):
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


def test_rows_of_other_splits_do_not_move_edges():
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


def test_changed_test_rows_leave_the_stored_edges_as_they_were(tmp_path):
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


def test_edges_of_a_group_are_the_quantiles_of_its_rows():
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


def test_unknown_and_small_groups_get_no_phrase_and_a_warning(tmp_path, capsys):
    table = make_corpus(60)
    table["gender"] = ["female"] * 45 + ["male"] * 9 + [None, "unknown"] * 3
    output = tmp_path / "captions.parquet"
    assert run(write(table, tmp_path / "f.parquet"), "-o", output, "--edges-by", "gender") == 0
    told = capsys.readouterr().err
    assert re.search("pitch gets no phrase for man: column .* 9 defined training values", told)
    assert "6 rows have no gender and no phrase compared by it" in told
    captions = pd.read_parquet(output)
    assert captions["pitch_level"][:45].notna().all() and captions["pitch_level"][45:].isna().all()
    assert captions["duration_level"].notna().all()
    assert "pitch" not in captions["caption_descriptors"][45:].explode().array
