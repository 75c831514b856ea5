"""Tables of scores, on screen, as Markdown and as YAML."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from paraclap.files import write_text

Scores = Mapping[str, Any]

NOTHING = "-"
EXPLANATION = (
    "UAR: mean recall of the classes that occur; in brackets a 95 % interval of a bootstrap over "
    "speakers. ECE: expected calibration error. AUC, Spearman: opposed prompts, no threshold."
)
DIRECTIONS = {"text_to_audio": "caption to speech", "audio_to_text": "speech to caption"}


@dataclass
class Results:
    """All scores, by name of the task; of retrieval by name of the corpus.

    Attributes:
        corpora: zero-shot scores.
        probe: scores of the linear probe.
        retrieval: scores by direction.
        references: system -> UAR in publications.
        remarks: for the reader, such as the number of excluded clips.
    """

    corpora: dict[str, dict[str, Any]] = field(default_factory=dict)
    probe: dict[str, dict[str, Any]] = field(default_factory=dict)
    retrieval: dict[str, dict[str, Any]] = field(default_factory=dict)
    references: dict[str, Mapping[str, float]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def with_interval(value: float | None, interval: Sequence[float] | None) -> str:
    """Format a value and its interval; either may be None."""
    if value is None:
        return NOTHING
    limits = f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
    return f"{value:.3f}{limits}"


def score_rows(
    scores: Mapping[str, Scores],
    probes: Mapping[str, Scores] | None = None,
    references: Mapping[str, Mapping[str, float]] | None = None,
) -> pd.DataFrame:
    """Return a table with a row per task, without empty columns.

    Args:
        scores: name -> zero-shot scores.
        probes: name -> scores of a linear probe.
        references: name -> system -> UAR in publications.
    """
    probes, references = probes or {}, references or {}
    systems = list(dict.fromkeys(s for printed in references.values() for s in printed))
    rows = []
    for name, values in scores.items():
        probed = probes.get(name, {})
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
        for metric in ("AUC", "Spearman"):
            row[f"{metric} [95 %]"] = with_interval(
                values.get(metric), values.get(f"{metric}_interval")
            )
        row["probe UAR [95 %]"] = with_interval(probed.get("UAR"), probed.get("interval"))
        for system in systems:
            row[f"{system} (published)"] = with_interval(references.get(name, {}).get(system), None)
        rows.append(row)
    return _without_empty(pd.DataFrame(rows))


def _without_empty(table: pd.DataFrame) -> pd.DataFrame:
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


def retrieval_rows(retrieval: Mapping[str, Mapping[str, Scores]]) -> pd.DataFrame:
    """Return a table of both retrieval directions, each followed by a row of chance."""
    rows = []
    for name, directions in retrieval.items():
        for direction, values in directions.items():
            rows.append(_retrieval_row(name, DIRECTIONS[direction], values, values["interval"]))
            rows.append(_retrieval_row(name, "chance", {**values, **values["chance"]}, None))
    return pd.DataFrame(rows)


def _retrieval_row(
    name: str, direction: str, values: Scores, interval: Sequence[float] | None
) -> dict[str, str]:
    return {
        "corpus": name,
        "direction": direction,
        "queries": str(values["queries"]),
        "items": str(values["items"]),
        "R@1 [95 %]": with_interval(values["R@1"], interval),
        "R@5": f"{values['R@5']:.3f}",
        "R@10": f"{values['R@10']:.3f}",
        "mAP": f"{values['mAP']:.3f}",
        "median rank": f"{values['median_rank']:.1f}",
    }


def to_markdown(table: pd.DataFrame) -> str:
    """Write a table of text as a Markdown table."""
    lines = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    cells = ([cell.replace("|", r"\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def markdown_page(
    about: Mapping[str, Any], tables: Sequence[pd.DataFrame], remarks: Sequence[str]
) -> str:
    """Return a Markdown page of what was evaluated, the tables, remarks and an explanation."""
    head = [f"{name.replace('_', ' ')}: {_listed(value)}" for name, value in about.items() if value]
    notes = "\n".join(f"- {remark}" for remark in [*remarks, EXPLANATION])
    return "\n\n".join(["; ".join(head), *map(to_markdown, tables), notes]) + "\n"


def _listed(value: str | Sequence[str]) -> str:
    return value if isinstance(value, str) else ", ".join(value)


def write_report(
    results: Results, about: Mapping[str, Any], output: Path, with_references: bool = False
) -> None:
    """Print the tables, and write scores.yaml and scores.md.

    Args:
        results: all scores.
        about: model, protocol, prompt sets and selection.
        output: existing folder.
        with_references: show the UAR in publications beside ours.
    """
    measured = {name: getattr(results, name) for name in ("corpora", "probe", "retrieval")}
    document = {**about, **{name: scores for name, scores in measured.items() if scores}}
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    write_text(output / "scores.yaml", text)
    references = results.references if with_references else {}
    tables = [score_rows(results.corpora, results.probe, references)]
    if results.retrieval:
        tables.append(retrieval_rows(results.retrieval))
    page = markdown_page(about, [*tables, recall_rows(results.corpora)], results.remarks)
    write_text(output / "scores.md", page)
    for lines in (*(table.to_string(index=False) for table in tables), *results.remarks):
        print(lines)
