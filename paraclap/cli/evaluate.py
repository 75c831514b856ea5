"""Ask a trained model about speech in words, and score its answers.

    python evaluate.py runs/small ravdess=/data/RAVDESS --speakers 21,22,23,24 -o results
    python evaluate.py runs/small emodb=/data/emodb --prompts word sentence ensemble mine.yaml
    python evaluate.py runs/demo data/synthetic --split test --targets emotion gender --probe
    python evaluate.py runs/small emodb=/data/emodb --retrieval emodb_captions.parquet
    python evaluate.py runs/paraclap iemocap=/data/IEMOCAP ravdess=/data/RAVDESS \
        --protocol paper --reference
    torchrun --nproc-per-node=4 evaluate.py runs/paraclap iemocap=/data/IEMOCAP

Each class is asked for by a text prompt, or by the mean embedding of several; a clip gets the class
whose prompt is nearest to it by cosine. Nothing is fitted to the corpus that is scored. A SOURCE is
NAME=ROOT of a known corpus, an audformat database, a table beside its audio or a folder. With a
YAML file of `class: prompt` lines, classes without a line are left out, and their number is told.

--targets names the columns of labels that are asked about. A label that is a number (arousal,
valence, dominance, age) is asked for by opposed prompts ("the speaker is calm", "... aroused"):
UAR and AUC tell the lowest third of the labels from the highest, Spearman's correlation follows
them all. --protocol paper scores every corpus as the paper did: its part, its prompts, its mean
over sessions; --reference shows the figures in print beside ours.

--retrieval finds clips by their captions and captions by their clips: a captions table of
preprocessing/template_creation.py (or any with a column `caption`) for each SOURCE, in the same
order. --probe fits logistic regression to the audio embeddings, cross-validated over speakers: what
the audio side knows, whatever the words are.

Written to the output folder, NAME being the corpus (and the target, unless that is the emotion, and
the prompt set, if there are several): scores.yaml (all figures, the prompts and what was selected),
scores.md (tables to paste), NAME.csv (truth, prediction, confidence, and one cosine per class and
clip) and NAME.png (confusion matrix and calibration). UAR is the mean recall of the classes that
occur (chance: one over their number); its 95 % interval resamples speakers, since clips of one
speaker resemble each other. It is coarse for a handful of speakers. Embeddings of clips are kept in
a cache, by model and content of the file, so that the next questions cost seconds.

--engine chooses how they are computed, with equal results but for rounding: eager, compile,
or onnx, for which MODEL is a folder of `models.py export`; --precision bf16 is not equal.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from paraclap.cli.options import RenamedOption
from paraclap.distributed import TIMEOUT, device_named, processes
from paraclap.evaluation.embed import (
    BATCH_SECONDS,
)
from paraclap.evaluation.prompts import PROMPT_SETS, PUBLISHED
from paraclap.evaluation.zero_shot import (
    evaluate,
)
from paraclap.model.sources import ENGINES, PRECISIONS

PROTOCOLS = ("paper",)
OWN_CHOICES = ("targets", "prompts", "split", "speakers")  # what a protocol decides


# --- Command line --------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parse(arguments)
    device = _device(options)
    with processes(device, options.timeout):
        evaluate(options, device)
    return 0


def _device(options: argparse.Namespace) -> torch.device:
    """Where to embed; onnxruntime is asked on the CPU."""
    on_cpu = options.device == "auto" and options.engine == "onnx"
    return device_named("cpu" if on_cpu else options.device)


def default_cache() -> Path:
    """Folder of the embedding cache: `PARACLAP_CACHE`, or one in the user's cache folder."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("PARACLAP_CACHE") or user / "paraclap" / "embeddings")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("model", help="run folder, its best/ or last/, or a Hub name")
    add("sources", nargs="+", metavar="SOURCE", help="corpora, e.g. ravdess=/data/RAVDESS")
    add("-o", "--output", default="results", help="folder for scores and plots")
    add("--prompts", nargs="+", metavar="SET", help=f"{', '.join(PROMPT_SETS)}, or YAML files")
    add("--targets", nargs="+", metavar="COLUMN", help="labels asked for (emotion)")
    add("--split", type=_comma_list, help="only these splits, e.g. test")
    add("--speakers", type=_comma_list, help="only these speakers, e.g. 21,22,23,24")
    add("--protocol", choices=PROTOCOLS, help="part, target and prompts as published")
    add("--reference", action="store_true", help="show the figures in print beside ours")
    add("--retrieval", nargs="+", metavar="CAPTIONS", help="captions of each SOURCE, to retrieve")
    add("--probe", action="store_true", help="also fit a linear probe to the audio embeddings")
    add("--cache", type=Path, default=default_cache(), help="of embeddings (%(default)s)")
    add("--no-cache", dest="cache", action="store_const", const=None, help="embed everything")
    add("--waveform-cache", type=Path, help="folder of a waveform cache to read, or to write")
    add("--batch-seconds", type=float, default=BATCH_SECONDS, help="padded audio per batch [s]")
    add("--workers", type=int, default=0, help="processes that read audio")
    add("--engine", choices=ENGINES, default="eager", help="how clips are embedded, see engines.py")
    add("--precision", choices=PRECISIONS, default="fp32", help="of the encoders (%(default)s)")
    add("--device", default="auto", help="cpu, cuda, cuda:1; default: a GPU if there is one")
    add("--timeout", type=float, default=TIMEOUT, help="longest wait for another process [s]")
    add("--queries", action=RenamedOption, const="--prompts")
    add("--packed", action=RenamedOption, const="--waveform-cache")
    options = parser.parse_args(arguments)
    if options.protocol:
        given = [f"--{name}" for name in OWN_CHOICES if getattr(options, name) is not None]
        if given:
            parser.error(f"--protocol {options.protocol} decides what {', '.join(given)} would")
    options.prompts = options.prompts or [PUBLISHED]
    options.targets = options.targets or ["emotion"]
    if options.retrieval and len(options.retrieval) != len(options.sources):
        parser.error(
            f"--retrieval has {len(options.retrieval)} tables for {len(options.sources)} sources"
        )
    return options


def _comma_list(text: str) -> list[str]:
    return [value.strip() for value in text.split(",") if value.strip()]
