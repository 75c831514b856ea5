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
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from paraclap.audio import AudioError
from paraclap.corpora.table import SOURCE_FORMS, read_clips
from paraclap.evaluation.embed import BATCH_SECONDS
from paraclap.files import write_text
from paraclap.inference import approximate
from paraclap.inference.api import ParaCLAP
from paraclap.inference.approximate import ApproximateIndex
from paraclap.inference.index import ClipIndex, update_index
from paraclap.inference.search import find, result_page

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
