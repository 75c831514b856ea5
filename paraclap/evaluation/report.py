"""Tables of scores, on screen, as Markdown and as YAML."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml

from paraclap.evaluation.bootstrap import FEWEST_CLUSTERS
from paraclap.files import write_text

Scores = Mapping[str, Any]

NOTHING = "-"
EXPLANATION = (
    "UAR: mean recall of the classes that occur; in brackets a 95 % interval of a bootstrap over "
    "speakers (over clips, where no speaker is known). ECE: expected calibration error. AUC, "
    "Spearman: opposed prompts, no threshold."
)
DIRECTIONS = {"text_to_audio": "caption to speech", "audio_to_text": "speech to caption"}


@dataclass
class Results:
    """All scores, by name of the task; of retrieval by name of the corpus.

    Attributes:
        corpora: zero-shot scores.
        closed_set: scores of logistic regression, by its input ("embeddings", "eGeMAPS").
        retrieval: scores by direction.
        references: system -> UAR in publications.
        folds: of a cross-validation, the speakers, clips and UAR of each fold.
        unlabelled: corpora with retrieval alone -> how much of them the model was trained on.
    """

    corpora: dict[str, dict[str, Any]] = field(default_factory=dict)
    closed_set: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    retrieval: dict[str, dict[str, Any]] = field(default_factory=dict)
    references: dict[str, Mapping[str, float]] = field(default_factory=dict)
    folds: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    unlabelled: dict[str, str] = field(default_factory=dict)


def with_interval(
    value: float | None, interval: Sequence[float] | None, sign: Literal["", "+"] = ""
) -> str:
    """Format a value and its interval, either of which may be None; `sign` "+" shows a plus."""
    if value is None:
        return NOTHING
    limits = f" [{interval[0]:{sign}.3f}, {interval[1]:{sign}.3f}]" if interval else ""
    return f"{value:{sign}.3f}{limits}"


def score_rows(
    scores: Mapping[str, Scores],
    closed_set: Mapping[str, Mapping[str, Scores]] | None = None,
    references: Mapping[str, Mapping[str, float]] | None = None,
) -> pd.DataFrame:
    """Return a table with a row per task, without empty columns; see `Results`."""
    closed_set, references = closed_set or {}, references or {}
    inputs = list(dict.fromkeys(name for scored in closed_set.values() for name in scored))
    systems = list(dict.fromkeys(s for printed in references.values() for s in printed))
    rows = []
    for name, values in scores.items():
        row = {
            "corpus": name,
            "clips": str(values["clips"]),
            "speakers": str(values["speakers"] or NOTHING),
            "classes": str(values["classes"]),
            "chance": f"{values['chance']:.3f}",
            "UAR [95 %]": with_interval(values["UAR"], values["interval"]),
            "ACC": f"{values['ACC']:.3f}",
            "F1": f"{values['F1']:.3f}",
            "ECE": f"{values['calibration']['ECE']:.3f}",
        }
        adapted = values.get("adapted", {})
        row["adapted UAR [95 %]"] = with_interval(adapted.get("UAR"), adapted.get("interval"))
        for metric in ("AUC", "Spearman"):
            row[f"{metric} [95 %]"] = with_interval(
                values.get(metric), values.get(f"{metric}_interval")
            )
        row["trained on"] = values.get("trained_on", {}).get("text", NOTHING)
        for kind in inputs:
            found = closed_set.get(name, {}).get(kind, {})
            uar = with_interval(found.get("UAR"), found.get("interval"))
            row[f"closed-set {kind} UAR [95 %]"] = uar
        for system in systems:
            row[f"{system} (published)"] = with_interval(references.get(name, {}).get(system), None)
        rows.append(row)
    table = pd.DataFrame(rows)
    return table.loc[:, (table != NOTHING).any()]


def recall_rows(scores: Mapping[str, Scores]) -> pd.DataFrame:
    """Return a table of the recall and the number of clips of every class."""
    return pd.DataFrame(
        {"corpus": name, "class": label, "clips": str(n), "recall": f"{recall:.3f}"}
        for name, values in scores.items()
        for (label, recall), n in zip(
            values["recall"].items(), values["support"].values(), strict=True
        )
    )


def fold_rows(folds: Mapping[str, Sequence[Mapping[str, Any]]]) -> pd.DataFrame:
    """Return a table of the folds of a cross-validation, see `Results`."""
    return pd.DataFrame(
        {
            "corpus": name,
            "fold": str(fold["fold"]),
            "tested speakers": ", ".join(fold["speakers"]),
            "validation speakers": ", ".join(fold["validation"]) or NOTHING,
            "clips": str(fold["clips"]),
            "UAR": f"{fold['UAR']:.3f}",
        }
        for name, rows in folds.items()
        for fold in rows
    )


def retrieval_rows(retrieval: Mapping[str, Mapping[str, Scores]]) -> pd.DataFrame:
    """Return a table of both retrieval directions, each followed by a row of chance."""
    rows = []
    for name, directions in retrieval.items():
        for direction, values in directions.items():
            rows.append((name, DIRECTIONS[direction], values))
            rows.append((name, "chance", {**values, **values["chance"], "interval": None}))
    return pd.DataFrame(
        {
            "corpus": name,
            "direction": direction,
            "queries": str(values["queries"]),
            "items": str(values["items"]),
            "R@1 [95 %]": with_interval(values["R@1"], values["interval"]),
            "R@5": f"{values['R@5']:.3f}",
            "R@10": f"{values['R@10']:.3f}",
            "mAP": f"{values['mAP']:.3f}",
            "median rank": f"{values['median_rank']:.1f}",
        }
        for name, direction, values in rows
    )


def to_markdown(table: pd.DataFrame) -> str:
    """Write a table of text as a Markdown table; a line break in a cell becomes a space."""
    lines = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    cells = ([" ".join(cell.replace("|", r"\|").splitlines()) for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def markdown_page(
    about: Mapping[str, Any], tables: Sequence[pd.DataFrame], remarks: Sequence[str]
) -> str:
    """Return a Markdown page of model and options, the tables, remarks and an explanation."""
    head = []
    for name, value in about.items():
        if value:
            text = ", ".join(value) if isinstance(value, list) else str(value)
            head.append(f"{name.replace('_', ' ')}: {text}")
    notes = "\n".join(f"- {remark}" for remark in [*remarks, EXPLANATION])
    return "\n\n".join(["; ".join(head), *map(to_markdown, tables), notes]) + "\n"


def _remarks(corpora: Mapping[str, Scores], are_folds: bool = False) -> list[str]:
    remarks = []
    reasons = f"no label, {'no speaker, ' if are_folds else ''}or no prompt for it"
    for name, scores in corpora.items():
        if excluded := scores["excluded"]:
            remarks.append(f"{name}: {excluded} clips excluded ({reasons})")
        if scores["split"]:
            remarks.append(f"{name}: only the test split is scored; --split selects others")
        if left_out := scores["left_out"]:
            remarks.append(
                f"{name}: {left_out} clips of the training, or of its speakers, are left out"
            )
        if untrained := scores["untrained"]:
            found = f"{name}: no caption of the training describes {', '.join(untrained)}"
            remarks.append(found + _mean_recalls(scores["recall"], untrained))
        seen = scores["trained_on"]
        if seen["clips"] or seen["speakers"]:
            remarks.append(
                f"{name}: the model was trained or validated on {seen['text']}; "
                "--unseen leaves them out"
            )
        if adapted := scores.get("adapted"):
            remarks.append(
                f"{name}: the adapted scores use {adapted['reference_clips']} clips of this test "
                "corpus without their labels (mean embedding subtracted); the others use none"
            )
        for flag, count in scores["quality"].items():
            remarks.append(
                f"{name}: {count} of {scores['clips']} clips are {flag} (column quality)"
            )
        if scores["speakers"] is None:
            remarks.append(
                f"{name}: no speakers are known, so the interval is over clips; it is too narrow "
                "if there are several of one speaker"
            )
        elif scores["interval"] is None:
            remarks.append(
                f"{name}: no intervals; they need {FEWEST_CLUSTERS} speakers, the clips have "
                f"{scores['speakers'] + scores['unknown_speakers']}"
            )
        elif unknown := scores["unknown_speakers"]:
            remarks.append(
                f"{name}: {unknown} of {scores['clips']} clips have no speaker; each counts as a "
                "speaker of its own in the interval, and closed-set scores exclude them"
            )
        if unused := scores["unused_prompts"]:
            remarks.append(f"{name}: no clip is {', '.join(unused)}")
    return remarks


def _mean_recalls(recall: Mapping[str, float], untrained: Sequence[str]) -> str:
    """Return the mean recalls of untrained classes and of the others as text, if both occur."""
    means = pd.Series(recall).groupby(lambda label: label in untrained).mean()
    if len(means) < 2:
        return ""
    return (
        f"; the mean recall of these classes is {means[True]:.3f}, of the others {means[False]:.3f}"
    )


def write_report(
    results: Results, about: Mapping[str, Any], output: Path, with_references: bool = False
) -> None:
    """Print the tables, and write scores.yaml and scores.md to an existing folder.

    `about` holds model, protocol, prompt sets and selection. With references, the UAR in
    publications is shown beside ours.
    """
    measured = {
        name: getattr(results, name) for name in ("corpora", "closed_set", "retrieval", "folds")
    }
    document = {**about, **{name: scores for name, scores in measured.items() if scores}}
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    write_text(output / "scores.yaml", text)
    references = results.references if with_references else {}
    remarks = _remarks(results.corpora, bool(results.folds))
    if not all(scores["trained_on"]["complete"] for scores in results.corpora.values()):
        remarks.append(
            "the model has no complete record of the clips that it was trained on; training "
            f"corpora: {', '.join(about['training_corpora']) or 'not recorded'}"
        )
    if with_references and not about["protocol"]:
        remarks.append("the published scores follow the protocol of the paper (--protocol paper)")
    remarks += [f"{name}: trained on {seen}" for name, seen in results.unlabelled.items()]
    tables = []
    if results.corpora:
        tables.append(score_rows(results.corpora, results.closed_set, references))
    if results.folds:
        tables.append(fold_rows(results.folds))
    if results.retrieval:
        tables.append(retrieval_rows(results.retrieval))
    recalls = [recall_rows(results.corpora)] if results.corpora else []
    page = markdown_page(about, [*tables, *recalls], remarks)
    write_text(output / "scores.md", page)
    for lines in (*(table.to_string(index=False) for table in tables), *remarks):
        print(lines)
