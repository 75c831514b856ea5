"""Search recordings by a description of the voice, or by an example.

    python search.py index runs/small /data/recordings ravdess=/data/RAVDESS -o index
    python search.py query index "a calm deep voice speaking slowly" "an angry woman"
    python search.py query index "the speaker sounds sad" --count 20 --page sad.html
    python search.py query index --like example.wav -o hits.csv
    python search.py query index "the speaker sounds angry" --like example.wav --together
    python search.py query index "a calm voice" --where gender=female --where "age<=40"
    python search.py prune index                                 # without deleted files
    python search.py index runs/small /data/recordings -o index --approximate
    python search.py index /data/recordings -o index                       # the installed model

`index` embeds audio files, quoted patterns, folders and sources as in predict.py, and stores the
embeddings. Run again, it embeds new and changed clips, removes clips that are no longer there, and
continues after an interruption. The exit code is 1 if a clip cannot be read; the others are
indexed. --approximate also builds an approximate index for faster queries of millions of clips
(faiss: pip install "paraclap[search]"); later updates rebuild it. Labels of tables and corpora are
stored for --where. `prune` removes the clips whose files no longer exist, without model or sources.

`query` compares every clip with each description or example, exactly. With an approximate index it
compares only likely clips and may miss some, unless --exact is given. The model must be that of the
index (--model gives its place if it was moved). The score is the cosine of the embeddings: it ranks
clips for one query, but does not show how well the best of them fits. --page writes an HTML
page with players; it links recordings by relative paths, so it can be moved together with them.

--where CONDITION, which may be given several times, searches only among clips whose labels meet all
conditions: speaker=03, emotion!=anger, or with numbers age<=40; it compares every clip. --together
joins all descriptions and examples to one query, the mean of their embeddings.

--reference-clips FOLDER takes 50 or more unlabelled clips like those of the index, with all kinds
of voices; their mean embedding is subtracted from those of clips and examples, which compensates
for recording conditions. It compares every clip.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from paraclap.audio import AudioError
from paraclap.cli.options import (
    add_reference_clips,
    batch_seconds,
    output_file,
    path_of,
    read_reference,
    use_reference,
    with_default_model,
)
from paraclap.corpora.options import add_table_options
from paraclap.files import make_folder, refuse_overwriting, write_text
from paraclap.model.sources import ModelNotFoundError, find_model, is_installed
from paraclap.settings import BATCH_SECONDS
from paraclap.signals import stopping

if TYPE_CHECKING:
    import numpy as np

    from paraclap.inference.api import ParaCLAP


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parse(arguments)
    return {"index": _index, "query": _query, "prune": _prune}[options.command](options)


# torch and transformers take seconds to import: after arguments, model and clips are checked.


def _index(options: argparse.Namespace) -> int:
    """Make or update an index; returns the exit code."""
    model = find_model(options.model)
    from paraclap.corpora.table import read_clips

    clips = read_clips(options.sources, options.root, options.columns, labels=True)
    from paraclap.inference.index import ClipIndex, claim_index

    claim_index(options.output)
    from paraclap.inference import approximate
    from paraclap.inference.api import ParaCLAP
    from paraclap.inference.index_update import update_index

    paraclap = ParaCLAP.from_pretrained(options.model, options.device, options.batch_seconds)
    folder = model if is_installed(options.model) else Path(options.model)
    source = str(folder.resolve()) if isinstance(model, Path) else options.model
    with stopping("stopped, repeat the same command to continue"):
        update = update_index(options.output, paraclap, source, clips)
    print(
        f"{options.output}: {update.clips} clips, {update.embedded} newly embedded,"
        f" {update.removed} removed"
    )
    if update.repeated:
        print(f"{update.repeated} clips are given more than once, indexed once")
    for name, reason in update.failures.items():
        print(f"search.py: {name}: {reason}", file=sys.stderr)
    if options.approximate or approximate.is_prepared(options.output):
        print(approximate.build(ClipIndex(options.output)))
    return int(bool(update.failures))


def _prune(options: argparse.Namespace) -> int:
    """Remove clips without a file from an index; returns the exit code."""
    from paraclap.inference import approximate
    from paraclap.inference.index import ClipIndex
    from paraclap.inference.index_update import remove_deleted

    update = remove_deleted(options.index)
    print(
        f"{options.index}: {update.clips} clips, {update.removed} removed, as their files are gone"
    )
    if update.removed and update.clips and approximate.is_prepared(options.index):
        print(approximate.build(ClipIndex(options.index)))
    return 0


def _query(options: argparse.Namespace) -> int:
    """Search an index; returns the exit code."""
    from paraclap.inference.index import ClipIndex, check_model

    for path in filter(None, (options.output, options.page)):
        refuse_overwriting(path, options.like or [])
        make_folder(path.parent)
    index = ClipIndex(options.index)
    from paraclap.inference.search import NOT_TRAINED, find, hit_notes, join, result_page, select

    among = select(index.clips, options.where) if options.where else None
    reference = read_reference(options.reference_clips)
    if not options.model and not Path(index.model).is_dir():
        raise ModelNotFoundError(
            f"{options.index} was made with the model {index.model}, which is no folder here:"
            " give the model with --model"
        )
    find_model(options.model or index.model)
    from paraclap.data.trained_on import untrained
    from paraclap.inference import approximate
    from paraclap.inference.api import ParaCLAP

    paraclap = ParaCLAP.from_pretrained(options.model or index.model, options.device)
    check_model(options.index, paraclap.fingerprints())
    use_reference("search.py", paraclap, reference)
    index.reference = paraclap.reference
    queries, failures = _embed_queries(paraclap, options.descriptions, options.like or [])
    compares_all = options.exact or among is not None or reference is not None
    is_exact = compares_all or not approximate.is_prepared(options.index)
    searched = index if is_exact else approximate.ApproximateIndex(index)
    unknown = untrained(paraclap.model.config, options.descriptions)
    if options.together:
        queries = join(queries)
        unknown = list(queries) if unknown else []
    hits = find(searched, queries, options.count, unknown, among)
    if options.output:
        write_text(options.output, hits.to_csv(index=False, lineterminator="\n"))
    for query, rows in hits.groupby("query", sort=False):
        print(query if rows["trained"].all() else f"{query} ({NOT_TRAINED})")
        for hit in rows.itertuples(index=False):
            notes = "".join(f"  ({note})" for note in hit_notes(hit))
            print(f"{hit.rank:4d} {hit.cosine:7.3f}  {hit.name}{notes}")
    if options.page:
        write_text(
            options.page, result_page(hits, options.page, len(index if among is None else among))
        )
        print(f"written to {options.page}")
    for error in failures:
        print(f"search.py: {error}", file=sys.stderr)
    return int(bool(failures))


def _embed_queries(
    paraclap: "ParaCLAP", descriptions: Sequence[str], examples: Sequence[str]
) -> "tuple[dict[str, np.ndarray], list[AudioError]]":
    """Return name -> embedding (D,) of descriptions and audio examples, and errors of examples.

    Raises:
        AudioError: if there is no other query.
        PromptError: if two descriptions are the same tokens.
    """
    from paraclap.corpora.table import read_clips
    from paraclap.evaluation.embed import check_tokens

    queries: dict[str, np.ndarray] = {}
    if descriptions:
        texts = list(dict.fromkeys(descriptions))
        check_tokens(paraclap.processor, {text: (text,) for text in texts})
        queries = dict(zip(texts, paraclap.embed_text(texts), strict=True))
    clips = read_clips(examples)
    places = clips[["root", "file", "start", "end"]].itertuples(index=False, name=None)
    failures = []
    for name, item in zip(clips["name"], paraclap.embed_clips(places), strict=True):
        if isinstance(item, AudioError):
            failures.append(item)
            continue
        name = name.encode(errors="backslashreplace").decode()  # need not be UTF-8
        if item.quality:
            print(f"search.py: check the example {name}: {item.quality}", file=sys.stderr)
        reference = paraclap.reference
        queries[f"like {name}"] = (
            item.embedding if reference is None else reference.centred(item.embedding)
        )
    if failures and not queries:
        raise failures[0]
    return queries, failures


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    index = commands.add_parser("index", help="make or update an index")
    add = index.add_argument
    model = "run folder, model folder, or Hub name (the installed model)"
    add("model", metavar="MODEL", help=model)
    add("sources", nargs="*", metavar="SOURCE", help="files, folders, patterns, tables, NAME=ROOT")
    add("-o", "--output", type=path_of, required=True, help="folder of the index")
    add_table_options(index)
    seconds = "padded audio per batch [s]"
    add("--batch-seconds", type=batch_seconds, default=BATCH_SECONDS, help=seconds)
    add("--device", help="cpu, cuda, cuda:1; default: a GPU if available")
    add("--approximate", action="store_true", help="faster queries of millions of clips")
    query = commands.add_parser("query", help="search an index")
    add = query.add_argument
    add("index", type=path_of, metavar="INDEX", help="folder of the index")
    add("descriptions", nargs="*", metavar="TEXT", help="descriptions of the voice")
    add("--like", nargs="+", metavar="AUDIO", help="example recordings")
    add("--together", action="store_true", help="one query of all descriptions and examples")
    where = "such as speaker=03, emotion!=anger, age<=40; may be given several times"
    add("--where", action="append", metavar="CONDITION", help=where)
    add("--count", type=int, default=10, help="clips per query (%(default)s)")
    add("--page", type=output_file(".html"), metavar="FILE.html", help="page with players")
    add("-o", "--output", type=output_file(".csv"), metavar="FILE.csv", help="table of the results")
    add("--exact", action="store_true", help="compare every clip despite an approximate index")
    add_reference_clips(query)
    add("--model", type=os.path.expanduser, help="place of the model, if it was moved")
    add("--device", help="cpu, cuda, cuda:1; default: a GPU if available")
    prune = commands.add_parser("prune", help="remove deleted files from an index")
    prune.add_argument("index", type=path_of, metavar="INDEX", help="folder of the index")
    # options may stand between MODEL and SOURCE, which argparse takes for unknown arguments
    options, others = parser.parse_known_args(arguments)
    if options.command != "index" or any(text.startswith("-") for text in others):
        parser.parse_args(arguments)  # stops, if there are any
        others = []
    if options.command == "index":
        options.model, options.sources = with_default_model(
            "search.py", options.model, [*options.sources, *others]
        )
        if not options.sources:
            index.error("the following arguments are required: SOURCE")
    if options.command == "query" and not (options.descriptions or options.like):
        query.error("give a description, or --like AUDIO")
    if options.command == "query" and options.count < 1:
        query.error(f"--count {options.count}, expected at least 1")
    return options
