"""Model folders for the Hugging Face Hub, from a run or from the published weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from paraclap.files import atomic_folder
from paraclap.model.build import _processor, _waveform_extractor, load_model
from paraclap.model.card import check_licence, model_card
from paraclap.model.modeling_paraclap import (
    PUBLISHED_CONFIG,
    ParaCLAPConfig,
    ParaCLAPModel,
    ParaCLAPProcessor,
)
from paraclap.settings import ModelSettings

PUBLISHED_TOKENIZER: str = PUBLISHED_CONFIG["provenance"]["text_encoder"]

# Files that tell sentence-transformers (6 or newer) which method embeds texts and which clips.
SENTENCE_TRANSFORMERS: dict[str, Any] = {
    "modules.json": [
        {
            "idx": 0,
            "name": "0",
            "path": "",
            "type": "sentence_transformers.base.modules.transformer.Transformer",
        }
    ],
    "sentence_bert_config.json": {
        "transformer_task": "feature-extraction",
        "modality_config": {
            name: {"method": f"get_{name}_features", "method_output_name": "pooler_output"}
            for name in ("text", "audio")
        },
        "module_output_name": "sentence_embedding",
    },
    "config_sentence_transformers.json": {
        "model_type": "SentenceTransformer",
        "requirements": {"sentence_transformers": ">=6.0"},
        "similarity_fn_name": "cosine",
    },
}


def convert(
    source: str | Path,
    output: str | Path,
    tokenizer: str | Path = PUBLISHED_TOKENIZER,
    config: ParaCLAPConfig | None = None,
    sha256: str | None = None,
    **card: Any,
) -> Path:
    """Turn weights in their published form into a model folder, see `ParaCLAPModel.from_published`.

    Args:
        source: `best.pth.tar`, a folder that holds it, or a name on the Hub.
        output: folder to write; may exist if it is empty.
        tokenizer: Hub name or folder of the text encoder's tokenizer, which is not in the file.
        config: of a checkpoint with other towers; None = the published one.
        sha256: hash that the file has to have.
        card: `scores`, `name` and `licence` of the model card.

    Raises:
        FileExistsError: if `output` holds something.
        OSError: if a file is neither here nor to be had from the Hub.
        ValueError: if weights or tokenizer are not what was expected.
    """
    output = _free_folder(output)
    words = _tokenizer(tokenizer)
    model = ParaCLAPModel.from_published(source, config, sha256)
    expected = model.config.text_config.vocab_size
    if len(words) != expected:
        raise ValueError(
            f"tokenizer {tokenizer} has {len(words)} entries, the weights expect {expected}"
        )
    extractor = _waveform_extractor(model.config, ModelSettings())
    return _write_folder(output, model, _processor(model.config, words, extractor), **card)


def _tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except OSError as error:
        raise OSError(
            f"tokenizer {name} is neither a folder here nor to be had from the Hugging Face Hub; "
            "its words are not part of the weights: download tokenizer.json and "
            "tokenizer_config.json of that name, and give their folder with --tokenizer"
        ) from error


def publish(source: str | Path, output: str | Path, **card: Any) -> Path:
    """Write a folder that is ready for the Hub from a run, a model folder or a Hub name.

    Args:
        source: see `load_model`.
        output: folder to write; may exist if it is empty.
        card: `scores`, `name` and `licence` of the model card.

    Raises:
        FileExistsError: if `output` holds something.
        FileNotFoundError: if there is no model.
    """
    output = _free_folder(output)
    return _write_folder(output, *load_model(source), **card)


def _free_folder(path: str | Path) -> Path:
    path = Path(path).resolve()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path} exists already; take another name, or remove it first")
    return path


def _write_folder(
    output: Path,
    model: ParaCLAPModel,
    processor: ParaCLAPProcessor,
    scores: Mapping[str, Any] | None = None,
    name: str | None = None,
    licence: str | None = None,
) -> Path:
    """Write model, code, processor, tokenizer, card and what sentence-transformers reads."""
    check_licence(model.config.provenance, licence)
    card = model_card(
        name or output.name,
        model.config,
        parameters=model.num_parameters(),
        batches=model.audio_branch.supports_padding,
        scores=scores,
        licence=licence,
    )
    with atomic_folder(output) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        for file, content in SENTENCE_TRANSFORMERS.items():
            (folder / file).write_text(json.dumps(content, indent=2) + "\n")
        (folder / "README.md").write_text(card)
    return output


def _read_scores(path: str | None) -> dict[str, Any] | None:
    """Document that evaluate.py wrote.

    Raises:
        ValueError: if it is none.
    """
    if path is None:
        return None
    try:
        document = yaml.safe_load(Path(path).read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("corpora"), dict):
        raise ValueError(f"{path} has no `corpora`, expected the scores.yaml of evaluate.py")
    print(f"scores in {path} are those of {document.get('model')}")
    return document
