"""Model folders for the Hugging Face Hub, from a run or from the published weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from paraclap.files import atomic_folder
from paraclap.model.build import load_model
from paraclap.model.card import model_card
from paraclap.model.hashes import weights_hash, write_hashes
from paraclap.model.modeling_paraclap import (
    BRANCHES,
    HUB_NAME,
    PUBLISHED_CONFIG,
    ParaCLAPConfig,
    ParaCLAPModel,
    ParaCLAPProcessor,
)
from paraclap.model.sources import ModelError, check_source, find_model, free_folder
from paraclap.model.towers import (
    as_model_error,
    build_processor,
    load_tokenizer,
    waveform_extractor,
)
from paraclap.settings import ModelSettings

PUBLISHED_TOKENIZER: str = PUBLISHED_CONFIG["provenance"]["text_encoder"]

# Files by which sentence-transformers (6 or newer) finds the methods that embed texts and clips.
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
    """Convert weights in their published form to a model folder.

    Args:
        source: see `ParaCLAPModel.from_published`.
        output: folder to write; may exist if it is empty.
        tokenizer: Hub name or folder of the text encoder's tokenizer, which is not in the file.
        config: see `ParaCLAPModel.from_published`.
        sha256: see `ParaCLAPModel.from_published`.
        card: `scores`, `name` and `licence` of the model card.

    Raises:
        OutputExistsError: if `output` holds something.
        ModelNotFoundError: if there is no such source.
        ModelError: if weights or tokenizer cannot be loaded or do not fit, or the scores are those
            of other weights.
    """
    output = free_folder(output)
    check_source(source)
    words = _published_tokenizer(tokenizer)
    with as_model_error(f"{source} cannot be converted"):
        model = ParaCLAPModel.from_published(source, config, sha256)
    expected = model.config.text_config.vocab_size
    if len(words) != expected:
        raise ModelError(
            f"tokenizer {tokenizer} has {len(words)} entries, the weights expect {expected}"
        )
    extractor = waveform_extractor(model.config, ModelSettings())
    return _write_folder(output, model, build_processor(model.config, words, extractor), **card)


def _published_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    try:
        return load_tokenizer(name)
    except ModelError as error:
        raise ModelError(
            f"{error}; it is not part of the weights: download tokenizer.json and "
            "tokenizer_config.json of that name, and pass their folder with --tokenizer"
        ) from error


def publish(
    source: str | Path,
    output: str | Path,
    heads: bool = False,
    bases: Mapping[str, str] | None = None,
    **card: Any,
) -> Path:
    """Write a folder that is ready for the Hub from a run, a model folder or a Hub name.

    Args:
        source: see `load_model`.
        output: folder to write; may exist if it is empty.
        heads: leave out the weights of encoders that were frozen in training, which are fetched by
            their names.
        bases: names of these encoders on the Hub by branch, NAME or NAME@REVISION, if they are not
            those of the training.
        card: `scores`, `name` and `licence` of the model card.

    Raises:
        OutputExistsError: if `output` holds something.
        ModelNotFoundError: if there is no model.
        ModelError: if it cannot be loaded, the scores are those of other weights, an encoder
            demands another licence, or `heads` of a model without frozen encoders from the Hub.
    """
    output = free_folder(output)
    weights = weights_hash(find_model(source))
    if card.get("scores") is not None:
        check_scores(card["scores"], weights)  # before the model is loaded
    model, processor = load_model(source)
    if heads:
        _leave_out_encoders(source, model, bases or {})
    return _write_folder(output, model, processor, weights=weights, **card)


def _leave_out_encoders(source: str | Path, model: ParaCLAPModel, bases: Mapping[str, str]) -> None:
    """State in the configuration that frozen encoders are not saved, and where they come from."""
    origins = model.config.base_encoders or {}
    if not origins:
        raise ModelError(
            f"--heads: {source} has no encoder that was frozen in training and started from "
            "pretrained weights"
        )
    for branch, name in bases.items():
        if branch not in origins:
            raise ModelError(f"--base-{branch}: the {branch} encoder of {source} was trained")
        hub, _, revision = name.partition("@")
        origins[branch] |= {"name": hub, "revision": revision or None}
    for branch, origin in origins.items():
        if not HUB_NAME.fullmatch(origin["name"]) or "/" not in origin["name"]:
            raise ModelError(
                f"{origin['name']!r} is no name of the Hub, by which others fetch the {branch} "
                f"encoder; state it with --base-{branch} USER/NAME or USER/NAME@REVISION"
            )
        origin["stored"] = False
        if model.config.provenance is not None:
            model.config.provenance[f"{branch}_encoder"] = origin["name"]


def check_scores(scores: Mapping[str, Any], weights: str | None) -> None:
    """Check that scores are those of the weights with this hash.

    Raises:
        ModelError: if they are not, or do not have the hash of the evaluated weights.
    """
    evaluated = scores.get("weights")
    if not evaluated:
        raise ModelError(
            "--scores has no hash of the evaluated weights, so they may be those of another model; "
            "evaluate again with this version"
        )
    if evaluated != weights:
        raise ModelError(
            f"--scores are those of other weights, of the model {scores.get('model')}; evaluate "
            "the model that is published"
        )


def _reads_level(extractor: Any) -> bool:
    mel = getattr(extractor, "mel", None) or {}
    return not (getattr(extractor, "normalise", False) or mel.get("normalisation") == "clip")


def _stored(model: ParaCLAPModel) -> dict[str, torch.Tensor]:
    """Return the weights that are saved with a model."""
    absent = tuple(f"{branch}_branch.base." for branch in model.absent_encoders)
    state = model.state_dict()
    return {name: tensor for name, tensor in state.items() if not name.startswith(absent)}


def _write_folder(
    output: Path,
    model: ParaCLAPModel,
    processor: ParaCLAPProcessor,
    weights: str | None = None,
    scores: Mapping[str, Any] | None = None,
    name: str | None = None,
    licence: str | None = None,
) -> Path:
    """Write model, code, processor, tokenizer, card and the files of sentence-transformers.

    `weights` is the hash that the scores must have; None = that of the written weights.
    """
    card = model_card(
        name or output.name,
        model.config,
        parameters=model.num_parameters(),
        batches=model.audio_branch.supports_padding,
        reads_level=_reads_level(processor.feature_extractor),
        scores=scores,
        licence=licence,
    )
    for branch in BRANCHES:  # not the path on the machine of the training
        origin = (model.config.base_encoders or {}).get(branch, {})
        getattr(model.config, f"{branch}_config")._name_or_path = origin.get("name", "")
    with atomic_folder(output) as folder:
        model.save_pretrained(folder, state_dict=_stored(model))
        processor.save_pretrained(folder)
        for file, content in SENTENCE_TRANSFORMERS.items():
            (folder / file).write_text(json.dumps(content, indent=2) + "\n")
        write_hashes(folder)
        if scores is not None:
            check_scores(scores, weights or weights_hash(folder))
        (folder / "README.md").write_text(card)
    return output
