"""Time until commands answer: --help, mistyped arguments, wrong paths; evaluate.py on ten clips.

    python -m benchmarks.start
    python -m benchmarks.start --rounds 9 --commands evaluate "-m paraclap.embed"

Each command runs in a new process, in rounds that alternate with all others. The ratio is to
`python -c pass`, in each round. Wall time depends on the load of the machine, CPU time hardly.

evaluate.py embeds ten clips of noise of 3 s by a model of the size of the installed one (Whisper
base, MiniLM) with random weights: without the embedding cache, and from it. Two imports are its
reference: `import torch, transformers`, which leaves out what transformers imports on first use,
and the classes that every model and processor derives from. "Work" is the time of a second
evaluation in the same process; "goal" is 1.3 times the imports of the classes plus the work.
"""

import contextlib
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import pandas as pd
import soundfile

from benchmarks.evaluate import build, make_clips
from benchmarks.report import command_line, parse, report
from benchmarks.timing import Run, alternate, markdown_table, ratios, timed
from paraclap.audio import SAMPLING_RATE
from paraclap.cli import evaluate

ROOT = Path(__file__).resolve().parents[1]
PASS, PACKAGE = "python -c pass", "import paraclap"
PLAIN, CLASSES = "import torch, transformers", "from transformers import PreTrainedModel"
IMPORTS = {
    PLAIN: PLAIN,
    CLASSES: "import torch\nfrom transformers import PreTrainedModel, ProcessorMixin",
}
CLIPS = 10
SECONDS = 3.0
LABELS = ("anger", "happiness")
SPEAKERS = 5
NOWHERE = "/no/such/path"
WRONG = {
    "train": (["optim.lrr=1"], [f"data.root={NOWHERE}", "data.captions=c.parquet"]),
    "evaluate": (["model", "corpus", "--promts"], [NOWHERE, "corpus"]),
    "features": (["corpus", "-o", "f.parquet", "--worker"], [NOWHERE, "-o", "f.parquet"]),
    "predict": (["model", "a.wav", "--promts"], [NOWHERE, "a.wav", "--prompts", "sad"]),
    "search": (["query", "index", "text", "--tops"], ["query", NOWHERE, "text"]),
    "app": (["model", "--ports"], [NOWHERE]),
    "models": (["publish", "model", "folder", "--nam"], ["publish", NOWHERE, "folder"]),
    "preprocessing/template_creation": (
        ["f.parquet", "-o", "c.parquet", "--edge-by"],
        [NOWHERE, "-o", "c.parquet"],
    ),
    "preprocessing/synthetic_corpus": (["-o", "folder", "--speaker"], None),
    "-m paraclap.corpora": (["corpus", "--roots"], [NOWHERE]),
    "-m paraclap.shards": (["corpus", "-o", "folder", "--bytes"], [NOWHERE, "-o", "folder"]),
    "-m paraclap.embed": (
        ["model", "corpus", "-o", "e.parquet", "--devise"],
        [NOWHERE, "corpus", "-o", "e.parquet"],
    ),
    "-m paraclap.compare": (["a", "b", "--all"], [NOWHERE, NOWHERE]),
    "-m paraclap.crossval": (["optim.lrr=1"], [NOWHERE]),
}
"""Command -> arguments with a mistyped one, and with a path that does not exist."""
KINDS = ("--help", "mistyped", "wrong path")


def run(arguments: Sequence[str], folder: Path, expected: Sequence[int] = (0,)) -> None:
    """Run Python in a folder.

    Raises:
        RuntimeError: if the exit code is not expected, or a traceback is shown.
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    if done.returncode not in expected or "Traceback" in done.stderr:
        raise RuntimeError(f"{arguments} ended with {done.returncode}:\n{done.stderr[-2000:]}")


def answers(commands: Sequence[str], folder: Path) -> dict[str, Callable[[], None]]:
    """Return the calls of all commands, by `COMMAND, arguments`."""
    calls = {PASS: partial(run, ["-c", "pass"], folder)}
    calls[PACKAGE] = partial(run, ["-c", PACKAGE], folder)
    for command in commands:
        name = command.split() if command.startswith("-m") else [str(ROOT / f"{command}.py")]
        for kind, words in zip(KINDS, (["--help"], *WRONG[command]), strict=True):
            if words is not None:
                codes = (0,) if kind == "--help" else (1, 2)
                calls[f"{command}, {kind}"] = partial(run, [*name, *words], folder, codes)
    return calls


def write_corpus(folder: Path) -> Path:
    """Write clips of noise and a table of their labels; return the table."""
    rows = []
    for number, clip in enumerate(make_clips(CLIPS, SECONDS, SECONDS)):
        soundfile.write(folder / f"{number}.wav", clip, SAMPLING_RATE)
        label, speaker = LABELS[number % len(LABELS)], str(number % SPEAKERS)
        rows.append({"file": f"{number}.wav", "emotion": label, "speaker": speaker})
    pd.DataFrame(rows).to_csv(folder / "corpus.csv", index=False)
    return folder / "corpus.csv"


def work(arguments: Sequence[str]) -> None:
    """Evaluate in this process, without its output."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        evaluate.main(arguments)


def evaluations(folder: Path, rounds: int) -> list[tuple[str, ...]]:
    """Return the rows of the table of evaluate.py."""
    model, processor = build("whisper")
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    given = [str(folder / "model"), str(write_corpus(folder)), "-o", str(folder / "results")]
    ways = {
        "not cached": [*given, "--no-cache"],
        "cached": [*given, "--cache", str(folder / "cache")],
    }
    calls = {name: partial(run, ["-c", code], folder) for name, code in IMPORTS.items()}
    for name, arguments in ways.items():
        work(arguments)  # also fills the cache
        calls[name] = partial(run, [str(ROOT / "evaluate.py"), *arguments], folder)
    runs = alternate(calls, rounds)
    worked = {name: timed(partial(work, arguments)) for name, arguments in ways.items()}
    return [_evaluation_row(name, runs, worked.get(name)) for name in calls]


def _evaluation_row(name: str, runs: Mapping[str, Sequence[Run]], done: Run | None) -> tuple:
    wall, cpu = _medians(runs[name])
    if done is None:
        return name, f"{wall:.2f}", f"{cpu:.2f}", "-", "-", "-"
    imports = _medians(runs[CLASSES])[1]
    goal = 1.3 * imports + done.cpu
    above = (cpu - done.cpu) / imports
    return (
        *(f"evaluate.py, {name}", f"{wall:.2f}", f"{cpu:.2f}", f"{done.cpu:.2f}"),
        *(f"{goal:.2f}", f"{above:.2f}"),
    )


def _medians(runs: Sequence[Run]) -> tuple[float, float]:
    """Return the medians of wall-clock and CPU time [s]."""
    return median(run.wall for run in runs), median(run.cpu for run in runs)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = command_line(__doc__, __spec__.name)
    add = parser.add_argument
    add("--commands", nargs="*", choices=WRONG, default=list(WRONG), metavar="COMMAND",
        help="(all)")  # fmt: skip
    add("--rounds", type=int, default=5, help="(%(default)s)")
    options = parse(parser, arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        runs = alternate(answers(options.commands, folder), options.rounds)
        evaluated = evaluations(folder, options.rounds)
    rows = []
    for name, found in runs.items():
        wall, cpu = _medians(found)
        rows.append((name, f"{wall:.2f}", f"{cpu:.2f}", ratios(found, runs[PASS], "cpu")))
    head = ("command", "wall [s]", "CPU [s]")
    answered = markdown_table((*head, "ratio of CPU time"), rows)
    about = f"ten clips of {SECONDS:g} s"
    head = (about, "wall [s]", "CPU [s]", "work, CPU [s]", "goal, CPU [s]", "rest / imports")
    report("Start", f"{answered}\n\n{markdown_table(head, evaluated)}", options)


if __name__ == "__main__":
    main()
