r"""Ask a trained model about recordings in words.

    python predict.py runs/small clip.wav --prompts angry calm bored \
        --template "the speaker sounds {}"
    python predict.py runs/small recordings/ "more/**/*.flac" --prompts angry calm -o answers.csv
    find . -name "*.mp3" | python predict.py runs/small - --prompts angry calm --format json
    python predict.py runs/small meeting.flac --windows 3 --hop 1 --prompts angry calm \
        --plot timelines
    arecord -q -t raw -f S16_LE -r 16000 -c 1 | \
        python predict.py runs/small --stdin-pcm 16000 --windows 3 --hop 1 --prompts angry calm
    python predict.py runs/small clip.wav --describe --edges captions.edges.json
    python predict.py --onnx out/small-onnx clip.wav --prompts angry calm

What is asked about: audio files, folders, patterns in quotes (** for any folders), tables of
segments (.csv, .tsv, .parquet with file, start, end [s]), sources as evaluate.py takes them, and -
for a list of these on stdin, one a line. --prompts takes texts, or one YAML file of lines
`name: prompt` or `name: [wording, wording]`.

Columns: `best` is the prompt whose cosine with the clip is largest. `probability.QUERY` is the
softmax over the given prompts of the cosines times the model's learned scale: it tells which of
them fits best, given that one does; it adds up to 1 even if all are wrong, and a single prompt
always gets 1. `none_of_these` is what a class more would get, that of sentences which are true of
any speech ("a person is speaking", "speech", ...): near 1, no prompt fits better than saying
nothing. It does not tell whether there is speech. `cosine.QUERY` does not depend on the other
prompts, and can be compared between clips. CSV and JSON hold all of them, and `error` for clips
that could not be read; the table on screen holds the probabilities.

--windows SECONDS asks about every window of a recording of any length, in bounded memory. Windows
start every --hop seconds (default: the window); where a rest is left, one more window ends with the
recording, so each is full; a recording shorter than a window is one. --plot FOLDER draws
probabilities over time, one picture for each recording.

--stdin-pcm RATE reads raw 16-bit little-endian mono samples from a pipe, such as a microphone
(`arecord`, above) or anything else (`ffmpeg -i URL -f s16le -ac 1 -ar 16000 -`), and prints a
line as soon as a window is complete, until the pipe ends.

--describe measures each clip (eGeMAPS), words it with the edges of a training corpus, and sets
beside it what the model finds nearest among the same phrases. Edges that were fitted by group need
--group gender=female, or whatever the groups are. The exit code is 1 if any clip
could not be read; the others are answered all the same.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from paraclap.audio import SAMPLING_RATE, AudioError
from paraclap.audio.conditioning import RATE_LIMITS
from paraclap.audio.paths import resolve_inside
from paraclap.audio.reading import read_audio
from paraclap.cli.options import RenamedOption
from paraclap.corpora.readers import CorpusError
from paraclap.corpora.table import SOURCE_FORMS, read_clips
from paraclap.evaluation.embed import BATCH_SECONDS
from paraclap.evaluation.prompts import PROMPT_FILES, load_prompts
from paraclap.files import write_text
from paraclap.inference.api import ParaCLAP, Prompts
from paraclap.inference.predict import (
    FORMATS,
    answer_clips,
    answer_stream,
    texts_of,
    write_timelines,
)

# --- Command line --------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parse(arguments)
    # A wrong path, a missing table: found before the model is loaded.
    clips = pd.DataFrame() if options.stdin_pcm else _read_arguments(options.audio)
    if options.onnx:
        paraclap = ParaCLAP.from_onnx(options.onnx, options.int8, options.batch_seconds)
    else:
        paraclap = ParaCLAP.from_pretrained(options.model, options.device, options.batch_seconds)
    if options.describe:
        return _describe(paraclap, clips, options.edges, dict(options.group))
    question = paraclap.ask(_prompts(options.prompts), options.template)
    if options.stdin_pcm:
        place = (sys.stdin.buffer, options.stdin_pcm)
        answers = answer_stream(paraclap, *place, question, options.windows, options.hop)
    else:
        answers = answer_clips(paraclap, clips, question, options.windows, options.hop)
        answers = tqdm(answers, "clips", len(clips), unit="clip", disable=None, leave=False)
    if options.plot:
        answers = write_timelines(options.plot, answers)
    failures: list[str] = []
    answers = _noting_failures(answers, failures)
    _write(texts_of(answers, question.names, options.format), options.output)
    if failures:
        told = f"{len(failures)} clips without an answer, the first: {failures[0]}"
        print(f"predict.py: {told}", file=sys.stderr)
    return int(bool(failures))


def _noting_failures(
    answers: Iterable[pd.DataFrame], failures: list[str]
) -> Iterator[pd.DataFrame]:
    """Hand answers on, and add an error of each clip that has any to the list."""
    for table in answers:
        failures += table.loc[table["error"] != "", "error"].head(1).tolist()
        yield table


def _write(texts: Iterable[str], output: Path | None) -> None:
    """Write to the screen at once, or to a file as a whole."""
    if output is not None:
        write_text(output, "".join(texts))
        print(f"written to {output}")
        return
    for text in texts:
        sys.stdout.write(text)
        sys.stdout.flush()


def _describe(
    paraclap: ParaCLAP, clips: pd.DataFrame, edges: Path, labels: Mapping[str, str]
) -> int:
    """Print the description of each clip; returns the exit code."""
    failed = 0
    for clip in clips.itertuples(index=False):
        print(clip.name)
        try:
            waveform = read_audio(resolve_inside(clip.root, clip.file), clip.start, clip.end)
            print(paraclap.describe((waveform, SAMPLING_RATE), edges, labels), flush=True)
        except AudioError as error:
            print(f"  {error}", flush=True)
            failed = 1
    return failed


def _read_arguments(arguments: Sequence[str]) -> pd.DataFrame:
    """Return the table of clips; - stands for the lines of stdin."""
    listed: list[str] = []
    for argument in arguments:
        lines = (line.rstrip("\r\n") for line in sys.stdin) if argument == "-" else [argument]
        listed += [line for line in lines if line]
    clips = read_clips(listed)
    if clips.empty:
        raise CorpusError("there is no clip to ask about")
    return clips


def _prompts(given: Sequence[str]) -> Prompts:
    """Return texts, or the content of a YAML file."""
    is_file = len(given) == 1 and Path(given[0]).suffix in PROMPT_FILES
    return load_prompts(given[0]) if is_file else given


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("model", nargs="?", metavar="MODEL", help="run folder, model folder or Hub name")
    add("audio", nargs="*", metavar="AUDIO", help=f"files, patterns, -, {SOURCE_FORMS}")
    add("--prompts", nargs="+", metavar="TEXT", help="what is asked for, or one YAML file")
    add("--template", default="{}", help='put around each prompt, e.g. "the speaker sounds {}"')
    add("-o", "--output", type=Path, help="file; .csv, .json and .jsonl tell the format")
    add("--format", choices=FORMATS, help="of the output (table; json is one list)")
    add("--windows", type=float, metavar="SECONDS", help="ask about windows of this length")
    add("--hop", type=float, metavar="SECONDS", help="from window to window (as long as one)")
    add("--plot", type=Path, metavar="FOLDER", help="pictures of windows over time")
    add("--stdin-pcm", type=_rate, metavar="RATE", help="16-bit mono samples from a pipe [Hz]")
    add("--describe", action="store_true", help="measure clips, and show what the model hears")
    add("--edges", type=Path, help="captions.edges.json, for --describe")
    known = "what all clips are, for edges by group, e.g. gender=female"
    add("--group", nargs="+", type=_label, default=[], metavar="COLUMN=LABEL", help=known)
    add("--onnx", type=Path, metavar="FOLDER", help="in place of MODEL: what was exported")
    add("--int8", action="store_true", help="the 8-bit towers of the export")
    add("--batch-seconds", type=float, default=BATCH_SECONDS, help="padded audio per batch [s]")
    add("--device", help="cpu, cuda, cuda:1; default: a GPU if there is one")
    add("--queries", action=RenamedOption, const="--prompts")
    options = parser.parse_args(arguments)
    if options.onnx and options.model is not None:  # with --onnx, everything named is audio
        options.model, options.audio = None, [options.model, *options.audio]
    problem = next(filter(None, _problems(options)), None)
    if problem:
        parser.error(problem)
    options.hop = options.hop or options.windows
    suffix = options.output.suffix.lower().removeprefix(".") if options.output else ""
    options.format = options.format or (suffix if suffix in FORMATS else FORMATS[0])
    return options


def _problems(options: argparse.Namespace) -> Iterator[str | bool]:
    """Yield what is wrong with a combination of options, and False for what is right."""
    yield not (options.model or options.onnx) and "give a MODEL, or --onnx a folder"
    yield options.int8 and not options.onnx and "--int8 needs --onnx"
    yield bool(options.onnx and options.device) and "--onnx runs on the CPU, without --device"
    size, hop = options.windows, options.hop
    given = bool(options.audio), options.stdin_pcm is not None
    yield sum(given) != 1 and "give either AUDIO or --stdin-pcm"
    yield options.describe == bool(options.prompts) and "give either --prompts or --describe"
    yield options.describe and not options.edges and "--describe needs --edges captions.edges.json"
    yield options.describe and given[1] and "--describe reads files"
    yield bool(options.group) and not options.describe and "--group needs --describe"
    yield size is None and bool(hop) and "--hop needs --windows"
    yield size is None and bool(options.plot) and "--plot needs --windows"
    yield size is None and given[1] and "--stdin-pcm needs --windows"
    yield given[1] and bool(options.plot) and "--plot draws files, not a stream"
    yield size is not None and not 0 < (hop or size) <= size and "expected 0 < --hop <= --windows"


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
