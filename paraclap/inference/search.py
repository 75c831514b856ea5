"""Search results as a table, and as an HTML page with players."""

import html
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd

from paraclap.audio import AudioError
from paraclap.audio.paths import hash_audio, resolve_inside
from paraclap.corpora.labels import comparable
from paraclap.corpora.table import LABEL
from paraclap.errors import ParaCLAPError
from paraclap.inference.approximate import ApproximateIndex
from paraclap.inference.index import ClipIndex, file_mark

NOT_TRAINED = "not trained: no caption of the training describes this"
CLIP = ["name", "start", "end", "root", "file"]
CONDITION = re.compile(r"\s*([^=!<>]+?)\s*(!=|<=|>=|=|<|>)\s*(.*?)\s*", re.DOTALL)
COMPARISONS = {
    "=": np.equal,
    "!=": np.not_equal,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}
VALUES_SHOWN = 20
"""Values of a column that a message names."""
STYLE = """
:root { color-scheme: light dark; --text: #1f2933; --soft: #5f6b7a; --line: #d9dee5;
        --bar: #2a6fb0; --empty: #e8ecf1; --check: #fdeeba; --on-check: #332600; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e8ee; --soft: #9aa5b4; --line: #3a424e; --bar: #6aa9e6; --empty: #2c333d;
          --check: #4d4015; --on-check: #fdeeba; } }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 62em; padding: 0 1em;
       color: var(--text); }
h1 { font-size: 1.5em; margin: 0 0 .2em; }
h2 { font-size: 1.15em; margin: 1.8em 0 .3em; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; }
td { padding: .4em .6em; border-bottom: 1px solid var(--line); vertical-align: middle; }
td.rank { color: var(--soft); width: 1.5em; text-align: right; }
td.name { overflow-wrap: anywhere; }
td.score { white-space: nowrap; width: 13em; }
small { color: var(--soft); }
.bar { display: inline-block; width: 8em; height: .7em; background: var(--empty);
       border-radius: .35em; margin-right: .5em; overflow: hidden; }
.bar span { display: block; height: 100%; background: var(--bar); }
audio { height: 2.4em; width: 17em; max-width: 100%; }
p.note { color: var(--soft); max-width: 46em; }
.check { background: var(--check); color: var(--on-check); border-radius: .3em;
         padding: .1em .4em; }
@media (max-width: 640px) {
  body { margin: 1em auto; }
  tr { display: flex; flex-wrap: wrap; align-items: center; gap: .3em .7em; padding: .7em 0;
       border-bottom: 1px solid var(--line); }
  td { border: 0; padding: 0; }
  td.rank, td.score { width: auto; }
  td.name, td.player { flex-basis: 100%; }
  td.player audio { width: 100%; } }
"""


class ConditionError(ParaCLAPError, ValueError):
    """A condition on labels that cannot be applied, or that no clip meets."""


# --- Conditions on labels ------------------------------------------------------------------------


def select(clips: pd.DataFrame, conditions: Sequence[str]) -> np.ndarray:
    """Return the rows (m,) of an index that meet all conditions on their labels.

    A condition is `speaker=03`, `emotion!=anger` or `age<=40`; <, <=, > and >= compare numbers.
    Spellings and synonyms of an emotion or gender are equal (`woman` and `female`). A clip without
    the label meets no condition on it.

    Args:
        clips: table of `ClipIndex`.
        conditions: on its labels, or on `name`, `file`, `start`, `end` and `quality`.

    Raises:
        ConditionError: naming what is known instead.
    """
    chosen = np.full(len(clips), True)
    for condition in conditions:
        chosen &= _meets(clips, condition)
    if not chosen.any():
        raise ConditionError(f"no clip of the index has {' and '.join(conditions)}")
    return np.flatnonzero(chosen)


def _meets(clips: pd.DataFrame, condition: str) -> np.ndarray:
    """Return whether each clip meets a condition."""
    parsed = CONDITION.fullmatch(condition)
    if parsed is None:
        raise ConditionError(f"condition {condition!r}, expected a form like speaker=03 or age<=40")
    column, sign, value = parsed.groups()
    labels = [name.removeprefix(LABEL) for name in clips if name.startswith(LABEL)]
    known = {name: LABEL + name for name in labels}
    known |= {
        name: name for name in ("name", "file", "start", "end", "quality") if name not in known
    }
    if column not in known:
        hint = "" if labels else ": run its index command again with a source that has labels"
        raise ConditionError(
            f"the index has no column {column}, expected one of {', '.join(known)}{hint}"
        )
    values = clips[known[column]]
    if sign not in ("=", "!=") or pd.api.types.is_numeric_dtype(values):
        try:  # tables in text form have numbers as texts
            found = COMPARISONS[sign](pd.to_numeric(values), float(value))
        except ValueError as error:
            raise ConditionError(
                f"condition {condition!r}: {column} or {value!r} is no number"
            ) from error
    else:
        texts = values.dropna().unique()
        same = {text: comparable(column, text) == comparable(column, value) for text in texts}
        if not any(same.values()):
            shown = ", ".join(list(same)[:VALUES_SHOWN])
            shown += ", ..." if len(same) > VALUES_SHOWN else ""
            raise ConditionError(
                f"no clip of the index has {column} {value!r}, expected one of {shown}"
            )
        found = values.map(same).eq(sign == "=")
    return (found & values.notna()).to_numpy(bool)


# --- Hits ----------------------------------------------------------------------------------------


def find(
    index: ClipIndex | ApproximateIndex,
    queries: Mapping[str, np.ndarray],
    count: int,
    untrained: Collection[str] = (),
    among: np.ndarray | None = None,
) -> pd.DataFrame:
    """Return the nearest clips of each query: `query`, `rank` (from 1), `cosine`, and the clip.

    The clip is that of the index, with its labels (`label.speaker`).
    `quality` holds flags that question a result, see `quality_of`; `file_state` is "missing" or
    "changed" if the file of a clip is not that which was indexed, and otherwise empty; `trained` is
    False for queries that no caption of the training describes.

    Args:
        index: of the clips.
        queries: name -> embedding (D,).
        count: clips per query.
        untrained: names of queries.
        among: rows that are compared, by an exact search (m,); None = all.
    """
    embeddings = np.array(list(queries.values()))
    if among is None:
        rows, cosines = index.search(embeddings, count)
    else:
        exact = index.index if isinstance(index, ApproximateIndex) else index
        rows, cosines = exact.search(embeddings, count, among)
    labels = [name for name in index.clips if name.startswith(LABEL)]
    tables = []
    for name, found, values in zip(queries, rows, cosines, strict=True):
        clips = index.clips.loc[found, [*CLIP, "quality", *labels]]
        clips["file_state"] = [_file_state(clip) for _, clip in index.clips.loc[found].iterrows()]
        ranks = np.arange(1, len(found) + 1)
        about = {"query": name, "trained": name not in untrained}
        tables.append(clips.assign(**about, rank=ranks, cosine=values))
    columns = ["query", "trained", "rank", "cosine", *CLIP, "quality", "file_state", *labels]
    return pd.concat(tables, ignore_index=True)[columns]


def join(queries: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return all queries as one, named `A + B`: the mean of their embeddings, with unit length."""
    mean = np.mean(list(queries.values()), axis=0)
    return {" + ".join(queries): mean / np.linalg.norm(mean)}


def _file_state(clip: pd.Series) -> str:
    """Compare the file of a clip with that which was indexed."""
    try:
        path = resolve_inside(clip["root"], clip["file"])
        if file_mark(path) == (clip["sampled"], clip["modified"]):
            return ""
        return "" if hash_audio(path) == clip["content"] else "changed"
    except AudioError:
        return "missing"


def hit_notes(hit: pd.Series | tuple) -> list[str]:
    """Return what to note about a row of `find`."""
    notes = {
        f"check: {hit.quality}": hit.quality,
        "the file no longer exists": hit.file_state == "missing",
        "the file was changed since it was indexed": hit.file_state == "changed",
    }
    return [note for note, applies in notes.items() if applies]


def result_page(hits: pd.DataFrame, page: Path, clips: int) -> str:
    """Return an HTML page of search results with players.

    Args:
        hits: table of `find`.
        page: its path; links to recordings are relative to it.
        clips: number of clips in the index.
    """
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><title>Search by description</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{STYLE}</style></head><body><h1>Search by description</h1>",
        f'<p class="note">{clips:,} clips searched. The number is the cosine of the embeddings of'
        " query and clip; it ranks clips, and is not a probability. Bars range from 0 to 1.</p>",
    ]
    for query, rows in hits.groupby("query", sort=False):
        parts.append(f"<h2>{html.escape(query)}</h2>")
        if not rows["trained"].all():
            parts.append(f'<p><span class="check">{NOT_TRAINED}</span></p>')
        parts.append("<table>")
        parts += [_hit_row(row, page) for row in rows.itertuples(index=False)]
        parts.append("</table>")
    return "\n".join([*parts, "</body></html>\n"])


def _hit_row(hit: tuple, page: Path) -> str:
    """Return a result as a table row."""
    path = os.path.relpath(Path(hit.root, hit.file), page.resolve().parent)
    link = quote(path.replace(os.sep, "/"))
    limits = ""
    if hit.start > 0 or not np.isnan(hit.end):
        end = "" if np.isnan(hit.end) else f",{hit.end:.3f}"
        link += f"#t={hit.start:.3f}{end}"
        limits = f" <small>from {hit.start:.2f} s</small>"
    notes = "".join(f' <span class="check">{html.escape(n)}</span>' for n in hit_notes(hit))
    width = 100 * min(max(hit.cosine, 0), 1)
    return (
        f'<tr><td class="rank">{hit.rank}</td>'
        f'<td class="score"><span class="bar"><span style="width:{width:.0f}%"></span></span>'
        f"{hit.cosine:.3f}</td>"
        f'<td class="name">{html.escape(hit.name)}{limits}{notes}</td>'
        f'<td class="player"><audio controls preload="none" src="{html.escape(link)}"></audio></td>'
        "</tr>"
    )
