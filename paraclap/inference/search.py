"""Search results as a table, and as an HTML page with players."""

import html
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd

from paraclap.audio import AudioError
from paraclap.audio.paths import hash_audio, resolve_inside
from paraclap.inference.approximate import ApproximateIndex
from paraclap.inference.index import ClipIndex, file_mark

NOT_TRAINED = "not trained: no caption of the training describes this"
CLIP = ["name", "start", "end", "root", "file"]
STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 62em; padding: 0 1em;
       color: #222; }
h2 { margin: 1.6em 0 .4em; }
table { border-collapse: collapse; width: 100%; }
td { padding: .3em .6em; border-bottom: 1px solid #ddd; vertical-align: middle; }
td.name { overflow-wrap: anywhere; }
td.score { white-space: nowrap; width: 13em; }
.bar { display: inline-block; width: 8em; height: .8em; background: #eee; margin-right: .5em; }
.bar span { display: block; height: 100%; background: #2a6fb0; }
audio { height: 2.2em; width: 17em; }
p.note { color: #666; }
.check { background: #fdeeba; border-radius: .3em; padding: .1em .4em; white-space: nowrap; }
"""


# --- Hits ----------------------------------------------------------------------------------------


def find(
    index: ClipIndex | ApproximateIndex,
    queries: Mapping[str, np.ndarray],
    count: int,
    untrained: Collection[str] = (),
) -> pd.DataFrame:
    """Return the nearest clips of each query: `query`, `rank` (from 1), `cosine`, and the clip.

    `quality` holds flags that question a result, see `quality_of`; `file_state` is "missing" or
    "changed" if the file of a clip is not that which was indexed, and otherwise empty; `trained` is
    False for queries that no caption of the training describes.

    Args:
        index: of the clips.
        queries: name -> embedding (D,).
        count: clips per query.
        untrained: names of queries.
    """
    rows, cosines = index.search(np.array(list(queries.values())), count)
    tables = []
    for name, found, values in zip(queries, rows, cosines, strict=True):
        clips = index.clips.loc[found, [*CLIP, "quality"]]
        clips["file_state"] = [_file_state(clip) for _, clip in index.clips.loc[found].iterrows()]
        ranks = np.arange(1, len(found) + 1)
        about = {"query": name, "trained": name not in untrained}
        tables.append(clips.assign(**about, rank=ranks, cosine=values))
    columns = ["query", "trained", "rank", "cosine", *CLIP, "quality", "file_state"]
    return pd.concat(tables, ignore_index=True)[columns]


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
        f"<tr><td>{hit.rank}</td>"
        f'<td class="score"><span class="bar"><span style="width:{width:.0f}%"></span></span>'
        f"{hit.cosine:.3f}</td>"
        f'<td class="name">{html.escape(hit.name)}{limits}{notes}</td>'
        f'<td><audio controls preload="none" src="{html.escape(link)}"></audio></td></tr>'
    )
