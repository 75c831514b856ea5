"""Prompts in words never used in training, and how a text tower reads them.

    python -m experiments.wordings runs/small

prints, for each group of wordings.yaml, into how many pieces the tokenizer of a model cuts its
words, and how many of them it does not know; captions are worded as the first row.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import yaml
from transformers import PreTrainedTokenizerBase

from paraclap.evaluation.prompts import Prompts
from paraclap.model.build import load_model

FILE = Path(__file__).parent / "wordings.yaml"
CAPTIONS = "as in captions"


def load_wordings(path: Path = FILE) -> dict[str, Prompts]:
    """Read group -> class -> wordings."""
    groups = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {
        group: {label: tuple(wordings) for label, wordings in classes.items()}
        for group, classes in groups.items()
    }


def words_of(text: str) -> list[str]:
    """Words of a text in lower case."""
    return re.findall(r"[^\W\d_]+", text.lower())


def count_pieces(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> dict[str, int]:
    """Count words, the pieces that a tokenizer cuts them into, and those that it does not know."""
    words = [word for text in texts for word in words_of(text)]
    pieces = [piece for word in words for piece in tokenizer.tokenize(word)]
    unknown = pieces.count(tokenizer.unk_token)
    return {"words": len(words), "pieces": len(pieces), "unknown": unknown}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="run folder, model folder or Hub name")
    _, processor = load_model(parser.parse_args(arguments).model)
    groups = load_wordings()
    classes = list(next(iter(groups.values())))
    asked = {CAPTIONS: {label: (f"the speaker sounds {label}",) for label in classes}, **groups}
    rows = {
        group: count_pieces(processor.tokenizer, [t for texts in prompts.values() for t in texts])
        for group, prompts in asked.items()
    }
    print(pd.DataFrame(rows).T.to_string())
    return 0


if __name__ == "__main__":
    sys.exit(main())
