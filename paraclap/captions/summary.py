"""What is printed of captions: rows of the table, counts of levels and labels, and edges."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pyarrow as pa

from paraclap.captions.sources import INDEX
from paraclap.captions.writer import Captioner

GROUPS_SHOWN = 6  # groups of edges in a line of the summary
LABELS_SHOWN = 20  # labels in a line of the summary


def with_preview(
    batches: Iterable[pa.RecordBatch],
    rows: int,
    wanted: int,
    draw: Callable[[dict[str, list[str]]], str],
) -> Iterator[pa.RecordBatch]:
    """Yield batches unchanged, then print some of their rows, spread evenly over the table.

    Prints the file, the first wordings, their last paraphrases if they have any, and a caption as
    drawn in training.

    Args:
        batches: of captions
        rows: number of rows in all batches
        wanted: number of rows to print
        draw: returns a caption of the wordings of each descriptor
    """
    places = np.linspace(0, rows - 1, min(wanted, rows)).astype(int)
    lines, done = [], 0
    for batch in batches:
        for place in places[(places >= done) & (places < done + len(batch))] - done:
            row = batch.select([INDEX[0], "caption_descriptors", "captions"]).slice(place, 1)
            file, names, phrases = row.to_pylist()[0].values()
            wordings: dict[str, list[str]] = {}
            for name, phrase in zip(names, phrases, strict=True):
                wordings.setdefault(name, []).append(phrase)
            first, last = (
                " and ".join(group[chosen] for group in wordings.values()) for chosen in (0, -1)
            )
            lines += [file, f"  first wordings: {first or '(no phrase)'}"]
            lines += [f"  paraphrased:    {last}"] if last != first else []
            lines += [f"  in training:    {draw(wordings)}"] if wordings else []
        done += len(batch)
        yield batch
    print("\n".join(lines))


def summary(captioner: Captioner) -> str:
    """Return the counts of levels and labels, and the edges with their units, as text."""
    counted = captioner.statistics
    lines = [
        f"{counted.rows} rows, {counted.empty} without any phrase; "
        f"{counted.phrases / max(counted.rows, 1):.1f} phrases a row, "
        f"{counted.different} different sets of phrases"
    ]
    if dropped := captioner.features.dropped:
        found = [f"{emotion or 'without an emotion'} {n}" for emotion, n in dropped.items()]
        lines.append(f"rows dropped: {', '.join(found)}")
    if doubtful := {name: n for name, n in counted.doubtful.items() if n}:
        found = ", ".join(f"{name} {n}" for name, n in doubtful.items())
        lines.append(f"values left out because of quality flags: {found}")
    known = {descriptor.name: descriptor for descriptor in captioner.selected}
    for name in ("split", *known):
        if name not in counted.counts:
            continue
        missing, *found = counted.counts[name].sum(axis=0).tolist()
        pairs = list(zip(counted.values[name], found, strict=True))
        if name not in known or not known[name].values:
            pairs.sort(key=lambda pair: str(pair[0]))
        pairs = [(value, n) for value, n in [*pairs, ("undefined", missing)] if n]
        hidden = len(pairs) - LABELS_SHOWN
        more = f" and {hidden} more" if hidden > 0 else ""
        if more:
            pairs.sort(key=lambda pair: -pair[1])
        listed = ", ".join(f"{value} {n}" for value, n in pairs[:LABELS_SHOWN])
        lines.append(f"{name:18} {listed}{more}")
        if name in captioner.edges:
            bounds = [
                f"{' '.join(['normal', *group])}: {b.low:.5g} to {b.high:.5g}"
                for group, b in captioner.edges[name].groups.items()
            ]
            hidden = len(bounds) - GROUPS_SHOWN
            more = f" and {hidden} more groups" if hidden > 0 else ""
            lines[-1] += f"; {', '.join(bounds[:GROUPS_SHOWN])}{more} {known[name].unit}"
    return "\n".join(lines)
