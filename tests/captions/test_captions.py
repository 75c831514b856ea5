"""Captions: what they say, and from which evidence."""

import re

import numpy as np
import opensmile
import pandas as pd
import pyarrow as pa
import pytest

from paraclap.captions.captions import Captioner, captions_of, measured, select_descriptors
from paraclap.captions.edges import Bounds, Edges
from paraclap.captions.feature_tables import example_part
from paraclap.captions.input_errors import InputError
from paraclap.captions.phrases import phrases_of
from paraclap.captions.survey import VOICING_COLUMN, survey
from small_corpora import (
    BY_NAME,
    DESCRIPTORS,
    EXTENDED,
    GENDER,
    INTENSITY,
    MEASURED,
    PITCH,
    as_lists,
    bounds,
    caption,
    fit,
    levels_of,
    make_corpus,
    make_table,
    phrases_by_row,
    stream,
)


def test_levels_include_their_edges():
    edges = {"intensity": Edges(INTENSITY.column, {(): Bounds(2.0, 4.0, 10)})}
    values = [np.nextafter(2, 0), 2.0, np.nextafter(2, 3), 3.0, np.nextafter(4, 3), 4.0, 5.0]
    levels = caption(make_table(equivalentSoundLevel_dBp=values), edges)
    assert list(levels["intensity_level"]) == ["low"] * 2 + ["normal"] * 3 + ["high"] * 2


def test_row_order_changes_neither_edges_nor_captions():
    table = make_corpus(500)
    shuffled = table.sample(frac=1, random_state=1)
    edges = fit(table)
    assert fit(shuffled) == edges
    again = caption(shuffled, edges).sort_index()
    pd.testing.assert_frame_equal(caption(table, edges), again)


def test_levels_that_a_corpus_gives_itself_are_kept():
    table = make_table(arousal=["low", "high", None, "normal"] * 5)
    assert levels_of(table, BY_NAME["arousal"]) == ["low", "high", None, "normal"] * 5
    assert levels_of(table.astype("category"), BY_NAME["arousal"])[:2] == ["low", "high"]
    with pytest.raises(InputError, match="'arousal' holds 'activated'"):
        fit(make_table(arousal=["activated", "low"] * 10))


@pytest.mark.parametrize(
    "descriptor", [d for d in EXTENDED if d.kind != "rule"], ids=lambda d: d.name
)
def test_every_phrase_is_reachable(descriptor):
    values = np.linspace(1, 2, 100)
    if descriptor.kind == "label":
        values = [*descriptor.forms, *(descriptor.phrases.keys() - {"*", "?"}), "zest"]
    captions = phrases_by_row(make_table(**{descriptor.column: values}), [descriptor])
    spoken = {phrase for caption in captions for phrase in caption}
    for wording in (wording for words in descriptor.phrases.values() for wording in words):
        pattern = re.sub(r"\\{\w+\\}", ".+", re.escape(wording))
        assert any(re.fullmatch(pattern, phrase) for phrase in spoken), wording


def test_all_and_only_true_phrases_are_spoken_beside_their_descriptors():
    part = example_part(DESCRIPTORS, 200)
    table = pa.Table.from_batches(part.read(part.schema.names)).to_pandas()
    edges = fit(table, DESCRIPTORS)
    captions = caption(table, edges, DESCRIPTORS)
    for row, spoken in zip(table.to_dict("records"), captions.to_dict("records"), strict=True):
        expected = []
        for descriptor in DESCRIPTORS:
            value, fitted = row[descriptor.column], edges.get(descriptor.name)
            if fitted:
                low, high, _ = bounds(fitted)
                value = "low" if value <= low else "normal" if value < high else "high"
            phrases = descriptor.phrases[value] if fitted else phrases_of(descriptor, value)
            expected += [(phrase, descriptor.name) for phrase in phrases]
        pairs = zip(spoken["captions"], spoken["caption_descriptors"], strict=True)
        assert list(pairs) == expected


def test_all_88_functionals_are_features_and_labels_are_kept():
    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
    labels = ["emotion", "speaker", "gender", "arousal", "split", "language", "fold"]
    table = make_table(**{name: ["low"] for name in [*labels, *smile.feature_names, "Duration"]})
    kept = caption(table, {}, [])
    assert len(smile.feature_names) == 88
    assert list(kept) == [*labels, "captions", "caption_descriptors"]
    known = [*table, "valence", "dominance", "corpus"]
    assert all(d.kind == "rule" or d.column in known for d in EXTENDED)


def test_descriptors_are_chosen_by_name_or_by_default():
    table = stream(make_corpus().drop(columns="valence"))
    default = [d.name for d in select_descriptors(table, None, DESCRIPTORS)]
    assert default == [
        d.name for d in DESCRIPTORS if d.name not in ("loudness", "valence", "corpus")
    ]
    chosen = select_descriptors(table, ["loudness", "pitch"], DESCRIPTORS)
    assert chosen == (BY_NAME["loudness"], PITCH)
    wrong = {"pich": "unknown descriptor 'pich'", "pitch": "twice", "valence": "column 'valence'"}
    for name, message in wrong.items():
        with pytest.raises(InputError, match=message):
            select_descriptors(table, ["pitch", name], DESCRIPTORS)


def test_rows_without_features_get_no_phrase_and_change_no_other_row():
    table = make_corpus(40)
    columns = [descriptor.column for descriptor in MEASURED]
    absent, missing = table.iloc[1:], table.copy()
    missing.loc[missing.index[0], columns] = None
    edges, chosen = fit(absent, MEASURED), MEASURED
    assert fit(missing, MEASURED) == edges
    captions = caption(missing, edges, chosen)
    assert as_lists(captions["captions"])[0] == []
    assert captions.iloc[0][[d.output_column for d in MEASURED]].isna().all()
    pd.testing.assert_frame_equal(captions.iloc[1:], caption(absent, edges, chosen))


def test_rule_holds_where_all_of_its_parts_do():
    breathy = BY_NAME["breathy"]
    noise, harmonic = (BY_NAME[name] for name in breathy.rule)
    pairs = [(low, high) for low in range(1, 13) for high in range(1, 13)] + [(0, 5), (5, 0)]
    table = make_table(
        **{noise.column: [p[0] for p in pairs], harmonic.column: [p[1] for p in pairs]}
    )
    edges = fit(table.astype(float), [breathy])
    assert set(edges) == {"noise", "first_harmonic"}
    captions = caption(table.astype(float), edges, [breathy])
    for (hnr, h1), level, phrases in zip(
        pairs, captions["breathy_level"], as_lists(captions["captions"]), strict=True
    ):
        holds = hnr <= bounds(edges["noise"])[0] and h1 >= bounds(edges["first_harmonic"])[1]
        expected = "present" if holds else "absent"
        assert pd.isna(level) if 0 in (hnr, h1) else level == expected
        assert phrases == (list(breathy.phrases["present"]) if level == "present" else [])
    assert captions["breathy_level"].value_counts().min() > 0


def test_rules_of_compared_levels_say_so():
    table = make_corpus(400)
    for column in (BY_NAME["noise"].column, BY_NAME["first_harmonic"].column):
        table[column] = np.random.default_rng(len(column)).uniform(1, 2, 400)
    edges = fit(table, [BY_NAME["breathy"]], comparisons=[GENDER])
    phrases = set(caption(table, edges, [BY_NAME["breathy"]])["captions"].explode().dropna())
    assert "voice quality is breathy for a woman" in phrases
    assert len(phrases) == 6


@pytest.mark.parametrize("joint", [1, 50, 4096])
def test_number_of_tables_looked_up_at_once_changes_nothing(monkeypatch, joint):
    monkeypatch.setattr("paraclap.captions.captions.JOINT", joint)
    table = make_corpus(400)
    table.loc[table.index[::5], VOICING_COLUMN] = 0.0
    features = stream(table)
    chosen = select_descriptors(features, None, DESCRIPTORS)
    found = survey(features, measured(chosen, DESCRIPTORS))
    captioner = Captioner(features, found, chosen, DESCRIPTORS, fit(table, chosen))
    rows = pa.Table.from_batches(list(captions_of(features, captioner))).to_pylist()
    assert captioner.different == len({tuple(row["captions"]) for row in rows})
    assert captioner.spoken == sum(len(row["captions"]) for row in rows)
    for row in rows:
        names = [d.name for d in chosen if row[d.output_column] not in (None, "no agreement")]
        expected = [
            (phrase, d.name)
            for d in chosen
            if d.name in names
            for phrase in phrases_of(d, row[d.output_column])
        ]
        assert list(zip(row["captions"], row["caption_descriptors"], strict=True)) == expected
