"""A web page that asks a trained model about a recording, on this machine alone.

    pip install -r requirements-demo.txt
    python app.py runs/small
    python app.py runs/small --edges captions.edges.json --features features.parquet --index index
    python app.py runs/small --host 0.0.0.0 --port 8080       # whoever reaches this machine

Choose a file, record, or take an example of the synthetic corpus; write prompts, one a line. The
page shows how well each fits, over time if the recording is long, what was measured about the
voice, and with --index the nearest of your clips. --edges says what is low and high, --features
where a value lies among the training clips.

The page is at http://127.0.0.1:7860, not shared and without telemetry. Once the model is loaded,
the process is barred from connecting to any other machine, and the page loads nothing from one.
Uploads go into a folder of their own, are deleted half an hour later and at the end, and are the
only files that a visitor can have read. One recording is heard at a time; others wait in line.
Browsers give a microphone to pages of their own machine and to https alone.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from paraclap.inference.api import ParaCLAP
from paraclap.inference.index import ClipIndex
from paraclap.inference.page import (
    Limits,
    Listener,
)

if TYPE_CHECKING:
    pass
from paraclap.inference.app import (
    HOST,
    MEGABYTES,
    PORT,
    bar_connections,
    build_page,
    prepare_environment,
    serve,
    write_examples,
)

# --- Command line --------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parse(arguments)
    with tempfile.TemporaryDirectory(prefix="paraclap-") as folder:
        prepare_environment(Path(folder) / "uploads")
        try:
            import gradio  # noqa: F401
        except ImportError as error:
            raise ImportError(f"{error}: pip install -r requirements-demo.txt") from error
        paraclap = ParaCLAP.from_pretrained(options.model, options.device)
        index = ClipIndex(options.index) if options.index else None
        limits = Limits(options.max_seconds, options.whole, options.window, options.hop)
        listener = Listener(paraclap, options.edges, options.features, index, limits)
        examples = list(write_examples(Path(folder) / "examples"))
        bar_connections(options.host)
        page = build_page(listener, examples, Path(options.model).name, options.max_megabytes)
        serve(page, options.host, options.port, options.max_megabytes)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, limits = parser.add_argument, Limits()
    add("model", metavar="MODEL", help="run folder, model folder or Hub name")
    add("--edges", type=Path, help="captions.edges.json: what is low and high")
    add("--features", type=Path, help="features table that the edges were fitted to")
    add("--index", type=Path, help="of search.py: similar clips are shown")
    add("--host", default=HOST, help="address to bind to (%(default)s)")
    add("--port", type=int, default=PORT, help="(%(default)s)")
    add("--max-megabytes", type=float, default=MEGABYTES, help="largest upload (%(default)g)")
    seconds = {"type": float, "metavar": "SECONDS"}
    add("--max-seconds", default=limits.seconds, help="longest recording (%(default)g)", **seconds)
    add("--whole", default=limits.whole, help="longer ones get a timeline (%(default)g)", **seconds)
    add("--window", default=limits.window, help="of the timeline (%(default)g)", **seconds)
    add("--hop", default=limits.hop, help="from window to window (%(default)g)", **seconds)
    add("--device", help="cpu, cuda, cuda:1; default: a GPU if there is one")
    options = parser.parse_args(arguments)
    if options.features and not options.edges:
        parser.error("--features needs --edges")
    if not 0 < options.hop <= options.window <= options.whole:
        parser.error("expected 0 < --hop <= --window <= --whole")
    if min(options.max_seconds, options.max_megabytes) <= 0:
        parser.error("--max-seconds and --max-megabytes must be above 0")
    return options
