"""More wordings of phrases from a program of the user's, such as a language model.

    descriptors, summary = with_rewrites(descriptors, labels, Rewriting(command, cache))

Each distinct phrase is rewritten once for each seed. Rewrites are checked (`words.Meanings`) and
become wordings of the templates. The answers are kept in a file, so that a command that was
interrupted goes on where it stopped, and that the same captions are made again without the program.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from paraclap.captions.program import ProgramError, run_program
from paraclap.captions.templates import (
    LISTED,
    UNLISTED,
    Descriptor,
    InputError,
    add_phrases,
    phrases_of,
)
from paraclap.captions.words import Meaning, Meanings
from paraclap.files import reading, write_text
from paraclap.locks import lock

BATCH = 64  # phrases for one start of the program
LONGEST = 300  # characters of a rewrite
SHOWN = 3  # rejected rewrites in the summary
KEYS = ("command", "seed", "phrase", "rewrite")

Values = dict[Meaning, tuple[Descriptor, str, tuple[str, ...]]]
"""Meaning -> descriptor, level or label, and phrases."""


@dataclass(frozen=True)
class Rewriting:
    """How phrases are rewritten.

    Attributes:
        command: see `program.run_program`.
        cache: file of the answers.
        seeds: one rewrite of each phrase is requested with each.
        seconds: that the program may take for `BATCH` phrases.
    """

    command: str
    cache: Path
    seeds: tuple[int, ...] = (0,)
    seconds: float = 600.0


def with_rewrites(
    selected: Sequence[Descriptor],
    descriptors: Sequence[Descriptor],
    labels: Mapping[str, Sequence[object]],
    rewriting: Rewriting,
) -> tuple[tuple[Descriptor, ...], str]:
    """Return the descriptors with the rewrites that passed the check, and a summary.

    Args:
        selected: descriptors whose phrases are rewritten
        descriptors: all templates
        labels: column -> labels of the table
        rewriting: command, seeds and cache

    Raises:
        ProgramError: if the program fails; its earlier answers are in the cache
        InputError: if the cache cannot be read
    """
    values = values_of(selected, labels)
    phrases = list(dict.fromkeys(p for *_, found in values.values() for p in found))
    answers = _answers(phrases, rewriting)
    every = values_of(descriptors, labels, forms=True)
    meanings = Meanings({m: found for m, (*_, found) in every.items()})
    added: dict[str, dict[str, tuple[str, ...]]] = {}
    rejected: Counter[str] = Counter()
    examples, kept = [], 0
    for meaning, (descriptor, value, known) in values.items():
        new: dict[str, None] = {}
        for answer in (a for phrase in known for a in answers[phrase] if a):
            problem = _unusable(answer) or meanings.problem(answer, meaning)
            if problem:
                rejected[problem] += 1
                examples.append(f"{answer[:LONGEST]!r} for {known[0]!r} {problem}")
            elif answer not in known:
                new[answer] = None
        kept += len(new)
        added.setdefault(descriptor.name, {})[value] = tuple(new)
    merged = tuple(add_phrases(d, added.get(d.name, {})) for d in descriptors)
    return merged, _summary(len(phrases), kept, rejected, examples)


def _summary(phrases: int, kept: int, rejected: Mapping[str, int], examples: Sequence[str]) -> str:
    counts = ", ".join(f"{n} ({problem})" for problem, n in rejected.items())
    line = f"rewrites: {kept} new wordings of {phrases} phrases"
    return "\n  ".join([f"{line}; rejected: {counts}" if counts else line, *examples[:SHOWN]])


def values_of(
    descriptors: Sequence[Descriptor], labels: Mapping[str, Sequence[object]], forms: bool = False
) -> Values:
    """Return the levels and labels that have phrases, synonyms once.

    Args:
        descriptors: templates
        labels: column -> labels of the table
        forms: add all labels of the templates
    """
    values: Values = {}
    for descriptor in descriptors:
        for value in _possible(descriptor, labels, forms):
            if phrases := phrases_of(descriptor, value):
                values.setdefault((descriptor.name, phrases[0]), (descriptor, value, phrases))
    return values


def _possible(
    descriptor: Descriptor, labels: Mapping[str, Sequence[object]], forms: bool
) -> Iterator[str]:
    if descriptor.kind != "label":
        yield from (value for value in descriptor.values if value in descriptor.phrases)
        return
    found = [str(label) for label in labels.get(descriptor.column, ())]
    found += [*descriptor.phrases, *descriptor.forms] if forms else []
    yield from (label for label in found if label not in (LISTED, UNLISTED))


def _unusable(text: str) -> str | None:
    if len(text) > LONGEST:
        return f"has more than {LONGEST} characters"
    if not text.isprintable() or "{" in text or "}" in text:
        return "has control characters or braces"
    return None


# --- Answers of the program ----------------------------------------------------------------------


def _answers(phrases: Sequence[str], rewriting: Rewriting) -> dict[str, list[str]]:
    """Return the answers to each phrase, in the order of the seeds; "" for none."""
    command, cache = rewriting.command, rewriting.cache
    with lock(cache):
        known = _read_cache(cache)
        missing = {
            seed: [p for p in phrases if (command, seed, p) not in known]
            for seed in rewriting.seeds
        }
        with tqdm(total=sum(map(len, missing.values())), unit="phrase", disable=None) as bar:
            for seed, wanted in missing.items():
                for first in range(0, len(wanted), BATCH):
                    batch = wanted[first : first + BATCH]
                    try:
                        lines = run_program(command, batch, seed, rewriting.seconds)
                    except ProgramError as error:
                        raise ProgramError(f"{error}; {_kept(known, rewriting)}") from error
                    keys = ((command, seed, phrase) for phrase in batch)
                    known |= dict(zip(keys, lines, strict=True))
                    _write_cache(cache, known)
                    bar.update(len(batch))
    return {p: [known[command, seed, p] for seed in rewriting.seeds] for p in phrases}


Answers = dict[tuple[str, int, str], str]
"""Command, seed and phrase -> answer."""


def _kept(known: Answers, rewriting: Rewriting) -> str:
    count = sum(command == rewriting.command for command, *_ in known)
    where = f"{count} answers are kept in {rewriting.cache}" if count else "no answers are kept"
    return f"{where}; the same command goes on from there"


def _read_cache(path: Path) -> Answers:
    if not path.exists():
        return {}
    with reading(path, InputError):
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    try:
        entries = [json.loads(line) for line in lines]
        found = {
            (str(e["command"]), int(e["seed"]), str(e["phrase"])): e["rewrite"] for e in entries
        }
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        message = f"{path} is no file of rewrites: expected lines with {', '.join(KEYS)}"
        raise InputError(message) from error
    if not all(isinstance(answer, str) for answer in found.values()):
        raise InputError(f"{path} is no file of rewrites: a rewrite is no text")
    return found


def _write_cache(path: Path, answers: Answers) -> None:
    lines = [
        json.dumps(dict(zip(KEYS, (*key, answer), strict=True)), ensure_ascii=False)
        for key, answer in answers.items()
    ]
    write_text(path, "".join(f"{line}\n" for line in lines))
