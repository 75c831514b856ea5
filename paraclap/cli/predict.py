r"""Score recordings against text prompts with a trained model.

    python predict.py runs/small clip.wav --prompts angry calm bored \
        --template "the speaker sounds {}"
    python predict.py clip.wav --prompts angry calm               # the installed model
    python predict.py runs/small recordings/ "more/**/*.flac" --prompts angry calm -o scores.csv
    find . -name "*.mp3" | python predict.py runs/small - --prompts angry calm --format json
    python predict.py runs/small meeting.flac --windows 3 --hop 1 --prompts angry calm \
        --plot timelines --export annotations
    arecord -q -t raw -f S16_LE -r 16000 -c 1 | \
        python predict.py runs/small --stdin-pcm 16000 --windows 3 --hop 1 --prompts angry calm
    python predict.py runs/small clip.wav --describe --edges captions.edges.json
    python predict.py runs/small clip.wav --prompts angry calm --reference-clips recordings/
    python predict.py --onnx out/small-onnx clip.wav --prompts angry calm

AUDIO is any number of audio files, folders, quoted patterns (** for any folders), tables of
segments (.csv, .tsv, .parquet with file, start, end [s]), sources as for evaluate.py, or - to read
these from stdin, one per line. --prompts takes texts, or one YAML file of lines `name: prompt` or
`name: [prompt, prompt]`, whose embeddings are averaged.

Columns: `prediction` is the prompt with the highest cosine, `confidence` its probability, as in
NAME.csv of evaluate.py. `probability.PROMPT` is the softmax over the given prompts of the cosines
times the learned logit scale: it compares these prompts and sums to 1 even if none of them fits; a
single prompt always gets 1. `none_of_these` is the probability of a catch-all class beside them,
the mean of neutral prompts ("a person is speaking", "speech", ...): near 1, no prompt fits better
than a neutral one. It does not detect speech. `cosine.PROMPT` does not depend on the other prompts,
and can be compared between clips. `quality` holds flags that question a result: silent, unvoiced
(no voice), clipped, offset, silent_channels, truncated; a model scores silence and noise like any
other sound. CSV and JSON hold all columns, and `error` for clips that cannot be read; the table on
screen holds the probabilities.

--windows SECONDS scores the windows of recordings of any length, in bounded memory. Windows start
every --hop seconds (default: the window length). If they do not reach the end, a last window ends
with the recording, so all windows are full; a recording shorter than a window is one window.
--plot FOLDER plots the probabilities over time below the waveform, one figure per clip
(--plot-format pdf or svg). --export FOLDER writes annotations: NUMBER_NAME.TextGrid for Praat and
NUMBER_NAME.csv for ELAN, with a tier of the best prompt and one of each prompt's probabilities,
and segments.parquet, the best prompts of all recordings on audformat's segmented index. --smooth
SECONDS averages the probabilities of neighbouring windows in both. With a table of segments, as of
a voice activity detector, windows lie inside the segments, and the time between them is not
annotated; figures are numbered by segment, annotations by recording. Files of other recordings in
these folders stay there.

--reference-clips FOLDER takes unlabelled clips of the same microphone, room or language, 50 or more
and of all emotions; their mean embedding is subtracted from that of each scored clip, which
compensates for recording conditions. It may be any source, as for evaluate.py. With --windows, they
are cut into windows as well.

--stdin-pcm RATE reads raw 16-bit little-endian mono samples from stdin, for example of a microphone
(`arecord`, above) or of `ffmpeg -i URL -f s16le -ac 1 -ar 16000 -`, and prints a line for each
window as soon as it is complete, or writes it to the file of -o. Ctrl-C ends it.

--describe measures each clip (eGeMAPS), expresses the values in words by the edges of a training
corpus, and compares them with the predictions of the model for the same phrases. Edges that were
fitted by group require --group, e.g. gender=female. The exit code is 1 if any clip cannot be read;
the others are scored.
"""

import argparse
import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from paraclap.audio import AudioError
from paraclap.audio.conditioning import RATE_LIMITS
from paraclap.audio.segments import WindowError
from paraclap.cli.options import (
    add_reference_clips,
    batch_seconds,
    number,
    output_file,
    path_of,
    read_reference,
    renamed,
    use_reference,
    with_default_model,
)
from paraclap.corpora.options import add_table_options
from paraclap.files import make_folder, refuse_overwriting
from paraclap.inference.limits import check_windows
from paraclap.settings import BATCH_SECONDS
from paraclap.style import FORMATS as FIGURES

if TYPE_CHECKING:
    import pandas as pd

    from paraclap.inference.api import ParaCLAP
    from paraclap.inference.predict import Summary

FORMATS = ("table", "csv", "json", "jsonl")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parse(arguments)
    if options.describe:
        from paraclap.inference.measurement import check_labels

        check_labels(options.edges, dict(options.group))
    clips = None if options.stdin_pcm else _read_clips(options)
    reference = read_reference(options.reference_clips)
    prompts = _read_prompts(options.prompts or [])
    if options.output:
        recordings = [] if clips is None else map(os.path.join, clips["root"], clips["file"])
        read = [*options.audio, *filter(None, [options.reference_clips]), *recordings]
        refuse_overwriting(options.output, read)
        make_folder(options.output.parent)
    if options.export:
        from paraclap.inference.timelines import SEGMENTS

        refuse_overwriting(options.export / SEGMENTS, options.audio)
    for folder in filter(None, (options.plot, options.export)):
        make_folder(folder)
    # torch and transformers take seconds to import: after arguments, prompts and clips are checked.
    from paraclap.inference.api import ParaCLAP

    if options.onnx:
        paraclap = ParaCLAP.from_onnx(options.onnx, options.int8, options.batch_seconds)
    else:
        paraclap = ParaCLAP.from_pretrained(options.model, options.device, options.batch_seconds)
    use_reference("predict.py", paraclap, reference, options.windows)
    if options.describe:
        return _describe(paraclap, clips, options.edges, dict(options.group))
    return _score(paraclap, clips, prompts, options)


def _score(
    paraclap: "ParaCLAP",
    clips: "pd.DataFrame | None",
    prompts: Sequence[str] | Mapping[str, Sequence[str]],
    options: argparse.Namespace,
) -> int:
    """Write the scores of clips, or of a stream; returns the exit code."""
    from paraclap.inference.predict import (
        Summary,
        formatted,
        score_clips,
        score_stream,
        write_scores,
    )
    from paraclap.inference.timelines import write_annotations, write_timelines

    classifier = paraclap.classifier(prompts, options.template)
    size = options.windows, options.hop
    if clips is None:
        stream, rate = sys.stdin.buffer, options.stdin_pcm
        scores = score_stream(paraclap, stream, rate, classifier, *size)
    else:
        scores = score_clips(paraclap, clips, classifier, *size)
    smooth = options.smooth and max(1, round(options.smooth / options.hop))
    if options.plot:
        scores = write_timelines(options.plot, scores, clips, options.plot_format, smooth)
    if options.export:
        scores = write_annotations(options.export, scores, clips, classifier.names, smooth)
    summary = Summary()
    texts = formatted(summary.counting(scores), classifier, options.format)
    if options.output:
        write_scores(options.output, texts, live=clips is None)
        print(f"written to {options.output}")
    else:
        for text in texts:
            print(text, end="", flush=True)
    return _report(summary, classifier.untrained, options)


def _report(summary: "Summary", untrained: Sequence[str], options: argparse.Namespace) -> int:
    """Print what else is to know about the scores on stderr; returns the exit code."""
    if untrained:
        found = "no caption of the training describes these prompts"
        print(f"predict.py: not trained: {', '.join(untrained)} ({found})", file=sys.stderr)
    if options.plot:
        print(f"figures are in {options.plot}", file=sys.stderr)
    if options.export:
        print(f"annotations are in {options.export}", file=sys.stderr)
    if summary.flags:
        counts = ", ".join(f"{count} {flag}" for flag, count in summary.flags.most_common())
        items = "windows" if options.windows else "clips"
        found = f"check the recordings: of {summary.rows} {items}, {counts}"
        print(f"predict.py: {found}", file=sys.stderr)
    if summary.errors:
        found = f"{summary.errors} unreadable clips, the first: {summary.first_error}"
        print(f"predict.py: {found}", file=sys.stderr)
    return int(summary.errors > 0)


def _describe(
    paraclap: "ParaCLAP", clips: "pd.DataFrame", edges: Path, labels: Mapping[str, str]
) -> int:
    """Print the description of each clip; returns the exit code."""
    from paraclap.audio.paths import resolve_inside

    code = 0
    for clip in clips.itertuples(index=False):
        print(clip.name)
        try:
            path = resolve_inside(clip.root, clip.file)
            print(paraclap.describe(path, edges, labels, clip.start, clip.end), flush=True)
        except AudioError as error:
            print(f"  {error}", flush=True)
            code = 1
    return code


def _read_clips(options: argparse.Namespace) -> "pd.DataFrame":
    """Return the table of clips; the argument - is replaced by the lines of stdin."""
    from paraclap.audio.shards import find_member
    from paraclap.corpora import CorpusError
    from paraclap.corpora.table import read_clips

    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # names need not be UTF-8
    listed: list[str] = []
    for argument in options.audio:
        lines = (line.rstrip("\r\n") for line in sys.stdin) if argument == "-" else [argument]
        listed += [line for line in lines if line]
    clips = read_clips(listed, options.root, options.columns)
    if clips.empty:
        raise CorpusError("no clips given")
    places = zip(clips["root"], clips["file"], strict=True)
    if not any(os.path.exists(os.path.join(*place)) or find_member(*place) for place in places):
        raise CorpusError(f"{clips['name'].iloc[0]} does not exist")
    return clips


def _read_prompts(given: Sequence[str]) -> Sequence[str] | Mapping[str, Sequence[str]]:
    """Return texts unchanged, or the prompts of a YAML file."""
    from paraclap.evaluation.prompts import PROMPT_FILES, load_prompts

    is_file = len(given) == 1 and Path(given[0]).suffix in PROMPT_FILES
    return load_prompts(given[0]) if is_file else given


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "model",
        nargs="?",
        metavar="MODEL",
        help="run folder, model folder, or Hub name (the installed model)",
    )
    add(
        "audio", nargs="*", metavar="AUDIO", help="files, folders, patterns, tables, NAME=ROOT or -"
    )
    add_table_options(parser)
    add("--prompts", nargs="+", metavar="TEXT", help="prompts, or one YAML file")
    add("--template", help='text for {} = prompt, e.g. "the speaker sounds {}"')
    written = output_file(".csv", ".json", ".jsonl", ".txt")
    add("-o", "--output", type=written, help="file; .csv, .json and .jsonl select the format")
    add("--format", choices=FORMATS, help="of the output (table; json is one list)")
    add("--windows", type=float, metavar="SECONDS", help="score windows of this length")
    add("--hop", type=float, metavar="SECONDS", help="from window to window (window length)")
    add("--plot", type=path_of, metavar="FOLDER", help="figures of windows over time")
    add("--plot-format", choices=FIGURES, default="png", help="of these figures (%(default)s)")
    add("--export", type=path_of, metavar="FOLDER", help="annotations for Praat, ELAN, audformat")
    add("--smooth", type=number(0, 3600), metavar="SECONDS", help="of moving averages over windows")
    add("--stdin-pcm", type=_rate, metavar="RATE", help="16-bit mono samples on stdin, rate [Hz]")
    add("--describe", action="store_true", help="compare measured with predicted levels")
    add("--edges", type=path_of, help="captions.edges.json, for --describe")
    group = "labels of all clips, for edges by group, e.g. gender=female"
    add("--group", nargs="+", type=_label, default=[], metavar="COLUMN=LABEL", help=group)
    add_reference_clips(parser)
    add("--onnx", type=path_of, metavar="FOLDER", help="exported model, instead of MODEL")
    add("--int8", action="store_true", help="use the 8-bit encoders of the export")
    seconds = "padded audio per batch [s]"
    add("--batch-seconds", type=batch_seconds, default=BATCH_SECONDS, help=seconds)
    add("--device", help="cpu, cuda, cuda:1; default: a GPU if available")
    add("--queries", type=renamed("--prompts"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.onnx and options.model is not None:  # with --onnx, the first positional is audio
        options.model, options.audio = None, [options.model, *options.audio]
    if not options.onnx:
        options.model, options.audio = with_default_model(
            "predict.py", options.model, options.audio
        )
    problem = next(filter(None, _problems(options)), None)
    if problem:
        parser.error(problem)
    options.hop = options.hop or options.windows
    options.template = options.template or "{}"
    suffix = options.output.suffix.lower().removeprefix(".") if options.output else ""
    options.format = options.format or (suffix if suffix in FORMATS else FORMATS[0])
    return options


def _problems(options: argparse.Namespace) -> Iterator[str | bool | None]:
    """Yield a message for each invalid combination of options, and False or None otherwise."""
    yield options.int8 and not options.onnx and "--int8 requires --onnx"
    yield bool(options.onnx and options.device) and "--onnx runs on the CPU, without --device"
    size, hop = options.windows, options.hop
    given = bool(options.audio), options.stdin_pcm is not None
    yield sum(given) != 1 and "give either AUDIO or --stdin-pcm"
    yield options.describe == bool(options.prompts) and "give either --prompts or --describe"
    yield options.describe and not options.edges and "--describe requires --edges"
    yield options.describe and given[1] and "--describe cannot be combined with --stdin-pcm"
    ignored = "output format windows hop plot export smooth template".split()
    for name in ignored if options.describe else ():
        yield bool(getattr(options, name)) and f"--describe cannot be combined with --{name}"
    yield bool(options.group) and not options.describe and "--group requires --describe"
    yield size is None and hop is not None and "--hop requires --windows"
    for name in ("plot", "export", "smooth"):
        yield size is None and bool(getattr(options, name)) and f"--{name} requires --windows"
    yield size is None and given[1] and "--stdin-pcm requires --windows"
    for name in ("plot", "export"):
        found = f"--{name} cannot be combined with --stdin-pcm"
        yield given[1] and bool(getattr(options, name)) and found
    beside = options.plot or options.export
    yield bool(options.smooth) and not beside and "--smooth requires --plot or --export"
    if size is not None:
        try:
            check_windows(size, size if hop is None else hop)
        except WindowError as error:
            yield f"--windows and --hop: {error}"


def _label(text: str) -> tuple[str, str]:
    """Return a column and a label."""
    column, sign, label = text.partition("=")
    if not (column and sign and label):
        raise argparse.ArgumentTypeError(f"{text!r}, expected COLUMN=LABEL")
    return column, label


def _rate(text: str) -> int:
    """Return a sampling rate [Hz]."""
    low, high = RATE_LIMITS
    if not text.isdecimal() or not low <= int(text) <= high:
        raise argparse.ArgumentTypeError(f"{text} Hz, expected {low} to {high}")
    return int(text)
