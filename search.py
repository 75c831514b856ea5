"""Find recordings by a description of the voice, or by an example.

    python search.py index runs/small /data/recordings ravdess=/data/RAVDESS -o index
    python search.py query index "a calm deep voice speaking slowly" "an angry woman"
    python search.py query index "the speaker sounds sad" --count 20 --page sad.html
    python search.py query index --like example.wav -o hits.csv
    python search.py index runs/small /data/recordings -o index --approximate

`index` embeds audio files, patterns in quotes, folders and sources as predict.py takes them, and
keeps the embeddings. The same command again embeds what is new or changed and leaves out what is
gone; after an interruption it goes on from there. The exit code is 1 if a clip could not be read;
the others are in the index. --approximate prepares faster queries of millions of clips, with
faiss (requirements-search.txt); an index that has been prepared once stays so when it is updated.

`query` compares every clip with every description or example, exactly; in an index prepared with
--approximate it looks at likely clips alone, and may miss some, unless --exact is given. The model
is that of the index (--model where it was moved to); another one is refused, since its texts mean
other places. The number is the cosine of the embeddings: it ranks clips for one query, and says
little about how well the best of them fits. --page writes a page with players; it refers to the
recordings by relative paths, so it can be moved together with them.
"""

import argparse
import html
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd

import approximate
from approximate import ApproximateIndex
from audio import AudioError
from clip_index import ClipIndex, update_index
from corpora import SOURCE_FORMS, CorpusError, read_clips
from embeddings import BATCH_SECONDS
from paraclap import ParaCLAP
from reports import write_text

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
"""


# --- Hits ----------------------------------------------------------------------------------------


def find(
    index: ClipIndex | ApproximateIndex, queries: Mapping[str, np.ndarray], count: int
) -> pd.DataFrame:
    """Return the nearest clips of each query: `query`, `rank` (from 1), `cosine`, and the clip.

    Args:
        index: where to look.
        queries: what it is called -> embedding (D,).
        count: of clips for each query.
    """
    rows, cosines = index.search(np.array(list(queries.values())), count)
    tables = []
    for name, found, values in zip(queries, rows, cosines, strict=True):
        clips = index.clips.loc[found, ["name", "root", "file", "start", "end"]]
        ranks = np.arange(1, len(found) + 1)
        tables.append(clips.assign(query=name, rank=ranks, cosine=values))
    columns = ["query", "rank", "cosine", "name", "start", "end", "root", "file"]
    return pd.concat(tables, ignore_index=True)[columns]


def result_page(hits: pd.DataFrame, page: Path, clips: int) -> str:
    """Return a page in HTML that shows hits with players.

    Args:
        hits: table of `find`.
        page: where it will be; recordings are referred to from there.
        clips: how many were searched.
    """
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><title>Search by description</title>',
        f"<style>{STYLE}</style></head><body><h1>Search by description</h1>",
        f'<p class="note">{clips:,} clips searched. The number is the cosine of the embeddings of'
        " query and clip; it ranks, and is no probability. Bars go from 0 to 1.</p>",
    ]
    for query, rows in hits.groupby("query", sort=False):
        parts.append(f"<h2>{html.escape(query)}</h2><table>")
        parts += [_hit_row(row, page) for row in rows.itertuples(index=False)]
        parts.append("</table>")
    return "\n".join([*parts, "</body></html>\n"])


def _hit_row(hit: tuple, page: Path) -> str:
    """Return one hit as a row of a table."""
    path = os.path.relpath(Path(hit.root, hit.file), page.resolve().parent)
    link = quote(path.replace(os.sep, "/"))
    limits = ""
    if hit.start > 0 or not np.isnan(hit.end):
        end = "" if np.isnan(hit.end) else f",{hit.end:.3f}"
        link += f"#t={hit.start:.3f}{end}"
        limits = f" <small>from {hit.start:.2f} s</small>"
    width = 100 * min(max(hit.cosine, 0), 1)
    return (
        f"<tr><td>{hit.rank}</td>"
        f'<td class="score"><span class="bar"><span style="width:{width:.0f}%"></span></span>'
        f"{hit.cosine:.3f}</td>"
        f'<td class="name">{html.escape(hit.name)}{limits}</td>'
        f'<td><audio controls preload="none" src="{html.escape(link)}"></audio></td></tr>'
    )


# --- Command line --------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parse(arguments)
    return {"index": _index, "query": _query}[options.command](options)


def _index(options: argparse.Namespace) -> int:
    """Make or update an index; returns the exit code."""
    clips = read_clips(options.sources)
    paraclap = ParaCLAP.from_pretrained(options.model, options.device, options.batch_seconds)
    model = Path(options.model)
    kept = str(model.resolve()) if model.exists() else options.model
    update = update_index(options.output, paraclap, kept, clips)
    print(
        f"{options.output}: {update.clips} clips, {update.embedded} of them embedded now,"
        f" {update.removed} removed"
    )
    if options.approximate or approximate.is_prepared(options.output):
        print(approximate.build(ClipIndex(options.output)))
    for name, reason in update.failures.items():
        print(f"search.py: {name}: {reason}", file=sys.stderr)
    return int(bool(update.failures))


def _query(options: argparse.Namespace) -> int:
    """Answer queries from an index; returns the exit code."""
    index = ClipIndex(options.index)
    paraclap = ParaCLAP.from_pretrained(options.model or index.model, options.device)
    index.check(paraclap)
    queries: dict[str, np.ndarray] = {}
    if options.descriptions:
        texts = list(dict.fromkeys(options.descriptions))
        queries = dict(zip(texts, paraclap.embed_text(texts), strict=True))
    if options.like:
        examples = read_clips(options.like)
        places = examples[["root", "file", "start", "end"]].itertuples(index=False, name=None)
        for name, heard in zip(examples["name"], paraclap.embed_clips(places), strict=True):
            if isinstance(heard, AudioError):
                raise heard
            queries[f"like {name}"] = heard
    prepared = approximate.is_prepared(options.index) and not options.exact
    hits = find(ApproximateIndex(index) if prepared else index, queries, options.count)
    if options.output:
        write_text(options.output, hits.to_csv(index=False))
    for query, rows in hits.groupby("query", sort=False):
        print(query)
        for hit in rows.itertuples(index=False):
            print(f"{hit.rank:4d} {hit.cosine:7.3f}  {hit.name}")
    if options.page:
        write_text(options.page, result_page(hits, options.page, len(index)))
        print(f"written to {options.page}")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    index = commands.add_parser("index", help="embed clips, or bring an index up to date")
    add = index.add_argument
    add("model", metavar="MODEL", help="run folder, its best/ or last/, or a Hub name")
    add("sources", nargs="+", metavar="SOURCE", help=f"files, patterns, {SOURCE_FORMS}")
    add("-o", "--output", type=Path, required=True, help="folder of the index")
    add("--batch-seconds", type=float, default=BATCH_SECONDS, help="padded audio per batch [s]")
    add("--device", help="cpu, cuda, cuda:1; default: a GPU if there is one")
    add("--approximate", action="store_true", help="prepare faster queries of millions of clips")
    query = commands.add_parser("query", help="find clips")
    add = query.add_argument
    add("index", type=Path, metavar="INDEX", help="folder of the index")
    add("descriptions", nargs="*", metavar="TEXT", help="what to look for")
    add("--like", nargs="+", metavar="AUDIO", help="examples of what to look for")
    add("--count", type=int, default=10, help="clips for each query (%(default)s)")
    add("--page", type=Path, metavar="FILE.html", help="page with players")
    add("-o", "--output", type=Path, metavar="FILE.csv", help="table of the hits")
    add("--exact", action="store_true", help="compare every clip, whatever was prepared")
    add("--model", help="where the model of the index is now")
    add("--device", help="cpu, cuda, cuda:1; default: a GPU if there is one")
    options = parser.parse_args(arguments)
    if options.command == "query" and not (options.descriptions or options.like):
        query.error("give a description, or --like an example")
    if options.command == "query" and options.count < 1:
        query.error(f"--count {options.count}, expected at least 1")
    return options


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (AudioError, CorpusError, ImportError, OSError, ValueError) as error:
        sys.exit(f"search.py: {error}")
