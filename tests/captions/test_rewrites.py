"""Rewrites of phrases by a program: which are used, and the file of answers."""

import json
import os
import shlex
import sys

import pandas as pd
import pytest

from paraclap.captions.program import run_program
from paraclap.captions.rewrites import Rewriting, values_of, with_rewrites
from paraclap.captions.templates import read_templates
from paraclap.captions.words import Meanings
from small_corpora import DESCRIPTORS, EXTENDED, make_corpus, run, write

SYNONYMS = """
import os, sys
with open({log!r}, "a") as log:
    log.write("run\\n")
for line in sys.stdin:
    seed, phrase = os.environ["PARACLAP_SEED"], line.rstrip("\\n")
    print(f"well {{seed}}, {{phrase}}" if "pitch is" in phrase or "angry" in phrase else "")
"""


def program(folder, text, name="rewrite.py"):
    (folder / name).write_text(text)
    return f"{shlex.quote(sys.executable)} {shlex.quote(str(folder / name))}"


def read_lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def meanings_of(templates, **labels):
    found = values_of(templates, labels, forms=True)
    return Meanings({meaning: phrases for meaning, (*_, phrases) in found.items()}), found


@pytest.mark.parametrize(
    "names",
    [
        ["paraclap", "extended"],
        ["paraclap", "extended", "five_levels"],
        ["published"],
    ],
)
def test_all_phrases_of_the_templates_pass_the_check(names):
    meanings, found = meanings_of(read_templates(names), emotion=["xyz"], corpus=["foo"])
    wrong = [
        (phrase, meanings.problem(phrase, meaning))
        for meaning, (*_, phrases) in found.items()
        for phrase in phrases
        if meanings.problem(phrase, meaning)
    ]
    assert len(found) > 30 and not wrong


PITCH, ANGER = ("pitch", "pitch is low"), ("emotion", "emotion is anger")
MEDIUM = ("intensity", "intensity is normal")


@pytest.mark.parametrize(
    ("meaning", "text", "problem"),
    [
        (PITCH, "This voice has a low pitch", None),
        (PITCH, "a rather deep voice", None),
        (PITCH, "a pleasant voice", "lacks"),
        (PITCH, "", "lacks"),
        (PITCH, "the pitch is high", "another meaning"),
        (PITCH, "the pitch is low, or high", "another meaning"),
        (PITCH, "the pitch is not low", "negates"),
        (PITCH, "it isn't a deep voice", "negates"),
        (PITCH, "the jitter is low", "another meaning"),
        (PITCH, "the pitch is low and the speaker is angry", "another meaning"),
        (("pitch_variation", "pitch variation is high"), "a high pitch", "another meaning"),
        (ANGER, "someone full of anger", None),
        (ANGER, "an upset speaker", "lacks"),
        (ANGER, "the speaker is coldly angry", "another meaning"),
        (ANGER, "angry and sad", "another meaning"),
        (ANGER, "the speaker hardly sounds angry", "negates"),
        (MEDIUM, "neither quiet nor loud", None),
        (MEDIUM, "talking at the usual volume", None),
        (MEDIUM, "quiet", "another meaning"),
    ],
)
def test_rewrites_keep_the_level_and_say_nothing_else(meaning, text, problem):
    found = meanings_of(EXTENDED)[0].problem(text, meaning)
    assert found is None if problem is None else problem in found


def test_very_is_part_of_the_level():
    meanings, _ = meanings_of(read_templates(["paraclap", "five_levels"]))
    low, very_low = ("pitch", "pitch is low"), ("pitch", "pitch is very low")
    assert meanings.problem("a very low pitch", very_low) is None
    assert meanings.problem("a low pitch", low) is None
    assert meanings.problem("a low pitch", very_low) and meanings.problem("a very low pitch", low)


def test_rewrites_are_wordings_of_their_level_and_are_requested_once(tmp_path, capsys):
    features, output = write(make_corpus(), tmp_path / "f.parquet"), tmp_path / "c.parquet"
    log, cache = tmp_path / "log", tmp_path / "c.rewrites.jsonl"
    command = program(tmp_path, SYNONYMS.format(log=str(log)))
    options = ["--rewrite", command, "--rewrite-seeds", 3, 4]
    assert run(features, "-o", output, *options) == 0
    assert "rewrites: 16 new wordings" in capsys.readouterr().out
    captions, plain = pd.read_parquet(output), tmp_path / "plain.parquet"
    assert run(features, "-o", plain) == 0
    for row, before in zip(captions.itertuples(), pd.read_parquet(plain).itertuples(), strict=True):
        pairs = [*zip(row.captions, row.caption_descriptors, strict=True)]
        new = [pair for pair in pairs if pair[0].startswith("well")]
        old = [*zip(before.captions, before.caption_descriptors, strict=True)]
        assert [pair for pair in pairs if pair not in new] == old
        level = f"pitch is {row.pitch_level}"
        assert (f"well 3, {level}", "pitch") in new and (f"well 4, {level}", "pitch") in new
        assert ("well 3, the speaker sounds angry" in dict(new)) == (row.emotion == "anger")
    rows = read_lines(cache)
    assert {row["seed"] for row in rows} == {3, 4} and {row["command"] for row in rows} == {command}
    first, runs = output.read_bytes(), log.read_text()
    assert run(features, "-o", output, *options) == 0
    assert output.read_bytes() == first and log.read_text() == runs
    assert run(features, "-o", output, *options, 5) == 0
    assert len(log.read_text()) > len(runs)


def test_comparisons_follow_the_rewrites(tmp_path):
    features, output = write(make_corpus(), tmp_path / "f.parquet"), tmp_path / "c.parquet"
    command = program(tmp_path, SYNONYMS.format(log=str(tmp_path / "log")))
    assert run(features, "-o", output, "--rewrite", command, "--edges-by", "gender") == 0
    phrases = set(pd.read_parquet(output)["captions"].explode())
    assert any(p.startswith("well 0, pitch is low ") and p.endswith("a woman") for p in phrases)
    assert not any("pitch is" in row["phrase"] and "woman" in row["phrase"]
                   for row in read_lines(tmp_path / "c.rewrites.jsonl"))  # fmt: skip


def test_rejected_rewrites_are_counted_and_shown(tmp_path, capsys):
    features, output = write(make_corpus(), tmp_path / "f.parquet"), tmp_path / "c.parquet"
    command = program(tmp_path, "import sys\nfor line in sys.stdin: print('pitch is high {x}')")
    assert run(features, "-o", output, "--rewrite", command) == 0
    shown = capsys.readouterr().out
    assert "rewrites: 0 new wordings" in shown and "has control characters or braces" in shown
    text = "import sys\nfor line in sys.stdin: print('a high pitch')"
    command = program(tmp_path, text, "other.py")
    assert run(features, "-o", output, "--rewrite", command) == 0
    shown = capsys.readouterr().out
    assert "rewrites: 1 new wordings" in shown and "has words of another meaning" in shown


def test_a_program_reads_lines_and_its_seed_without_a_shell(tmp_path):
    (tmp_path / "a b.py").write_text(
        "import os, sys\nprint(sys.argv[1:], os.environ['PARACLAP_SEED'])"
    )
    target = tmp_path / "made"
    command = f"{sys.executable} '{tmp_path}/a b.py' $HOME; touch {target} | cat > {target} *"
    expected = ["$HOME;", "touch", str(target), "|", "cat", ">", str(target), "*"]
    assert run_program(command, ["x"], 7, 60) == [f"{expected} 7"]
    assert not target.exists()
    assert run_program("cat", ["a", "ü b"], 0, 60) == ["a", "ü b"]
    assert os.environ.get("PARACLAP_SEED") is None


def test_descriptors_without_answers_are_unchanged(tmp_path):
    command = program(tmp_path, "import sys\nfor line in sys.stdin: print()")
    rewriting = Rewriting(command, tmp_path / "cache.jsonl")
    found, text = with_rewrites(
        DESCRIPTORS, DESCRIPTORS, {"emotion": ["anger", "angry"]}, rewriting
    )
    assert text.startswith("rewrites: 0 new wordings of")
    for before, after in zip(DESCRIPTORS, found, strict=True):
        general = {key: after.phrases[key] for key in before.phrases}
        assert general == before.phrases
