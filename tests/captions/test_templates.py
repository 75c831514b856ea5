"""Tables of descriptors: read, replaced and refused."""

import numpy as np
import pandas as pd
import pytest
import yaml

from paraclap.captions.input_errors import InputError
from paraclap.captions.templates import (
    LEVELS,
    Descriptor,
    dump_templates,
    parse_templates,
    read_templates,
)
from small_corpora import DESCRIPTORS, EXTENDED, PITCH, make_corpus, run, write


def test_templates_come_back_as_dumped_and_replace_the_table(tmp_path):
    assert parse_templates(dump_templates(EXTENDED)) == EXTENDED
    words = {"tone": PITCH.column, "tilt": "alphaRatioV_sma3nz_amean"}
    own = [
        Descriptor(word, column, "level", {level: (f"{word} {level}",) for level in LEVELS})
        for word, column in words.items()
    ]
    templates, output = tmp_path / "my.yaml", tmp_path / "captions.parquet"
    templates.write_text(dump_templates(own))
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
    entries = yaml.safe_load(dump_templates(EXTENDED))
    entries[name] |= change
    with pytest.raises(InputError, match=message):
        parse_templates(yaml.safe_dump(entries))


def test_templates_of_another_form_are_refused_and_execute_nothing(tmp_path):
    command = f"pitch: !!python/object/apply:os.mkdir [{tmp_path / 'x'}]"
    others = {"[pitch]": "mapping", "pitch: {kind: level}": "pitch: 'column', 'phrases' .*lacking"}
    for text, message in {command: "YAML", "pitch: 1": "pitch: 1, expected", **others}.items():
        with pytest.raises(InputError, match=message):
            parse_templates(text)
    assert not (tmp_path / "x").exists()


def test_tables_are_joined_in_their_order(tmp_path):
    with pytest.raises(InputError, match="creaky.*'pitch', which extended lacks"):
        read_templates(["extended"])
    names = [descriptor.name for descriptor in DESCRIPTORS]
    assert [d.name for d in EXTENDED][: len(names)] == names
    own = tmp_path / "own.yaml"
    own.write_text(dump_templates([PITCH]).replace("pitch is low", "pitch is deep"))
    joined = read_templates(["paraclap", str(own)])
    assert [d.name for d in joined] == names
    assert joined[0].phrases["low"][0] == "pitch is deep" and joined[1:] == DESCRIPTORS[1:]
