"""Captions: what they may say, from which evidence, and whether files come back as written."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import opensmile
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from preprocessing import template_creation as creation
from preprocessing.template_creation import LEVELS, VOICING_COLUMN, Edges, InputError

ROOT = Path(__file__).parents[1]
DESCRIPTORS = creation.default_descriptors()
EXTENDED = creation.read_templates(["paraclap", "extended"])
BY_NAME = {descriptor.name: descriptor for descriptor in EXTENDED}
MEASURED = [descriptor for descriptor in DESCRIPTORS if descriptor.kind == "level"]
LABELS = [descriptor for descriptor in DESCRIPTORS if descriptor.kind == "label"]
PITCH, JITTER, INTENSITY = BY_NAME["pitch"], BY_NAME["jitter"], BY_NAME["intensity"]
GENDER = creation.Comparison("gender", DESCRIPTORS)
CORPUS = creation.Comparison("corpus", DESCRIPTORS)


def make_table(**columns: list) -> pd.DataFrame:
    table = pd.DataFrame(columns)
    files = [f"a/{row:05d}.wav" for row in range(len(table))]
    start = pd.to_timedelta([0] * len(table), unit="s")
    end = pd.to_timedelta([pd.NaT] * len(table)).astype(start.dtype)
    table.index = pd.MultiIndex.from_arrays([files, start, end], names=creation.INDEX)
    return table


def join(*tables: pd.DataFrame) -> pd.DataFrame:
    """One table of other files, as a row may stand only once."""
    table = pd.concat(tables)
    return table.set_axis(make_table(row=range(len(table))).index)


def make_corpus(rows: int = 60, seed: int = 0) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    table = make_table(
        speaker=[f"{row % 6 + 1:02d}" for row in range(rows)],
        emotion=[["anger", "sad", "no agreement", "neutral"][row % 4] for row in range(rows)],
        gender=[["female", "male"][row % 2] for row in range(rows)],
        note=[["001", "NA", "nan", "1e5"][row % 4] for row in range(rows)],
    )
    for descriptor in MEASURED:
        table[descriptor.column] = generator.uniform(1, 2, rows).astype(np.float32)
    return table


def write(table: pd.DataFrame, path: Path) -> Path:
    table.to_parquet(path)
    return path


@pytest.fixture
def features(tmp_path: Path) -> Path:
    return write(make_corpus(), tmp_path / "features.parquet")


def run(*arguments: object) -> int:
    return creation.main([str(argument) for argument in arguments])


def stream(*tables: pd.DataFrame, **options) -> creation.Features:
    parts = [creation.open_table(pa.Table.from_pandas(table)) for table in tables]
    return creation.Features(parts, **options)


def fit(table, descriptors=None, quantiles=creation.QUANTILES, comparisons=(), templates=EXTENDED):
    features = stream(table)
    if descriptors is None:
        descriptors = creation.select_descriptors(features, None, templates)
    levels = creation.measured(descriptors, templates)
    found = creation.survey(features, levels, comparisons)
    return creation.fit_edges(features, found, levels, comparisons, quantiles)


def caption(table, edges, descriptors=None, templates=EXTENDED) -> pd.DataFrame:
    features = stream(table)
    if descriptors is None:
        descriptors = creation.select_descriptors(features, None, templates)
    by = dict.fromkeys(column for fitted in edges.values() for column in fitted.by)
    comparisons = [creation.Comparison(column, templates) for column in by]
    found = creation.survey(features, creation.measured(descriptors, templates), comparisons)
    captioner = creation.Captioner(features, found, descriptors, templates, edges)
    batches = list(creation.captions_of(features, captioner))
    frame = pa.Table.from_batches(batches, None if batches else captioner.schema).to_pandas()
    return frame.set_index(list(creation.INDEX))


def bounds(edges: Edges, *group: str) -> tuple:
    found = edges.groups[group]
    return found.low, found.high, found.n


def as_lists(column: pd.Series) -> list:
    return [[str(phrase) for phrase in phrases] for phrases in column]


def levels_of(table: pd.DataFrame, descriptor: creation.Descriptor) -> list:
    levels = caption(table, fit(table, [descriptor]), [descriptor])[descriptor.output_column]
    return [None if pd.isna(level) else level for level in levels]


def captions_of(table: pd.DataFrame, descriptors: list) -> list:
    return as_lists(caption(table, fit(table, descriptors), descriptors)["captions"])


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
    for rows in (10, 11, 997, creation.BATCH + 1):
        values = generator.lognormal(size=rows).astype(kind)
        expected = tuple(np.quantile(values.astype(np.float64), creation.QUANTILES).tolist())
        table = make_table(equivalentSoundLevel_dBp=values)
        assert bounds(fit(table, [INTENSITY])["intensity"]) == (*expected, rows)


def test_levels_include_their_edges():
    edges = {"intensity": Edges(INTENSITY.column, {(): creation.Bounds(2.0, 4.0, 10)})}
    values = [np.nextafter(2, 0), 2.0, np.nextafter(2, 3), 3.0, np.nextafter(4, 3), 4.0, 5.0]
    levels = caption(make_table(equivalentSoundLevel_dBp=values), edges)
    assert list(levels["intensity_level"]) == ["low"] * 2 + ["normal"] * 3 + ["high"] * 2


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
    captions = captions_of(broken, [INTENSITY])
    assert all(captions[:30]) and not any(captions[30:])


@pytest.mark.parametrize(
    "values",
    [[], [1.0] * 30, [np.nan] * 30, [1.0, 2.0, 3.0], list(range(9)), [0.0] + [1.0] * 28 + [2.0]],
    ids=["empty", "constant", "nan", "three", "nine", "tied"],
)
def test_without_evidence_there_is_a_warning_and_no_phrase(values):
    table = make_table(equivalentSoundLevel_dBp=np.asarray(values, dtype=float))
    with pytest.warns(UserWarning, match="intensity gets no phrase.*equivalentSoundLevel_dBp"):
        captions = captions_of(table, [INTENSITY])
    assert captions == [[]] * len(values)


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
    captions = captions_of(make_table(**{descriptor.column: values}), [descriptor])
    spoken = {phrase for caption in captions for phrase in caption}
    for wording in (wording for words in descriptor.phrases.values() for wording in words):
        pattern = re.sub(r"\\{\w+\\}", ".+", re.escape(wording))
        assert any(re.fullmatch(pattern, phrase) for phrase in spoken), wording


def test_wordings_are_distinct_clauses_with_paraphrases():
    wordings = [words for d in EXTENDED for words in d.phrases.values()]
    phrases = [phrase for words in wordings for phrase in words]
    assert min(map(len, wordings)) >= 3 and len(set(phrases)) == len(phrases)
    filled = [p for d in LABELS for label in d.forms for p in creation.phrases_of(d, label)]
    measured = [p for d in EXTENDED if d.kind != "label" for w in d.phrases.values() for p in w]
    for phrase in [*measured, *filled]:
        assert phrase == phrase.strip().strip(".")
        assert phrase[0].islower() and " and " not in phrase and "{" not in phrase


@pytest.mark.parametrize(
    ("name", "label", "first", "second"),
    [
        ("emotion", "anger", "emotion is anger", "the speaker sounds angry"),
        ("emotion", "Angry", "emotion is anger", "the speaker sounds angry"),
        ("emotion", "happy", "emotion is happiness", "the speaker feels happy"),
        ("emotion", "afraid", "emotion is fear", "the speaker feels fearful"),
        ("emotion", "pleasant_surprise", "emotion is pleasant surprise",
         "the speaker feels pleasantly surprised"),
        ("emotion", "neutral", "emotion is neutral", "the voice expresses no particular emotion"),
        ("emotion", "boredom", "emotion is boredom", "the voice expresses boredom"),
        ("emotion", "motherese", "emotion is motherese", "the speaker talks in motherese"),
        ("gender", "f", "gender is female", "the speaker is a woman"),
    ],
)  # fmt: skip
def test_nouns_and_adjectives_stand_where_they_belong(name, label, first, second):
    phrases = creation.phrases_of(BY_NAME[name], label)
    assert phrases[0] == first and second in phrases


@pytest.mark.parametrize("label", ["zest", "hot and cold", "*", "?", "{noun}", "überrascht", "7"])
def test_unknown_labels_are_quoted_as_they_are(label):
    phrases = creation.phrases_of(BY_NAME["emotion"], label)
    assert phrases[0] == f'emotion is labelled "{label}"'
    assert len(phrases) >= 3 and all(f'"{label}"' in phrase for phrase in phrases)


def test_labels_that_say_nothing_get_no_phrase():
    labels = ["sad", "no agreement", "No_Agreement", "X", "other", None, np.nan, ""]
    sad, *others = captions_of(make_table(emotion=labels), [BY_NAME["emotion"]])
    assert sad and not any(others)


def test_all_and_only_true_phrases_are_spoken_beside_their_descriptors():
    part = creation.example_part(DESCRIPTORS, 200)
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
            phrases = (
                descriptor.phrases[value] if fitted else creation.phrases_of(descriptor, value)
            )
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


def test_speakers_are_compared_as_text(features, tmp_path):
    options = ["--validation-speakers", "02", "--test-speakers", "01,03"]
    assert run(features, "-o", tmp_path / "captions.parquet", *options) == 0
    split = pd.read_parquet(tmp_path / "captions.parquet")
    found = dict(zip(split["speaker"], split["split"], strict=True))
    expected = dict.fromkeys(["04", "05", "06"], "train")
    assert found == {"01": "test", "02": "dev", "03": "test", **expected}


def test_impossible_splits_are_refused():
    for change, test, message in (
        ({}, ["1"], "no speaker '1', found 01, 02"),
        ({}, ["03", "02"], "02 are both"),
        ({"speaker": None}, ["01"], "column 'speaker' without missing"),
    ):
        table = make_corpus().assign(**change)
        with pytest.raises(InputError, match=message):
            creation.survey(stream(table, speakers={"dev": ["02"], "test": test}), [])
            stream(table, speakers={"dev": ["02"], "test": test}).check_names()


def test_filtered_emotions_are_gone_and_others_stay(tmp_path, capsys):
    table = make_corpus()
    table.iloc[0, table.columns.get_loc("emotion")] = None
    features, output = write(table, tmp_path / "f.parquet"), tmp_path / "captions.parquet"
    assert run(features, "-o", output, "--filter-emotions", "No_agreement,joy") == 0
    assert "no row has emotion 'joy'" in capsys.readouterr().err
    left = pd.read_parquet(output)
    assert left["emotion"].value_counts(dropna=False)["neutral"] == 15
    assert len(left) == 45 and left["emotion"].isna().sum() == 1


def test_descriptors_are_chosen_by_name_or_by_default():
    table = stream(make_corpus().drop(columns="valence"))
    default = [d.name for d in creation.select_descriptors(table, None, DESCRIPTORS)]
    assert default == [
        d.name for d in DESCRIPTORS if d.name not in ("loudness", "valence", "corpus")
    ]
    chosen = creation.select_descriptors(table, ["loudness", "pitch"], DESCRIPTORS)
    assert chosen == (BY_NAME["loudness"], PITCH)
    wrong = {"pich": "unknown descriptor 'pich'", "pitch": "twice", "valence": "column 'valence'"}
    for name, message in wrong.items():
        with pytest.raises(InputError, match=message):
            creation.select_descriptors(table, ["pitch", name], DESCRIPTORS)


def test_files_repeat_to_the_byte_and_nothing_else_is_left(features, tmp_path):
    names, contents = ["captions.edges.json", "captions.parquet"], []
    for folder in (tmp_path / "one", tmp_path / "two"):
        assert run(features, "-o", folder / "captions.parquet") == 0
        assert sorted(path.name for path in folder.iterdir()) == names
        contents.append([(folder / name).read_bytes() for name in names])
    assert contents[0] == contents[1]


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
    assert captions.index.equals(table.index) and captions.index.names == list(creation.INDEX)
    pd.testing.assert_frame_equal(captions[["note", "speaker"]], table[["note", "speaker"]])
    assert set(captions["split"]) == {"train", "test"}
    assert list(captions["pitch_level"].cat.categories) == list(LEVELS)
    metadata = pq.read_schema(output).metadata
    assert metadata[b"opensmile"] == b'{"version": "2.6.0"}'
    beside = json.loads((tmp_path / "captions.edges.json").read_text())
    assert json.loads(metadata[b"edges"]) == beside
    assert "emotion" in json.loads(metadata[b"templates"])


def test_edges_come_back_bit_for_bit_and_are_reused(features, tmp_path):
    table, edges = make_corpus(), tmp_path / "captions.edges.json"
    assert run(features, "-o", tmp_path / "captions.parquet") == 0
    fitted = fit(table, [d for d in MEASURED if d.default])
    assert creation.parse_edges(edges.read_text(), DESCRIPTORS) == fitted
    shifted = table.assign(equivalentSoundLevel_dBp=table["equivalentSoundLevel_dBp"] + 10)
    assert run(write(shifted, features), "-o", tmp_path / "b.parquet", "--edges", edges) == 0
    assert set(pd.read_parquet(tmp_path / "b.parquet")["intensity_level"]) == {"high"}
    assert (tmp_path / "b.edges.json").read_bytes() == edges.read_bytes()


def test_edges_without_groups_are_still_read():
    entry = {"column": INTENSITY.column, "low": "0.1", "high": "0.30000000000000004", "n": 10}
    old = {"format": 1, "descriptors": {"intensity": entry | {"quantiles": ["0.3", "0.7"]}}}
    edges = creation.parse_edges(json.dumps(old), DESCRIPTORS)
    assert edges == {
        "intensity": Edges(INTENSITY.column, {(): creation.Bounds(0.1, 0.1 + 0.2, 10)})
    }


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
    edges = {"intensity": Edges(INTENSITY.column, {(): creation.Bounds(2.0, 4.0, 10)})}
    content = creation.edges_to_dict(edges)
    assert creation.parse_edges(json.dumps(content), DESCRIPTORS) == edges
    with pytest.raises(InputError, match="unknown descriptor 'intensity'"):
        creation.parse_edges(json.dumps(content), [PITCH])
    with pytest.raises(InputError, match="format is 3"):
        creation.parse_edges(json.dumps(content | {"format": 3}), DESCRIPTORS)
    content["descriptors"]["intensity"].update(change)
    with pytest.raises(InputError, match=message):
        creation.parse_edges(json.dumps(content), DESCRIPTORS)


def test_templates_come_back_as_dumped_and_replace_the_table(tmp_path):
    assert creation.parse_templates(creation.dump_templates(EXTENDED)) == EXTENDED
    words = {"tone": PITCH.column, "tilt": "alphaRatioV_sma3nz_amean"}
    own = [
        creation.Descriptor(
            word, column, "level", {level: (f"{word} {level}",) for level in LEVELS}
        )
        for word, column in words.items()
    ]
    templates, output = tmp_path / "my.yaml", tmp_path / "captions.parquet"
    templates.write_text(creation.dump_templates(own))
    table = make_corpus().assign(alphaRatioV_sma3nz_amean=np.linspace(0, 1, 60))
    features = write(table, tmp_path / "f.parquet")
    assert run(features, "-o", output, "--templates", templates) == 0
    spoken = set(pd.read_parquet(output)["captions"].explode())
    assert spoken == {f"{word} {level}" for word in words for level in LEVELS}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("pitch", {"phrases": {"low": [], "hi": []}}, "pitch.*'hi'.*expected.*'high'"),
        ("pitch", {"phrases": {"low": "a"}}, "pitch: low: 'a', expected a list of texts"),
        ("pitch", {"colour": "red"}, "pitch: 'colour' unknown or lacking"),
        ("pitch", {"kind": "word"}, "pitch: kind is 'word'"),
        ("pitch", {"voiced": "yes"}, "pitch: 'yes', expected true or false"),
        ("emotion", {"phrases": {"*": ["{noun.__class__}"]}}, "emotion: .*noun.__class__"),
        ("emotion", {"phrases": {"*": ["{noun:>999999999}"]}}, "emotion: .*noun"),
        ("emotion", {"phrases": {"?": ["is {adjective}"]}}, "emotion: .*adjective"),
        ("emotion", {"phrases": {False: ["is no"]}}, "emotion: False, expected a text .in quotes"),
        ("emotion", {"forms": {"zest": {"noun": "zest"}}}, "emotion: .*zest.*adjective"),
    ],
)
def test_templates_that_do_not_fit_are_refused(name, change, message):
    entries = yaml.safe_load(creation.dump_templates(EXTENDED))
    entries[name] |= change
    with pytest.raises(InputError, match=message):
        creation.parse_templates(yaml.safe_dump(entries))


def test_templates_of_another_form_are_refused_and_execute_nothing(tmp_path):
    command = f"pitch: !!python/object/apply:os.mkdir [{tmp_path / 'x'}]"
    others = {"[pitch]": "mapping", "pitch: {kind: level}": "pitch: 'column', 'phrases' .*lacking"}
    for text, message in {command: "YAML", "pitch: 1": "pitch: 1, expected", **others}.items():
        with pytest.raises(InputError, match=message):
            creation.parse_templates(text)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("program", ["preprocessing/template_creation.py", "-m"])
def test_preview_runs_without_any_input(program):
    name = ["preprocessing.template_creation"] if program == "-m" else []
    command = [sys.executable, program, *name, "--preview", "5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == ""
    assert "example" in done.stdout and done.stdout.count("first wordings:") == 5


def test_summary_and_preview_are_printed_without_writing(features, tmp_path, capsys):
    assert run(features, "--preview", 3, "--descriptors", "pitch,emotion") == 0
    printed = capsys.readouterr().out
    assert "60 rows, 0 without any phrase" in printed and printed.count("paraphrased:") == 3
    assert re.search(r"^pitch +low 18, normal 24, high 18; normal: .* semitones", printed, re.M)
    assert re.search(r"^emotion +anger 15, neutral 15, no agreement 15, sad 15$", printed, re.M)
    assert list(tmp_path.iterdir()) == [features]


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "absent.parquet -o out.parquet",
        "features.parquet",
        "features.parquet -o features.parquet",
        "features.parquet -o out.parquet --quantiles 0.7 0.3",
        "features.parquet -o out.parquet --test-speakers 99",
        "features.parquet -o out.parquet --filter-emotions sad,anger,neutral,no_agreement",
        "features.parquet -o out.parquet --edges broken.txt",
        "features.parquet -o out.parquet --templates broken.txt",
        "broken.txt -o out.parquet",
        "captions.parquet -o out.parquet",
    ],
)
def test_mistakes_end_with_one_sentence_and_no_output(features, monkeypatch, capsys, arguments):
    monkeypatch.chdir(features.parent)
    run("features.parquet", "-o", "captions.parquet")
    Path("broken.txt").write_text("not: [closed")
    before = features.read_bytes()
    capsys.readouterr()
    assert run(*arguments.split()) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if not line.startswith("warning: ")] == lines[-1:]
    assert lines[-1].startswith("error: ")
    assert not Path("out.parquet").exists() and features.read_bytes() == before


def test_failed_write_leaves_the_previous_file_whole(features, tmp_path, monkeypatch):
    output = tmp_path / "captions.parquet"
    assert run(features, "-o", output) == 0
    before = output.read_bytes()

    edges = (tmp_path / "captions.edges.json").read_bytes()

    def fail(writer, batch, size):
        raise OSError("disk is full")

    monkeypatch.setattr(creation.pq.ParquetWriter, "write_batch", fail)
    assert run(features, "-o", output, "--descriptors", "pitch") == 1
    assert output.read_bytes() == before
    assert (tmp_path / "captions.edges.json").read_bytes() == edges
    assert not list(tmp_path.glob(".*"))


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


def test_60000_rows_repeat_to_the_byte_and_shuffled_ones_row_by_row(tmp_path):
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


def test_size_of_batches_changes_nothing(tmp_path, monkeypatch):
    table = make_corpus(100)
    table.iloc[3, table.columns.get_loc("gender")] = None
    features, tables = write(table, tmp_path / "f.parquet"), []
    for size in (creation.BATCH, 7):
        monkeypatch.setattr(creation, "BATCH", size)
        output = tmp_path / f"{size}.parquet"
        options = ["--edges-by", "gender", "--filter-emotions", "sad", "--test-speakers", "01"]
        assert run(features, "-o", output, *options) == 0
        tables.append(pd.read_parquet(output))
        assert pq.ParquetFile(output).metadata.num_row_groups == -(-100 // size)
    pd.testing.assert_frame_equal(*tables)
    assert list(tables[1]["pitch_level"].cat.categories) == list(LEVELS)


def test_other_columns_pass_through_as_they_are(tmp_path):
    table = make_corpus(30)
    table["quality"] = ["clipped", None, "ok; truncated"] * 10
    table["fold"], table["sure"] = np.arange(30), [True, False, None] * 10
    table["kind"] = pd.Categorical(["b", "a", None] * 10, ["c", "b", "a"], ordered=True)
    output = tmp_path / "captions.parquet"
    assert run(write(table, tmp_path / "f.parquet"), "-o", output) == 0
    names = ["quality", "fold", "sure", "kind"]
    pd.testing.assert_frame_equal(pd.read_parquet(output)[names], table[names])


# --- several tables ---


def make_corpora(folder: Path) -> list[Path]:
    paths = []
    for seed, name in enumerate(("one", "two")):
        table = make_corpus(40, seed)
        table[INTENSITY.column] += 100 * seed
        stored = pa.Table.from_pandas(table)
        about = json.dumps({"name": name, "corpus": name, "root": f"/data/{name}"}).encode()
        metadata = {**stored.schema.metadata, b"paraclap": about}
        paths.append(folder / f"{name}.parquet")
        pq.write_table(stored.replace_schema_metadata(metadata), paths[-1])
    return paths


def test_several_tables_are_told_apart_by_their_corpus(tmp_path):
    one, two = make_corpora(tmp_path)  # with the same names of files
    output = tmp_path / "out" / "captions.parquet"
    assert run(one, two, "-o", output) == 0
    captions = pd.read_parquet(output)
    assert list(captions["corpus"]) == ["one"] * 40 + ["two"] * 40
    assert set(captions["intensity_level"][:40]) <= {"low", "normal"}
    about = json.loads(pq.read_schema(output).metadata[b"paraclap"])
    assert about["corpora"]["two"]["root"] == "/data/two"
    assert run(one, two, "-o", output, "--edges-by", "corpus") == 0
    captions = pd.read_parquet(output)
    for part in (captions[:40], captions[40:]):
        assert part["intensity_level"].value_counts()[["low", "high"]].tolist() == [12, 12]
    assert 'intensity is high within the corpus "two"' in captions["captions"][40:].explode().array


def test_row_that_stands_twice_is_refused(tmp_path, capsys):
    one, _ = make_corpora(tmp_path)
    assert run(one, one, "-o", tmp_path / "out" / "captions.parquet") == 1
    assert "stands twice in the features: file a/00000.wav" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    table = make_corpus(40)
    later = table.reset_index().assign(start=pd.Timedelta(1, "s")).set_index([*creation.INDEX])
    assert len(caption(pd.concat([table, later]), {})) == 80  # another segment of a file


def test_equal_hashes_of_different_rows_are_looked_at_again(monkeypatch):
    table = make_corpus(40)
    equal = lambda batch, _: np.zeros(len(batch), np.uint64)  # noqa: E731
    monkeypatch.setattr(creation, "_hash_rows", equal)
    assert len(caption(table, {})) == 40
    with pytest.raises(InputError, match="a/00007.wav"):
        caption(pd.concat([table, table.iloc[7:8]]), {})


def test_hashes_tell_names_of_files_apart():
    names = [f"a/{row:05d}.wav" for row in range(20_000)] + ["", "a", "b", "ab", "ba", "\0", "ü"]
    hashes = creation._hash_texts(pa.array(names).slice(5))
    assert len(set(hashes.tolist())) == len(names) - 5
    assert (creation._hash_texts(pa.array(names[5:]).dictionary_encode()) == hashes).all()


def test_folder_of_tables_is_one_table(tmp_path):
    table, folder = make_corpus(90), tmp_path / "features"
    folder.mkdir()
    for part in range(3):
        rows = table.iloc[30 * part : 30 * part + 30]
        write(rows.drop(columns=["note"] if part == 1 else []), folder / f"part-{part}.parquet")
    output = tmp_path / "captions.parquet"
    assert run(folder, "-o", output) == 0
    captions = pd.read_parquet(output)
    assert captions["note"].isna().sum() == 30
    assert run(write(table, tmp_path / "f.parquet"), "-o", output) == 0
    pd.testing.assert_series_equal(captions["captions"], pd.read_parquet(output)["captions"])
    assert run(folder, "-o", folder / "captions.parquet") == 1
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty", "-o", output) == 1


def test_table_without_the_named_column_keeps_its_rows_or_is_refused(tmp_path, capsys):
    one, two = tmp_path / "one.parquet", tmp_path / "two.parquet"
    write(make_corpus(40), one)
    write(make_corpus(40).drop(columns=["emotion", "speaker"]), two)
    output = tmp_path / "captions.parquet"
    assert run(one, two, "-o", output, "--filter-emotions", "sad") == 0
    assert pd.read_parquet(output)["corpus"].value_counts().to_dict() == {"two": 40, "one": 30}
    assert run(one, two, "-o", output, "--test-speakers", "01") == 1
    assert "column 'speaker' without missing values" in capsys.readouterr().err


def test_types_that_do_not_fit_together_are_refused():
    with pytest.raises(InputError, match="'gender' is int64 in table, large_string before"):
        stream(make_corpus(), make_corpus().assign(gender=1))


# --- edges within groups ---


def test_edges_of_a_group_are_the_quantiles_of_its_rows():
    table = make_corpus(200)
    table["gender"] = ["female", "F", "male", "woman", "unknown"] * 40
    edges = fit(table, MEASURED, comparisons=[GENDER])
    women = table["gender"].isin(["female", "F", "woman"])
    assert set(edges["pitch"].groups) == {("woman",), ("man",)}
    for group, rows in (("woman", women), ("man", table["gender"] == "male")):
        values = table[rows][PITCH.column].astype(float)
        expected = (*np.quantile(values, creation.QUANTILES), len(values))
        assert bounds(edges["pitch"], group) == expected
    assert edges["pitch"].by == ("gender",)
    assert edges["duration"].by == () and edges["arousal"].by == ()


def test_phrases_say_within_which_group_they_hold():
    table = make_corpus(60)
    table[PITCH.column] += np.where(table["gender"] == "female", 50, 0).astype(np.float32)
    plain = set(captions_of(table, [PITCH])[1])
    assert plain & {"pitch is low"}  # every man
    captions = caption(table, fit(table, [PITCH], comparisons=[GENDER]), [PITCH])
    women, men = captions[captions["gender"] == "female"], captions[captions["gender"] == "male"]
    for rows, noun, adjective in ((women, "woman", "female"), (men, "man", "male")):
        assert rows["pitch_level"].value_counts().to_dict() == {"normal": 12, "low": 9, "high": 9}
        high = rows[rows["pitch_level"] == "high"]["captions"].iloc[0]
        assert list(high) == [
            f"pitch is high for a {noun}",
            f"the voice is high-pitched by the standards of {adjective} speakers",
            f"the speaker talks in a high voice compared with other {adjective} speakers",
        ]


def test_first_wordings_tell_all_groups_apart():
    table = make_corpus(400)
    table["gender"] = ["female", "male", "girl", "diverse"] * 100
    table["corpus"] = np.repeat(["one", "two"], 200)
    for comparisons, groups in (([GENDER], 4), ([CORPUS], 2), ([CORPUS, GENDER], 8)):
        edges = fit(table, [PITCH], comparisons=comparisons)
        captions = caption(table, edges, [PITCH])
        firsts = {phrases[0] for phrases in captions["captions"]}
        assert len(edges["pitch"].groups) == groups and len(firsts) == 3 * groups
    assert 'pitch is low within the corpus "one" for a girl' in firsts
    assert 'pitch is low within the corpus "two" for the gender "diverse"' in firsts


def test_any_label_column_can_be_compared_within():
    table = make_corpus(90)
    speaker = creation.Comparison("speaker", DESCRIPTORS)
    captions = caption(table, fit(table, [PITCH], comparisons=[speaker]), [PITCH])
    phrases = set(captions["captions"].explode())
    assert 'pitch is low within speaker "03"' in phrases
    assert len(phrases) == 6 * 3 * 3


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


# --- rules and tables ---


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


def test_tables_are_joined_in_their_order(tmp_path):
    with pytest.raises(InputError, match="creaky.*'pitch', which extended lacks"):
        creation.read_templates(["extended"])
    names = [descriptor.name for descriptor in DESCRIPTORS]
    assert [d.name for d in EXTENDED][: len(names)] == names
    own = tmp_path / "own.yaml"
    own.write_text(creation.dump_templates([PITCH]).replace("pitch is low", "pitch is deep"))
    joined = creation.read_templates(["paraclap", str(own)])
    assert [d.name for d in joined] == names
    assert joined[0].phrases["low"][0] == "pitch is deep" and joined[1:] == DESCRIPTORS[1:]


# --- picture ---


def test_shares_in_the_picture_are_those_of_the_captions():
    table = make_corpus(200)
    table[INTENSITY.column] += np.where(table["emotion"] == "sad", 0.2, 0).astype(np.float32)
    features = stream(table)
    chosen = [INTENSITY]
    found = creation.survey(features, chosen)
    captioner = creation.Captioner(features, found, chosen, EXTENDED, fit(table, chosen))
    frame = pa.Table.from_batches(list(creation.captions_of(features, captioner))).to_pandas()
    shares, emotions, columns = creation._shares(captioner)
    assert emotions == ["all rows", "anger", "neutral", "sadness"]
    assert columns == [("intensity", level) for level in LEVELS]
    levels = frame["intensity_level"].astype(str)
    expected = pd.crosstab(frame["emotion"], levels, normalize="index")[list(LEVELS)]
    np.testing.assert_allclose(shares[1:], expected.loc[["anger", "neutral", "sad"]])
    np.testing.assert_allclose(shares[0], [0.3, 0.4, 0.3], atol=0.01)


@pytest.mark.parametrize("options", ["", "--edges-by gender"])
def test_picture_is_drawn(features, tmp_path, options):
    picture = tmp_path / "new" / "edges.png"
    assert run(features, "--plot", picture, *options.split()) == 0
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 10_000
    assert [path.name for path in picture.parent.iterdir()] == ["edges.png"]
    assert run(features, "--plot", tmp_path / "edges.txt") == 1
    assert run(features, "--plot", tmp_path / "b.png", "--descriptors", "emotion") == 1
    assert not (tmp_path / "b.png").exists()


def test_table_without_rows_still_becomes_a_file(features, tmp_path):
    output = tmp_path / "captions.parquet"
    with pytest.warns(UserWarning):
        fit(make_corpus().iloc[:0])
    assert run(write(make_corpus().iloc[:0], features), "-o", output, "--preview", 2) == 0
    assert str(pq.read_schema(output).field("captions").type) == "list<element: string>"
