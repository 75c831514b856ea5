"""Templates, and the phrases for levels, labels and groups."""

import numpy as np
import pandas as pd
import pytest
import yaml

from paraclap.captions.templates import (
    LEVELS,
    Comparison,
    Descriptor,
    InputError,
    dump_templates,
    parse_templates,
    phrases_of,
    read_templates,
    select_descriptors,
)
from paraclap.files import parse_yaml
from small_corpora import (
    BY_NAME,
    CORPUS,
    DESCRIPTORS,
    EXTENDED,
    GENDER,
    LABELS,
    PITCH,
    caption,
    fit,
    make_corpus,
    make_table,
    phrases_by_row,
    run,
    write,
)


def test_dumped_templates_parse_to_the_same_descriptors_and_replace_the_default(tmp_path):
    assert parse_templates(parse_yaml(dump_templates(EXTENDED))) == EXTENDED
    names = {"tone": PITCH.column, "tilt": "alphaRatioV_sma3nz_amean"}
    own = [
        Descriptor(word, column, "level", {level: (f"{word} {level}",) for level in LEVELS})
        for word, column in names.items()
    ]
    templates, output = tmp_path / "my.yaml", tmp_path / "captions.parquet"
    templates.write_text(dump_templates(own))
    table = make_corpus().assign(alphaRatioV_sma3nz_amean=np.linspace(0, 1, 60))
    features = write(table, tmp_path / "f.parquet")
    assert run(features, "-o", output, "--templates", templates) == 0
    found = set(pd.read_parquet(output)["captions"].explode())
    assert found == {f"{word} {level}" for word in names for level in LEVELS}


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
def test_invalid_fields_raise_with_the_descriptor(name, change, message):
    entries = yaml.safe_load(dump_templates(EXTENDED))
    entries[name] |= change
    with pytest.raises(InputError, match=message):
        parse_templates(entries)


def test_other_yaml_raises_and_executes_nothing(tmp_path):
    command, path = f"pitch: !!python/object/apply:os.mkdir [{tmp_path / 'x'}]", tmp_path / "t.yaml"
    others = {"[pitch]": "mapping", "pitch: {kind: level}": "pitch: 'column', 'phrases' .*lacking"}
    for text, message in {command: "tag", "pitch: 1": "pitch: 1, expected", **others}.items():
        with pytest.raises(InputError, match=message):
            path.write_text(text)
            read_templates([path])
    assert not (tmp_path / "x").exists()


def test_template_tables_are_joined_in_order(tmp_path):
    with pytest.raises(InputError, match="creaky.*'pitch', which extended lacks"):
        read_templates(["extended"])
    names = [descriptor.name for descriptor in DESCRIPTORS]
    assert [d.name for d in EXTENDED][: len(names)] == names
    own = tmp_path / "own.yaml"
    own.write_text(dump_templates([PITCH]).replace("pitch is low", "pitch is deep"))
    joined = read_templates(["paraclap", str(own)])
    assert [d.name for d in joined] == names
    assert joined[0].phrases["low"][0] == "pitch is deep" and joined[1:] == DESCRIPTORS[1:]


def test_entries_with_phrases_alone_add_wordings(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text(
        "pitch: {phrases: {low: [the pitch is down]}}\n"
        "emotion: {phrases: {anger: ['this is {noun}'], purple: [the mood is purple]}}\n"
    )
    joined = {d.name: d for d in read_templates(["paraclap", str(own)])}
    before = {d.name: d for d in DESCRIPTORS}
    expected = {("pitch", "low"): "the pitch is down", ("pitch", "high"): None,
                ("emotion", "anger"): "this is anger", ("emotion", "Angry"): "this is anger",
                ("emotion", "purple"): "the mood is purple", ("emotion", "sad"): None,
                ("emotion", "furious"): None}  # fmt: skip
    for (name, value), new in expected.items():
        known = phrases_of(before[name], value)
        assert phrases_of(joined[name], value) == (*known, *([new] if new else []))
    with pytest.raises(InputError, match="pitch: phrases alone add to .* templates before.* none"):
        read_templates([str(own)])
    own.write_text("pitch: {phrases: {very low: [pitch is very low]}}")
    with pytest.raises(InputError, match="expected.*'very high'"):
        read_templates(["paraclap", str(own)])


def test_descriptors_are_selected_by_name_or_by_default():
    columns = list(make_corpus().drop(columns="valence"))
    default = [d.name for d in select_descriptors(DESCRIPTORS, columns)]
    assert default == [
        d.name for d in DESCRIPTORS if d.name not in ("loudness", "valence", "corpus")
    ]
    chosen = select_descriptors(DESCRIPTORS, columns, ["loudness", "pitch"])
    assert chosen == (BY_NAME["loudness"], PITCH)
    wrong = {"pich": "unknown descriptor 'pich'", "pitch": "twice", "valence": "column 'valence'"}
    for name, message in wrong.items():
        with pytest.raises(InputError, match=message):
            select_descriptors(DESCRIPTORS, columns, ["pitch", name])


# --- Phrases


def test_phrases_are_distinct_clauses_with_paraphrases():
    wordings = [words for d in EXTENDED for words in d.phrases.values()]
    phrases = [phrase for words in wordings for phrase in words]
    assert min(map(len, wordings)) >= 3 and len(set(phrases)) == len(phrases)
    filled = [p for d in LABELS for label in d.forms for p in phrases_of(d, label)]
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
def test_phrases_use_the_noun_and_adjective_of_a_label(name, label, first, second):
    phrases = phrases_of(BY_NAME[name], label)
    assert phrases[0] == first and second in phrases


@pytest.mark.parametrize("label", ["zest", "hot and cold", "*", "?", "{noun}", "überrascht", "7"])
def test_unknown_labels_are_quoted(label):
    phrases = phrases_of(BY_NAME["emotion"], label)
    assert phrases[0] == f'emotion is labelled "{label}"'
    assert len(phrases) >= 3 and all(f'"{label}"' in phrase for phrase in phrases)


def test_no_label_values_get_no_phrase():
    labels = ["sad", "no agreement", "No_Agreement", "X", "other", None, np.nan, ""]
    sad, *others = phrases_by_row(make_table(emotion=labels), [BY_NAME["emotion"]])
    assert sad and not any(others)


def test_compared_phrases_name_their_group():
    table = make_corpus(60)
    table[PITCH.column] += np.where(table["gender"] == "female", 50, 0).astype(np.float32)
    plain = set(phrases_by_row(table, [PITCH])[1])
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


def test_first_wordings_are_distinct_between_groups():
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


def test_any_label_column_can_define_groups():
    table = make_corpus(90)
    speaker = Comparison("speaker", DESCRIPTORS)
    captions = caption(table, fit(table, [PITCH], comparisons=[speaker]), [PITCH])
    phrases = set(captions["captions"].explode())
    assert 'pitch is low within speaker "03"' in phrases
    assert len(phrases) == 6 * 3 * 3
