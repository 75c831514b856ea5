"""Serve a web page that analyses recordings with a trained model, on this machine only.

    pip install "paraclap[demo]"
    python app.py                                             # the installed model
    python app.py runs/small
    python app.py runs/small --edges captions.edges.json --features features.parquet --index index
    python app.py runs/small --host 0.0.0.0 --port 8080       # reachable from other machines

Upload or record a clip, or choose a synthetic example, and enter prompts, separated by commas or
lines ("quotes, keep commas"). The page states the training data and the scores of the model, from
its card, and shows the probability of each prompt, over time for long recordings (click the curves
to play from there), the measured acoustics with levels (--edges) and percentiles among the training
clips (--features), and the most similar clips of an index (--index), for one recording or two side
by side. Answers can be downloaded as CSV and as a TextGrid of Praat, and a link keeps the prompts.
--reference-clips FOLDER takes unlabelled clips of the same microphone, room or language, 50 or more
and of all emotions; probabilities are relative to their mean embedding.

The page is at http://127.0.0.1:7860, without sharing links or telemetry. After loading the model,
the process can no longer connect to other machines, and the page loads nothing from them. Uploads
are stored in a separate folder, deleted after half an hour and at the end, and are the only files
that visitors can read; requests of other sites are refused. Requests are processed one at a time.
Browsers allow microphone access only to pages of the same machine and over https.
"""

import argparse
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from paraclap.cli.options import (
    add_reference_clips,
    path_of,
    read_reference,
    use_reference,
    with_default_model,
)
from paraclap.errors import MissingPackageError
from paraclap.inference.guards import check_address, page_folder
from paraclap.inference.limits import HOST, MEGABYTES, PORT, SECONDS, WHOLE_SECONDS
from paraclap.model.sources import find_model, model_file

if TYPE_CHECKING:
    import pandas as pd


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parse(arguments)
    if not importlib.util.find_spec("gradio"):
        raise MissingPackageError("gradio", "demo")
    if options.model:
        find_model(options.model)
    else:
        options.model, _ = with_default_model("app.py", None)
    check_address(options.host, options.port)
    _check_data(options)
    reference = read_reference(options.reference_clips)
    with page_folder() as folder:
        _serve(options, folder, reference)
    return 0


def _check_data(options: argparse.Namespace) -> None:
    """Check the files of the page before the model is loaded."""
    from paraclap.inference.index import ClipIndex
    from paraclap.inference.measurement import check_reference

    if options.edges:
        check_reference(options.edges, options.features)
    if options.index:
        ClipIndex(options.index)


def _serve(options: argparse.Namespace, folder: Path, reference: "pd.DataFrame | None") -> None:
    # Imported here, so that --help and wrong arguments need neither torch nor gradio.
    from paraclap.inference.guards import block_connections, prepare_environment

    uploads = folder / "uploads"
    prepare_environment(uploads)  # before gradio reads it
    from paraclap.inference import app
    from paraclap.inference.api import ParaCLAP
    from paraclap.inference.index import ClipIndex
    from paraclap.inference.page import Analyzer

    paraclap = ParaCLAP.from_pretrained(options.model, options.device)
    use_reference("app.py", paraclap, reference, WHOLE_SECONDS)
    index = ClipIndex(options.index) if options.index else None
    analyzer = Analyzer(paraclap, options.edges, options.features, index, options.max_seconds)
    card = model_file(find_model(options.model), "README.md")
    examples = list(app.write_examples(folder / "examples"))
    block_connections(options.host)
    name = Path(options.model).name
    page = app.build_page(analyzer, examples, name, options.max_megabytes, card)
    app.serve(page, options.host, options.port, uploads, options.max_megabytes)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    model = "run folder, model folder or Hub name (the installed model)"
    add("model", nargs="?", metavar="MODEL", help=model)
    add("--edges", type=path_of, help="captions.edges.json, for the levels")
    add("--features", type=path_of, help="features table to which the edges were fitted")
    add("--index", type=path_of, help="index of search.py, for similar clips")
    add_reference_clips(parser)
    add("--host", default=HOST, help="address to bind (%(default)s)")
    add("--port", type=_port, default=PORT, help="(%(default)s)")
    add("--max-megabytes", type=float, default=MEGABYTES, help="largest upload (%(default)g)")
    add("--max-seconds", type=float, default=SECONDS, help="longest recording (%(default)g)")
    add("--device", help="cpu, cuda, cuda:1; default: a GPU if available")
    options = parser.parse_args(arguments)
    if options.features and not options.edges:
        parser.error("--features requires --edges")
    for path in filter(None, (options.edges, options.features, options.index)):
        if not path.exists():
            parser.error(f"{path} does not exist")
    if min(options.max_seconds, options.max_megabytes) <= 0:
        parser.error("--max-seconds and --max-megabytes must be positive")
    return options


def _port(text: str) -> int:
    """Return the number of a port."""
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text}, expected 1 to 65535")
    return int(text)
