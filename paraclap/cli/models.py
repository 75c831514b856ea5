r"""Build, load, convert and publish ParaCLAP models; the model itself is in modeling_paraclap.py.

    python models.py convert best.pth.tar out/paraclap --tokenizer bert-base-uncased
    python models.py publish runs/small out/small --scores results/scores.yaml --name USER/NAME
    python models.py export runs/small out/small-onnx --int8

    model, processor = load_model("runs/small")
    inputs = processor(text=["an angry voice"], audio=[waveform], sampling_rate=16_000,
                       padding=True, return_tensors="pt")
    outputs = model(**inputs)                     # outputs.logits_per_audio: (B, K)

`convert` reads weights in the form in which the authors published theirs (a bare state dict, on the
Hub as KeiKinn/paraclap), without downloading the base encoders; `publish` reads a run folder or a
model folder. Both write a folder that train.py, evaluate.py, transformers (`AutoModel`,
`AutoProcessor`, `pipeline`) and sentence-transformers load, with a model card: ready for
`hf upload USER/NAME out/small`. `export` writes both towers as ONNX, see onnx_towers.py. A folder
is written as a whole or not at all.
"""

import argparse
from collections.abc import Sequence

from paraclap.model.build import (
    load_model,
)
from paraclap.model.modeling_paraclap import (
    PUBLISHED_CONFIG,
    ParaCLAPConfig,
)
from paraclap.model.onnx import export_onnx
from paraclap.model.publish import (
    _free_folder,
    _read_scores,
    convert,
    publish,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parse(arguments)
    if options.command == "export":
        return _export(options)
    card = {
        "scores": _read_scores(options.scores),
        "name": options.name,
        "licence": options.license,
    }
    if options.command == "convert":
        config = ParaCLAPConfig.from_json_file(options.config) if options.config else None
        output = convert(
            options.source, options.output, options.tokenizer, config, options.sha256, **card
        )
    else:
        output = publish(options.source, options.output, **card)
    print(f"written to {output}; `hf upload USER/NAME {output}` puts it on the Hub")
    return 0


def _export(options: argparse.Namespace) -> int:
    """Export a model, and tell how far it is from torch."""
    output = _free_folder(options.output)
    about = export_onnx(*load_model(options.source), output, options.int8)
    print(f"written to {output}, opset {about['opset']}; largest differences from torch:")
    for tower, value in about["differences"].items():
        print(f"  {tower:<6}{value:.1e} in a component of an embedding")
    for tower, value in about.get("int8_distances", {}).items():
        print(f"  {tower:<6}{value:.1e} between embeddings (1 - cosine), int8")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    reads = {
        "convert": "best.pth.tar, a folder that holds it, or a Hub name (KeiKinn/paraclap)",
        "publish": "run folder, its best/ or last/, a model folder, or a Hub name",
    }
    parsers = {name: commands.add_parser(name, help=f"from {text}") for name, text in reads.items()}
    for name, command in parsers.items():
        command.add_argument("source", help=reads[name])
        command.add_argument("output", help="folder to write; must not exist, or be empty")
        command.add_argument("--scores", help="scores.yaml of evaluate.py, for the model card")
        command.add_argument("--name", help="name on the Hub in the model card, USER/NAME")
        command.add_argument("--license", help="of the weights, as the Hub writes it, e.g. mit")
    export = commands.add_parser("export", help="to ONNX (requirements-onnx.txt)")
    export.add_argument("source", help=reads["publish"])
    export.add_argument("output", help="folder to write; must not exist, or be empty")
    export.add_argument("--int8", action="store_true", help="also with weights in 8 bits")
    add = parsers["convert"].add_argument
    add(
        "--tokenizer", default=PUBLISHED_CONFIG["provenance"]["text_encoder"], help="name or folder"
    )
    add("--sha256", help="hash that the file has to have")
    add("--config", help="config.json of a checkpoint with other towers")
    return parser.parse_args(arguments)
