"""Tables, notes and forest plot of a comparison, from the rows of `compare`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from paraclap.evaluation.bootstrap import FEWEST_CLUSTERS, RESAMPLES, SEED
from paraclap.evaluation.compare import FILES, common_tasks, prompt_notes
from paraclap.evaluation.evaluated import Evaluated
from paraclap.evaluation.figures import plot_differences
from paraclap.evaluation.report import NOTHING, to_markdown, with_interval
from paraclap.files import make_folder, write_text
from paraclap.style import write_figure


def comparison_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a table of texts: a row for each task, and UAR and difference of each result."""
    lines = []
    for task, parts in rows.groupby("task", sort=False):
        first = parts.iloc[0]
        line = {"corpus": task, "clips": str(first["clips"])}
        line["speakers"] = NOTHING if pd.isna(first["speakers"]) else str(first["speakers"])
        line[f"UAR {first['baseline']}"] = with_interval(first["baseline_UAR"], None)
        for _, row in parts.iterrows():
            interval = None if np.isnan(row["low"]) else (row["low"], row["high"])
            line[f"UAR {row['results']}"] = with_interval(row["UAR"], None)
            name = f"{row['results']} - {row['baseline']} [95 %]"
            line[name] = with_interval(row["difference"], interval, "+")
        lines.append(line)
    return pd.DataFrame(lines)


def comparison_notes(rows: pd.DataFrame, results: Sequence[Evaluated]) -> list[str]:
    """Return what the rows of `compare` were computed from, and what limits them."""
    notes = [
        "Difference of the UARs on the same clips; in brackets a 95 % percentile interval of a "
        f"paired bootstrap over speakers ({RESAMPLES} bootstrap samples, seed {SEED})."
    ]
    if (rows["corpora"] > 1).any():
        notes.append("mean: mean over the corpora; the speakers of each corpus are resampled.")
    notes += prompt_notes(results)
    notes += [f"{e.name}: {_description(e)}" for e in results]
    tasks = common_tasks(results)
    for evaluated in results:
        if others := [name for name in evaluated.tasks if name not in tasks]:
            notes.append(f"only in {evaluated.name}, not compared: {', '.join(others)}")
    for task, first in rows.groupby("task", sort=False).first().iterrows():
        if pd.isna(first["speakers"]):
            notes.append(f"{task}: no speakers are known, so the bootstrap is over clips")
        elif np.isnan(first["low"]):
            notes.append(f"{task}: no interval, which needs {FEWEST_CLUSTERS} speakers")
        elif unknown := first["unknown_speakers"]:
            notes.append(
                f"{task}: {unknown} of {first['clips']} clips have no speaker; each counts as a "
                "speaker of its own in the interval"
            )
    for task in tasks:
        compared = int(rows.loc[rows["task"] == task, "clips"].iloc[0])
        counts = {e.name: e.tasks[task].get("clips", compared) for e in results}
        if set(counts.values()) != {compared}:
            of = ", ".join(f"{count} of {name}" for name, count in counts.items())
            notes.append(f"{task}: only the {compared} clips of all results are compared ({of})")
    for evaluated in results:
        for task in tasks:
            seen = evaluated.tasks[task].get("trained_on", {})
            if seen.get("clips") or seen.get("speakers"):
                notes.append(f"{task}: {evaluated.name} was trained or validated on {seen['text']}")
    return notes


def comparison_page(rows: pd.DataFrame, results: Sequence[Evaluated]) -> str:
    """Return the table of `comparison_table` in Markdown, and the notes on it."""
    lines = "\n".join(f"- {note}" for note in comparison_notes(rows, results))
    return f"{to_markdown(comparison_table(rows))}\n\n{lines}\n"


def _description(evaluated: Evaluated) -> str:
    """Return model, prompts and selection of results in one line."""
    about = evaluated.about
    facts = [f"{evaluated.folder}"]
    for key in ("model", "recipe", "prompt_set", "protocol", "split", "speakers"):
        if value := about.get(key):
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            facts.append(f"{key.replace('_', ' ')} {text}")
    return "; ".join(facts)


def write_comparison(rows: pd.DataFrame, results: Sequence[Evaluated], output: Path) -> None:
    """Write compare.md, compare.csv and a forest plot (PDF and PNG) to a folder."""
    folder = make_folder(output)
    write_text(folder / FILES[0], comparison_page(rows, results))
    write_text(folder / FILES[1], rows.to_csv(index=False))
    figure = plot_differences(rows)
    for name in FILES[2:]:
        write_figure(figure, folder / name)
