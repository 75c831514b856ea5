"""Hashes of the weights, configurations and tokenizer in a model folder, as of `sha256sum`.

They are written to `SHA256SUMS` beside the files and checked before the files are loaded. Folders
without this file, as of older versions or other programs, are loaded unchecked.
"""

import re
from pathlib import Path

from paraclap.files import file_sha256, reading
from paraclap.model.sources import ModelError, model_file, read_object

SUMS = "SHA256SUMS"
HASHED = re.compile(
    r".+\.(safetensors|bin)(\.index\.json)?|.+\.onnx.*|onnx\.json|.*config\.json|tokenizer\..+|"
    r"vocab\..+|merges\.txt|(added_tokens|special_tokens_map)\.json"
)
"""Files that change embeddings."""
WEIGHTS = "model.safetensors"
ONNX = "onnx.json"
LINE = re.compile(r"([0-9a-f]{64})  ([\w.-]+)")


def write_hashes(folder: Path) -> None:
    """Write the hashes of the files in a complete model folder."""
    lines = [f"{file_sha256(folder / name)}  {name}\n" for name in _hashed_files(folder)]
    (folder / SUMS).write_text("".join(lines))


def _hashed_files(folder: Path) -> list[str]:
    names = sorted(path.name for path in folder.iterdir())
    return [name for name in names if HASHED.fullmatch(name) and not name.startswith(".")]


def check_hashes(model: str | Path) -> None:
    """Check the files of a model folder, or of a Hub name, against their hashes.

    Raises:
        ModelError: if a file is missing, differs or is not listed.
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
        present = _hashed_files(path.parent)
    hashes = {match[2]: match[1] for match in matches}
    if not any(name.endswith((".safetensors", ".onnx")) for name in hashes):
        raise ModelError(f"{path} is damaged: it lists no weights")
    if unlisted := [name for name in present if name not in hashes]:
        raise ModelError(f"{path.parent / unlisted[0]} is not listed in {SUMS}")
    return hashes
