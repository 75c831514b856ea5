"""Locations of models and names of engines, without torch: scripts check arguments first.

The source of a model is a run folder (its `best/` is used), a model folder, the name of a
repository on the Hugging Face Hub, USER/NAME, or `installed`, the model that is installed with the
package.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paraclap.errors import ParaCLAPError
from paraclap.files import reading

ENGINES = ("eager", "compile", "onnx")
PRECISIONS = ("fp32", "bf16")
RUNS = "runs"  # folder of run folders in all configurations
PUBLISHED_MODEL = Path(__file__).parents[1] / "published" / "paraclap-whisper-base"
"""Folder of the model that is installed with the package, without its base encoders."""
INSTALLED = "installed"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


class ModelError(ParaCLAPError, ValueError):
    """A model, tokenizer or model setting that cannot be used."""


class ModelNotFoundError(ParaCLAPError, FileNotFoundError):
    """There is no model at the given location."""


class OutputExistsError(ParaCLAPError, FileExistsError):
    """The output folder exists and is not empty."""


def check_source(source: str | Path) -> None:
    """Check that a source exists, or is the name of a repository on the Hub.

    `mine/small` is a path if there is a folder `mine`, and `runs/small` in any case.

    Raises:
        ModelNotFoundError: if it is neither.
    """
    path = Path(source)
    is_local = path.parent.is_dir() or path.parts[:1] == (RUNS,)
    is_hub_name = HUB_NAME.fullmatch(str(source)) and not is_local
    if not (path.exists() or is_hub_name):
        raise ModelNotFoundError(f"{source} does not exist; a Hub name would be USER/NAME")


def is_installed(source: str | Path) -> bool:
    """Return whether a source is `installed`, and not a path of this name."""
    return str(source) == INSTALLED and not Path(source).exists()


def default_model() -> Path:
    """Return the folder of the model that is installed with the package.

    Raises:
        ModelNotFoundError: if this installation has none.
    """
    if not (PUBLISHED_MODEL / "config.json").is_file():
        raise ModelNotFoundError("this installation has no model of its own; give one")
    return PUBLISHED_MODEL


def model_or_default(first: str | None, others: Sequence[str] = ()) -> tuple[str | Path, list[str]]:
    """Separate the model from the sources of a command line, where it may be missing.

    The first argument is a source if it exists and is no model, or is NAME=ROOT, a pattern or `-`;
    so a mistyped model is an error, and is not replaced by the default.

    Returns:
        The model, `default_model` if there is none, and the sources.

    Raises:
        ModelNotFoundError: if the first argument is neither, or is the folder of a run without a
            model.
    """
    if first is None:
        return default_model(), list(others)
    try:
        find_model(first)
    except ModelNotFoundError:
        path = Path(first)
        is_run = any((path / name).exists() for name in ("config.yaml", "checkpoints"))
        is_source = first == "-" or "=" in first or any(mark in first for mark in "*?[")
        if is_run or not (is_source or path.expanduser().exists()):
            raise
        return default_model(), [first, *others]
    return first, list(others)


def find_model(source: str | Path) -> str | Path:
    """Return the model folder of a source, or its Hub name.

    Raises:
        ModelNotFoundError: if there is no model.
    """
    if is_installed(source):
        return default_model()
    check_source(source)
    folder = Path(source)
    if not folder.exists():
        return str(source)
    if (folder / "best" / "config.json").is_file():
        return folder / "best"
    if not (folder / "config.json").is_file():
        raise ModelNotFoundError(
            f"{folder} holds no model: neither config.json nor best/config.json"
        )
    return folder


def model_file(model: str | Path, name: str) -> Path | None:
    """Return the path of a file in a model folder or a repository of the Hub, None if absent."""
    if Path(model).is_dir():
        path = Path(model) / name
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(str(model), name))
    except (OSError, ValueError):  # no such file, or neither a network nor a copy
        return None


def read_object(path: str | Path) -> dict[str, Any]:
    """Return the content of a JSON file that holds an object, such as config.json.

    Raises:
        ModelError: if it cannot be read or holds something else.
    """
    with reading(path, ModelError):
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds a {type(content).__name__}, expected a JSON object")
    return content


def free_folder(path: str | Path) -> Path:
    """Return the absolute path of a folder that does not exist or is empty.

    Raises:
        OutputExistsError: if there is something else.
    """
    path = Path(path).resolve()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise OutputExistsError(f"{path} exists already; choose another name or remove it first")
    return path
