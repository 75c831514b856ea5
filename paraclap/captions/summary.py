"""What was captioned, in lines of text: some rows, and counts of everything."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from paraclap.captions.captions import Captioner
from paraclap.captions.edges import Edges
from paraclap.captions.feature_tables import INDEX
from paraclap.captions.templates import LEVELS, PRESENCE


def with_preview(batches: Iterable[pa.RecordBatch], rows: int, wanted: int) -> Iterator[Any]:
    """Pass batches on, and print some rows, spread evenly over the table, after them.

    Of each row: file, first wordings, and paraphrases of them.
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
            lines.append(file)
            for title, chosen in (("first wordings:", 0), ("paraphrased:", -1)):
                text = " and ".join(group[chosen] for group in wordings.values())
                lines.append(f"  {title:15} {text or '(no phrase)'}")
        done += len(batch)
        yield batch
    print("\n".join(lines))


def summarise(captioner: Captioner, edges: Mapping[str, Edges], rows: int) -> str:
    """Counts of levels and labels, and the edges with their units, as lines of text."""
    each = captioner.spoken / max(rows, 1)
    lines = [
        f"{rows} rows, {captioner.silent} without any phrase; {each:.1f} phrases a row, "
        f"{captioner.different} different sets of phrases"
    ]
    units = {descriptor.name: descriptor.unit for descriptor in captioner.selected}
    for name in ("split", *units):
        if name not in captioner.counts:
            continue
        missing, *found = captioner.counts[name].sum(axis=0).tolist()
        pairs = list(zip(captioner.values(name), found, strict=True))
        if name not in units or captioner.values(name) not in ([*LEVELS], [*PRESENCE]):
            pairs.sort(key=lambda pair: str(pair[0]))
        pairs = [(value, n) for value, n in [*pairs, ("undefined", missing)] if n]
        lines.append(f"{name:18} {', '.join(f'{value} {n}' for value, n in pairs)}")
        if name in edges:
            told = [
                f"{' '.join(['normal', *group])}: {b.low:.5g} to {b.high:.5g}"
                for group, b in edges[name].groups.items()
            ]
            more = f" and {len(told) - 6} more groups" if len(told) > 6 else ""
            lines[-1] += f"; {', '.join(told[:6])}{more} {units[name]}"
    return "\n".join(lines)
