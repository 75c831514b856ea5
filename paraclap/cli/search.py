"""Search recordings by a description of the voice, or by an example.

    python search.py index runs/small /data/recordings ravdess=/data/RAVDESS -o index
    python search.py query index "a calm deep voice speaking slowly" "an angry woman"
    python search.py query index "the speaker sounds sad" --count 20 --page sad.html
    python search.py query index --like example.wav -o hits.csv
    python search.py index runs/small /data/recordings -o index --approximate

`index` embeds audio files, quoted patterns, folders and sources as in predict.py, and stores the
embeddings. Run again, it embeds new and changed clips, removes clips that are no longer there, and
continues after an interruption. The exit code is 1 if a clip cannot be read; the others are
indexed. --approximate also builds an approximate index for faster queries of millions of clips
(faiss: pip install "paraclap[search]"); later updates rebuild it.

`query` compares every clip with each description or example, exactly. With an approximate index it
compares only likely clips and may miss some, unless --exact is given. The model must be that of the
index (--model gives its place if it was moved). The score is the cosine of the embeddings: it ranks
clips for one query, but does not show how well the best of them fits. --page writes an HTML
page with players; it links recordings by relative paths, so it can be moved together with them.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from paraclap.audio import AudioError
from paraclap.cli.options import output_file
from paraclap.files import write_text
from paraclap.model.sources import find_model
from paraclap.settings import BATCH_SECONDS

if TYPE_CHECKING:
    import numpy as np

    from paraclap.inference.api import ParaCLAP


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parse(arguments)
    return {"index": _index, "query": _query}[options.command](options)


# torch and transformers take seconds to import: after arguments, model and clips are checked.


def _index(options: argparse.Namespace) -> int:
    """Make or update an index; returns the exit code."""
    model = find_model(options.model)
    from paraclap.corpora.table import read_clips

    clips = read_clips(options.sources)
    from paraclap.inference import approximate
    from paraclap.inference.api import ParaCLAP
    from paraclap.inference.index import ClipIndex
    from paraclap.inference.index_update import update_index

    paraclap = ParaCLAP.from_pretrained(options.model, options.device, options.batch_seconds)
    source = str(Path(options.model).resolve()) if isinstance(model, Path) else options.model
    update = update_index(options.output, paraclap, source, clips)
    print(
        f"{options.output}: {update.clips} clips, {update.embedded} newly embedded,"
        f" {update.removed} removed"
    )
    if options.approximate or approximate.is_prepared(options.output):
        print(approximate.build(ClipIndex(options.output)))
    for name, reason in update.failures.items():
        print(f"search.py: {name}: {reason}", file=sys.stderr)
    return int(bool(update.failures))


def _query(options: argparse.Namespace) -> int:
    """Search an index; returns the exit code."""
    from paraclap.inference.index import ClipIndex, check_model

    index = ClipIndex(options.index)
    find_model(options.model or index.model)
    from paraclap.inference import approximate
    from paraclap.inference.api import ParaCLAP
    from paraclap.inference.search import find, result_page

    paraclap = ParaCLAP.from_pretrained(options.model or index.model, options.device)
    check_model(options.index, paraclap.fingerprints())
    queries = _embed_queries(paraclap, options.descriptions, options.like or [])
    prepared = approximate.is_prepared(options.index) and not options.exact
    searched = approximate.ApproximateIndex(index) if prepared else index
    hits = find(searched, queries, options.count)
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


def _embed_queries(
    paraclap: "ParaCLAP", descriptions: Sequence[str], examples: Sequence[str]
) -> "dict[str, np.ndarray]":
    """Return name -> embedding (D,) of descriptions and of audio examples."""
    from paraclap.corpora.table import read_clips

    queries: dict[str, np.ndarray] = {}
    if descriptions:
        texts = list(dict.fromkeys(descriptions))
        queries = dict(zip(texts, paraclap.embed_text(texts), strict=True))
    clips = read_clips(examples)
    places = clips[["root", "file", "start", "end"]].itertuples(index=False, name=None)
    for name, embedding in zip(clips["name"], paraclap.embed_clips(places), strict=True):
        if isinstance(embedding, AudioError):
            raise embedding
        queries[f"like {name}"] = embedding
    return queries


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    index = commands.add_parser("index", help="make or update an index")
    add = index.add_argument
    add("model", metavar="MODEL", help="run folder, model folder, or Hub name")
    add("sources", nargs="+", metavar="SOURCE", help="files, folders, patterns, tables, NAME=ROOT")
    add("-o", "--output", type=Path, required=True, help="folder of the index")
    add("--batch-seconds", type=float, default=BATCH_SECONDS, help="padded audio per batch [s]")
    add("--device", help="cpu, cuda, cuda:1; default: a GPU if available")
    add("--approximate", action="store_true", help="faster queries of millions of clips")
    query = commands.add_parser("query", help="search an index")
    add = query.add_argument
    add("index", type=Path, metavar="INDEX", help="folder of the index")
    add("descriptions", nargs="*", metavar="TEXT", help="descriptions of the voice")
    add("--like", nargs="+", metavar="AUDIO", help="example recordings")
    add("--count", type=int, default=10, help="clips per query (%(default)s)")
    add("--page", type=output_file, metavar="FILE.html", help="page with players")
    add("-o", "--output", type=output_file, metavar="FILE.csv", help="table of the results")
    add("--exact", action="store_true", help="compare every clip despite an approximate index")
    add("--model", help="place of the model, if it was moved")
    add("--device", help="cpu, cuda, cuda:1; default: a GPU if available")
    options = parser.parse_args(arguments)
    if options.command == "query" and not (options.descriptions or options.like):
        query.error("give a description, or --like AUDIO")
    if options.command == "query" and options.count < 1:
        query.error(f"--count {options.count}, expected at least 1")
    return options
