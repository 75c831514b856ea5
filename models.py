"""The model: public names, and the commands `convert`, `publish` and `export`.

    python models.py convert best.pth.tar out/paraclap --tokenizer bert-base-uncased
    python models.py publish runs/small out/small --scores results/scores.yaml --name USER/NAME
    python models.py export runs/small out/small-onnx --int8

    from models import load_model
    model, processor = load_model("runs/small")

The code is in paraclap/model/.
"""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    ROOT = str(Path(__file__).resolve().parent)
    sys.path.insert(0, ROOT)
    import paraclap.cli

    # To the end of the path: third-party code finds Hugging Face's `datasets`, not datasets.py.
    sys.path[:] = [*(p for p in sys.path if os.path.realpath(p) != ROOT), ROOT]
    from paraclap.cli.models import main

    sys.exit(paraclap.cli.run(main, "models.py"))

from paraclap.model.build import Functionals, build_model, load_model
from paraclap.model.modeling_paraclap import (
    FunctionalsFeatureExtractor,
    ParaCLAPConfig,
    ParaCLAPFeatureExtractor,
    ParaCLAPModel,
    ParaCLAPProcessor,
    clip_loss,
    scaled_cosines,
)
from paraclap.model.publish import convert, publish
from paraclap.model.towers import train_tokenizer
from paraclap.settings import MelSettings, ModelSettings, TowerSettings

__all__ = [
    "Functionals",
    "FunctionalsFeatureExtractor",
    "MelSettings",
    "ModelSettings",
    "ParaCLAPConfig",
    "ParaCLAPFeatureExtractor",
    "ParaCLAPModel",
    "ParaCLAPProcessor",
    "TowerSettings",
    "build_model",
    "clip_loss",
    "convert",
    "load_model",
    "publish",
    "scaled_cosines",
    "train_tokenizer",
]
