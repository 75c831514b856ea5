"""Captions of feature tables, and their file."""

import errno
import json
import re

import numpy as np
import opensmile
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from paraclap.captions.edges import Bounds, Edges
from paraclap.captions.levels import VOICING_COLUMN
from paraclap.captions.sources import INDEX, example_source
from paraclap.captions.templates import LEVELS, InputError, phrases_of
from small_corpora import (
    BY_NAME,
    DESCRIPTORS,
    EXTENDED,
    GENDER,
    INTENSITY,
    MEASURED,
    as_lists,
    bounds,
    caption,
    captioner_of,
    fit,
    levels_of,
    make_corpus,
    make_table,
    phrases_by_row,
    run,
    write,
)


def test_levels_include_their_edges():
    edges = {"intensity": Edges(INTENSITY.column, {(): Bounds((2.0, 4.0), 10)})}
    values = [np.nextafter(2, 0), 2.0, np.nextafter(2, 3), 3.0, np.nextafter(4, 3), 4.0, 5.0]
    levels = caption(make_table(equivalentSoundLevel_dBp=values), edges)
    assert list(levels["intensity_level"]) == ["low"] * 2 + ["normal"] * 3 + ["high"] * 2


def test_captions_do_not_depend_on_the_row_order():
    table = make_corpus(500)
    shuffled = table.sample(frac=1, random_state=1)
    edges = fit(table)
    assert fit(shuffled) == edges
    again = caption(shuffled, edges).sort_index()
    pd.testing.assert_frame_equal(caption(table, edges), again)


def test_columns_of_levels_are_kept():
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
    found = {phrase for caption in captions for phrase in caption}
    for wording in (wording for words in descriptor.phrases.values() for wording in words):
        pattern = re.sub(r"\\{\w+\\}", ".+", re.escape(wording))
        assert any(re.fullmatch(pattern, phrase) for phrase in found), wording


def test_captions_are_all_phrases_that_hold_with_their_descriptors():
    source = example_source(DESCRIPTORS, 200)
    table = pa.Table.from_batches(source.read(source.schema.names)).to_pandas()
    edges = fit(table, DESCRIPTORS)
    captions = caption(table, edges, DESCRIPTORS)
    for row, written in zip(table.to_dict("records"), captions.to_dict("records"), strict=True):
        expected = []
        for descriptor in DESCRIPTORS:
            value, fitted = row[descriptor.column], edges.get(descriptor.name)
            if fitted:
                low, high, _ = bounds(fitted)
                value = "low" if value <= low else "normal" if value < high else "high"
            phrases = descriptor.phrases[value] if fitted else phrases_of(descriptor, value)
            expected += [(phrase, descriptor.name) for phrase in phrases]
        pairs = zip(written["captions"], written["caption_descriptors"], strict=True)
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


def test_rows_without_features_get_no_phrase_and_do_not_change_others():
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


def test_rule_holds_where_all_of_its_levels_do():
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


def test_rules_of_compared_levels_name_the_group():
    table = make_corpus(400)
    for column in (BY_NAME["noise"].column, BY_NAME["first_harmonic"].column):
        table[column] = np.random.default_rng(len(column)).uniform(1, 2, 400)
    edges = fit(table, [BY_NAME["breathy"]], comparisons=[GENDER])
    phrases = set(caption(table, edges, [BY_NAME["breathy"]])["captions"].explode().dropna())
    assert "voice quality is breathy for a woman" in phrases
    assert len(phrases) == 6


def test_statistics_count_phrases_and_different_captions():
    table = make_corpus(400)
    table.loc[table.index[::5], VOICING_COLUMN] = 0.0
    captioner = captioner_of(table, fit(table))
    rows = pa.Table.from_batches(list(captioner.batches())).to_pylist()
    statistics = captioner.statistics
    assert statistics.different == len({tuple(row["captions"]) for row in rows})
    assert statistics.phrases == sum(len(row["captions"]) for row in rows)
    assert statistics.rows == 400 and statistics.empty == 0


# --- File


def test_files_repeat_to_the_byte_without_temporary_files(features, tmp_path):
    names, contents = ["captions.edges.json", "captions.parquet"], []
    for folder in (tmp_path / "one", tmp_path / "two"):
        assert run(features, "-o", folder / "captions.parquet") == 0
        assert sorted(path.name for path in folder.iterdir()) == names
        contents.append([(folder / name).read_bytes() for name in names])
    assert contents[0] == contents[1]


def test_large_files_repeat_to_the_byte_and_shuffled_ones_row_by_row(tmp_path):
    table, files = make_corpus(60_000), []
    orders = [table, table, table.sample(frac=1, random_state=1)]
    for number, rows in enumerate(orders):
        output = tmp_path / str(number) / "captions.parquet"
        features = write(rows, tmp_path / f"features{number}.parquet")
        assert run(features, "-o", output, "--test-speakers", "01") == 0
        files.append([output.read_bytes(), output.with_name("captions.edges.json").read_bytes()])
    assert files[0] == files[1] and files[0][0] != files[2][0]
    assert json.loads(files[0][1]) == json.loads(files[2][1])
    first, shuffled = (
        pq.read_table(tmp_path / name / "captions.parquet").sort_by("file") for name in "02"
    )
    assert first.equals(shuffled)


def test_files_carry_index_labels_levels_and_metadata(features, tmp_path):
    table, output = make_corpus(), tmp_path / "captions.parquet"
    columns = write(table.reset_index(), tmp_path / "columns.parquet")
    stored = pq.read_table(features)
    metadata = {**stored.schema.metadata, b"opensmile": b'{"version": "2.6.0"}'}
    pq.write_table(stored.replace_schema_metadata(metadata), features)
    assert run(features, "-o", output, "--test-speakers", "05,06") == 0
    captions = pd.read_parquet(output)
    assert run(columns, "-o", output, "--test-speakers", "05,06") == 0
    pd.testing.assert_frame_equal(pd.read_parquet(output), captions)
    assert run(features, "-o", output, "--test-speakers", "05,06") == 0
    assert captions.index.equals(table.index) and captions.index.names == list(INDEX)
    pd.testing.assert_frame_equal(captions[["note", "speaker"]], table[["note", "speaker"]])
    assert set(captions["split"]) == {"train", "test"}
    assert list(captions["pitch_level"].cat.categories) == list(LEVELS)
    metadata = pq.read_schema(output).metadata
    assert metadata[b"opensmile"] == b'{"version": "2.6.0"}'
    beside = json.loads((tmp_path / "captions.edges.json").read_text())
    assert json.loads(metadata[b"edges"]) == beside
    assert "emotion" in json.loads(metadata[b"templates"])


def test_failed_write_keeps_the_previous_files(features, tmp_path, monkeypatch):
    output = tmp_path / "captions.parquet"
    assert run(features, "-o", output) == 0
    before = output.read_bytes()

    edges = (tmp_path / "captions.edges.json").read_bytes()

    def fail(writer, batch, size):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_batch", fail)
    assert run(features, "-o", output, "--descriptors", "pitch") == 1
    assert output.read_bytes() == before
    assert (tmp_path / "captions.edges.json").read_bytes() == edges
    assert not list(tmp_path.glob(".*"))


def test_other_columns_are_copied(tmp_path):
    table = make_corpus(30)
    table["quality"] = ["clipped", None, "ok; truncated"] * 10
    table["fold"], table["sure"] = np.arange(30), [True, False, None] * 10
    table["kind"] = pd.Categorical(["b", "a", None] * 10, ["c", "b", "a"], ordered=True)
    output = tmp_path / "captions.parquet"
    assert run(write(table, tmp_path / "f.parquet"), "-o", output) == 0
    names = ["quality", "fold", "sure", "kind"]
    pd.testing.assert_frame_equal(pd.read_parquet(output)[names], table[names])


def test_empty_table_is_refused(features, tmp_path, capsys):
    output = tmp_path / "captions.parquet"
    assert run(write(make_corpus().iloc[:0], features), "-o", output, "--preview", 2) == 1
    assert "features.parquet has no rows" in capsys.readouterr().err and not output.exists()


@pytest.mark.parametrize("column", ["emotion", "gender"])
def test_labels_without_words_are_counted_in_one_warning(tmp_path, capsys, column):
    names = {"emotion": ["Ang", "scared!", 0, "neutral"], "gender": ["f", "queer", "m", "ok"]}
    odd = {"emotion": "'0' 15, 'ang' 15, 'scared!' 15", "gender": "'ok' 15, 'queer' 15"}
    table = make_corpus(60).assign(**{column: [str(name) for name in names[column]] * 15})
    assert run(write(table, tmp_path / "f.parquet"), "-o", tmp_path / "c.parquet") == 0
    warned = [line for line in capsys.readouterr().err.splitlines() if "no words" in line]
    assert len(warned) == 1 and warned[0].startswith(
        f"warning: the templates have no words for {column}"
    )
    for label in odd[column].split(", "):
        assert label in warned[0]
    assert "neutral" not in warned[0] and "female" not in warned[0]
