"""Convert, publish and export ParaCLAP models.

    python models.py convert best.pth.tar out/paraclap --tokenizer bert-base-uncased
    python models.py publish runs/small out/small --scores results/scores.yaml --name USER/NAME
    python models.py publish runs/whisper out/whisper --heads
    python models.py export runs/small out/small-onnx --int8

`convert` reads weights in the form in which the authors published theirs (a bare state dict, on the
Hub as KeiKinn/paraclap), without downloading the base encoders; `publish` reads a run folder or a
model folder. Both write a folder with a model card, ready for `hf upload USER/NAME out/small`, that
train.py, evaluate.py, transformers (`AutoModel`, `AutoProcessor`, `pipeline`) and
sentence-transformers load. The scores must be those of the same weights. With --with-record the
folder includes hashes of the training clips, by which evaluate.py recognises them, but no names of
speakers. With --heads, weights of pretrained encoders that were frozen in training are left out:
they are fetched from the Hub by name, or from the folder $PARACLAP_ENCODERS, and others of that
name are refused by their hash. `export` writes both towers as ONNX. A folder is written completely
or not at all.
"""

import argparse
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paraclap.files import read_yaml
from paraclap.model.sources import ModelError, check_source, find_model, free_folder, read_object


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_count(value: Any) -> bool:
    return value is None or type(value) is int


def _is_interval(value: Any) -> bool:
    return value is None or (type(value) is list and list(map(_is_number, value)) == [True, True])


def _is_record(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("text", ""), str)


FIGURES = {  # of a corpus in scores.yaml, in model cards
    **dict.fromkeys(("UAR", "ACC", "F1", "chance"), (_is_number, "a number")),
    **dict.fromkeys(("clips", "speakers", "classes"), (_is_count, "a whole number")),
    "interval": (_is_interval, "two numbers"),
    "target": (lambda value: isinstance(value, str), "a text"),
    "trained_on": (_is_record, "a mapping with a text"),
}
SOURCES = {
    "convert": "best.pth.tar, a folder that holds it, or a Hub name (KeiKinn/paraclap)",
    "publish": "run folder, its best/ or last/, a model folder, or a Hub name",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parse(arguments)
    (check_source if options.command == "convert" else find_model)(options.source)
    output = free_folder(options.output)
    if options.command == "export":
        return _export(options, output)
    card = {
        "scores": _read_scores(options.scores),
        "name": options.name,
        "licence": options.license,
    }
    # Imported when all arguments have been checked: torch and transformers take seconds.
    from paraclap.model.publish import convert, publish

    if options.command == "publish":
        record = _record(options) if options.with_record else None
        bases = {"audio": options.base_audio, "text": options.base_text}
        bases = {branch: name for branch, name in bases.items() if name}
        publish(options.source, output, options.heads, bases, **card)
        if record is not None:
            record.save(output)
    else:
        towers = {"config": _read_config(options.config), "sha256": options.sha256}
        if options.tokenizer:
            towers["tokenizer"] = options.tokenizer
        convert(options.source, output, **towers, **card)
    name = options.name or "USER/NAME"
    print(f"written to {output}; `hf upload {name} {shlex.quote(str(output))}` puts it on the Hub")
    return 0


def _record(options: argparse.Namespace) -> Any:
    """Return the record of the training clips, without the names of the speakers.

    Raises:
        ModelError: if the model has none.
    """
    from paraclap.data.trained_on import load

    record = load(options.source)
    if record.clips is None:
        raise ModelError(f"--with-record: {options.source} has no record of its training clips")
    return record.without_speakers()


def _export(options: argparse.Namespace, output: Path) -> int:
    """Export a model, and print how far its embeddings are from those of torch."""
    from paraclap.model.build import load_model
    from paraclap.model.hashes import weights_hash
    from paraclap.model.onnx import export_onnx

    weights = weights_hash(find_model(options.source))
    about = export_onnx(*load_model(options.source), output, options.int8, weights)
    print(f"written to {output}, opset {about['opset']}; largest differences from torch:")
    for tower, value in about["differences"].items():
        print(f"  {tower:<6}{value:.1e} in a component of an embedding")
    for tower, value in about.get("int8_distances", {}).items():
        print(f"  {tower:<6}{value:.1e} between embeddings (1 - cosine), int8")
    return 0


def _read_scores(path: str | None) -> dict[str, Any] | None:
    """Read the scores.yaml of evaluate.py.

    Raises:
        ModelError: if the file cannot be read or is something else.
    """
    if path is None:
        return None
    document = read_yaml(path, ModelError)
    if not isinstance(document, dict) or not isinstance(document.get("corpora"), dict):
        raise ModelError(
            f"--scores {path} has no `corpora`, expected the scores.yaml of evaluate.py"
        )
    for name, figures in document["corpora"].items():
        if not isinstance(name, str) or not isinstance(figures, dict):
            raise ModelError(f"--scores {path}: {name!r} is no corpus with scores (use quotes)")
        for key, (fits, expected) in FIGURES.items():
            if key in figures and not fits(figures[key]):
                raise ModelError(
                    f"--scores {path}: {key} of {name} is {figures[key]!r}, expected {expected}"
                )
    prompts = document.get("prompt_set", "")
    if not all(isinstance(part, str) for part in (prompts if type(prompts) is list else [prompts])):
        raise ModelError(f"--scores {path}: prompt_set is {prompts!r}, expected texts")
    return document


def _read_config(path: str | None) -> Any:
    """Read the configuration of a checkpoint with other towers; None without a path."""
    if path is None:
        return None
    from paraclap.model.modeling_paraclap import ParaCLAPConfig
    from paraclap.model.towers import as_model_error

    content = read_object(path)
    with as_model_error(f"--config {path}"):
        return ParaCLAPConfig(**content)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="models.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    parsers = {
        name: commands.add_parser(name, help=f"from {text}") for name, text in SOURCES.items()
    }
    for name, command in parsers.items():
        command.add_argument("source", help=SOURCES[name])
        command.add_argument("output", help="folder to write; must not exist, or be empty")
        command.add_argument(
            "--scores",
            type=os.path.expanduser,
            help="scores.yaml of evaluate.py, for the model card",
        )
        command.add_argument("--name", help="name on the Hub in the model card, USER/NAME")
        command.add_argument("--license", help="of the weights, as an identifier of the Hub (mit)")
    export = commands.add_parser("export", help='to ONNX (pip install "paraclap[onnx]")')
    export.add_argument("source", help=SOURCES["publish"])
    export.add_argument("output", help="folder to write; must not exist, or be empty")
    export.add_argument("--int8", action="store_true", help="also with weights in 8 bits")
    add = parsers["publish"].add_argument
    add("--with-record", action="store_true", help="include hashes of the training clips")
    add("--heads", action="store_true", help="without the weights of frozen pretrained encoders")
    for branch in ("audio", "text"):
        add(
            f"--base-{branch}",
            metavar="NAME[@REVISION]",
            help=f"with --heads: name of the {branch} encoder on the Hub, if trained from a folder",
        )
    add = parsers["convert"].add_argument
    add("--tokenizer", type=os.path.expanduser, help="Hub name or folder (bert-base-uncased)")
    add("--sha256", help="expected hash of the file")
    add("--config", type=os.path.expanduser, help="config.json of a checkpoint with other towers")
    return parser.parse_args(arguments)
