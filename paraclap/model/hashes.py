"""Hashes of the weights and the tokenizer in a model folder, in the form of `sha256sum`.

They are written to `SHA256SUMS` beside the files and checked before the files are loaded. Folders
without this file, as of older versions or other programs, are loaded unchecked.
"""

import re
from pathlib import Path

from paraclap.files import file_sha256, reading
from paraclap.model.sources import ModelError, model_file, read_object

SUMS = "SHA256SUMS"
HASHED = ("*.safetensors", "*.onnx*", "tokenizer.json")
WEIGHTS = "model.safetensors"
ONNX = "onnx.json"
LINE = re.compile(r"([0-9a-f]{64})  ([\w.-]+)")


def write_hashes(folder: Path) -> None:
    """Write the hashes of the files in a complete model folder."""
    files = sorted(path for pattern in HASHED for path in folder.glob(pattern))
    lines = [f"{file_sha256(path)}  {path.name}\n" for path in files if path.name != ONNX]
    (folder / SUMS).write_text("".join(lines))


def check_hashes(model: str | Path) -> None:
    """Check the files of a model folder, or of a Hub name, against their hashes.

    Raises:
        ModelError: if a file is missing or differs.
    """
    for name, expected in _read_hashes(model).items():
        path = model_file(model, name)
        if path is None:
            raise ModelError(f"{model} is incomplete: {SUMS} names {name}")
        with reading(path, ModelError):
            found = file_sha256(path)
        if found != expected:
            raise ModelError(
                f"{path} is damaged or was replaced: its SHA-256 is not that of {SUMS}"
            )


def weights_hash(model: str | Path) -> str | None:
    """Return the SHA-256 of the weights; of an ONNX export, that of the weights it was made from.

    None if they are not in `WEIGHTS`.
    """
    if (export := model_file(model, ONNX)) is not None:
        return read_object(export).get("weights")
    if found := _read_hashes(model).get(WEIGHTS):
        return found
    path = model_file(model, WEIGHTS)
    return None if path is None else file_sha256(path)


def _read_hashes(model: str | Path) -> dict[str, str]:
    """Return file name -> SHA-256; empty if the folder has no hashes."""
    path = model_file(model, SUMS)
    if path is None:
        return {}
    with reading(path, ModelError):
        lines = path.read_text(encoding="utf-8").splitlines()
        matches = [LINE.fullmatch(line) for line in lines]
        if not all(matches):
            raise ModelError(f"{path} is damaged: expected lines of a SHA-256 and a file name")
    return {match[2]: match[1] for match in matches}
