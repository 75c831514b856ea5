"""Building ParaCLAP models from settings, and loading trained ones."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub.utils import enable_progress_bars
from safetensors import SafetensorError
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor
from transformers.utils import logging

from paraclap.model.fast_on_cpu import fast_on_cpu
from paraclap.model.hashes import check_hashes
from paraclap.model.modeling_paraclap import (
    LOG_MEL,
    FunctionalsConfig,
    FunctionalsFeatureExtractor,
    ParaCLAPConfig,
    ParaCLAPFeatureExtractor,
    ParaCLAPModel,
    ParaCLAPProcessor,
    check_pooling,
)
from paraclap.model.sources import ModelError, find_model
from paraclap.model.towers import (
    as_model_error,
    build_encoder,
    build_processor,
    check_complete,
    encoder_config,
    load_tokenizer,
    train_tokenizer,
    waveform_extractor,
)
from paraclap.settings import ModelSettings


@dataclass
class Functionals:
    """Statistics of the training clips for a tower that reads acoustic functionals.

    Attributes:
        names: of the functionals (F).
        mean: over the clips (F,).
        std: over the clips (F,).
        undefined: see `FunctionalsFeatureExtractor`.
    """

    names: list[str]
    mean: torch.Tensor
    std: torch.Tensor
    undefined: list[tuple[int, float, list[int]]]


def build_model(
    settings: ModelSettings, texts: Iterable[str], functionals: Functionals | None = None
) -> tuple[ParaCLAPModel, ParaCLAPProcessor]:
    """Build a model and its processor, with pretrained weights where `settings` name them.

    Args:
        settings: the model part of a configuration.
        texts: captions of the training split; a tokenizer is fitted to them if the text encoder has
            no name.
        functionals: of the training split, for an audio tower that reads functionals.

    Raises:
        ModelNotFoundError: if `start` is no model.
        ModelError: if encoders cannot be built or loaded, `functionals` are given to a tower that
            reads waveforms, or the reverse, or to one that reads others.
    """
    if settings.start:
        model, processor = _load_start(settings)
        _check_inputs(model.audio_branch.reads_functionals, functionals)
        if functionals is not None and functionals.names != processor.feature_extractor.names:
            raise ModelError(f"data.features: other functionals than those of {settings.start}")
        return model, processor
    _check_inputs(
        settings.audio.config.get("model_type") == FunctionalsConfig.model_type, functionals
    )
    tokenizer = (
        load_tokenizer(settings.text.name)
        if settings.text.name
        else train_tokenizer(texts, settings.vocabulary_size)
    )
    model = _build_model(settings, len(tokenizer), functionals)
    extractor = (
        waveform_extractor(model.config, settings)
        if functionals is None
        else FunctionalsFeatureExtractor(names=functionals.names, undefined=functionals.undefined)
    )
    return model, build_processor(model.config, tokenizer, extractor)


def _build_model(
    settings: ModelSettings, vocabulary_size: int, functionals: Functionals | None
) -> ParaCLAPModel:
    defaults = {}
    if functionals is not None:
        defaults = {"names": functionals.names}
    elif settings.audio.config.get("model_type") == LOG_MEL:
        defaults = {"feature_projection_input_dim": settings.mel.size}
    audio = encoder_config("audio", settings.audio, **defaults)
    if settings.audio_layers != "last" and "layerdrop" not in settings.audio.config:
        audio.layerdrop = 0.0  # it would skip layers in training
    with as_model_error("model"):  # before weights are read
        check_pooling(audio, settings.audio_pooling, settings.audio_layers)
    audio = build_encoder("audio", settings.audio.name, audio)
    if functionals is not None:
        with as_model_error("model.audio.config"):
            audio.standardise_by(functionals.mean, functionals.std)
    with as_model_error("model"):
        text = encoder_config("text", settings.text, vocab_size=vocabulary_size)
        text = build_encoder("text", settings.text.name, text)
        config = ParaCLAPConfig(
            audio_config=audio.config.to_dict(),
            text_config=text.config.to_dict(),
            text_pooling=settings.text_pooling,
            audio_pooling=settings.audio_pooling,
            audio_layers=settings.audio_layers,
            audio_standardise=settings.audio_standardise,
            audio_dropout=settings.audio_dropout,
            projection_dim=settings.projection_dim,
            projection_dropout=settings.projection_dropout,
        )
        model = ParaCLAPModel(config)
        model.audio_branch.base.load_state_dict(audio.state_dict())
        model.text_branch.base.load_state_dict(text.state_dict())
        return fast_on_cpu(model).freeze(settings.freeze)


def _check_inputs(reads_functionals: bool, functionals: Functionals | None) -> None:
    if reads_functionals != (functionals is not None):
        raise ModelError(
            "data.features and an audio encoder with model_type egemaps require each other"
        )


def _load_start(settings: ModelSettings) -> tuple[ParaCLAPModel, ParaCLAPProcessor]:
    """Load the model that training starts from."""
    model, processor = load_model(settings.start)
    entries, expected = len(processor.tokenizer), model.config.text_config.vocab_size
    if entries > expected:
        raise ModelError(
            f"{settings.start}: the tokenizer has {entries} entries, the weights expect {expected}"
        )
    parts = settings.freeze
    if "audio_convolutions" in parts and not model.has_convolutions:
        print(f"{settings.start} has no convolutions; audio_convolutions is skipped")
        parts = [part for part in parts if part != "audio_convolutions"]
    with as_model_error("model"):
        return model.freeze(parts), processor


def load_model(
    source: str | Path, device: torch.device | str = "cpu"
) -> tuple[ParaCLAPModel, ParaCLAPProcessor]:
    """Load a trained model, in evaluation mode, and its processor.

    Args:
        source: run folder (its `best/` is loaded), model folder or Hub name.
        device: where the model is put.

    Raises:
        ModelNotFoundError: if there is no model.
        ModelError: if it cannot be read or is damaged, or weights are missing, unknown, of another
            shape or not finite.
    """
    source = find_model(source)
    check_hashes(source)
    with _loading(source):
        try:
            model, report = ParaCLAPModel.from_pretrained(
                source,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                dtype=torch.float32,  # not that of the file
                trust_remote_code=False,
            )
        except SafetensorError as error:
            raise ModelError(f"the weights in {source} are damaged: {error}") from error
    processor = load_processor(source)
    check_complete(source, report["missing_keys"])
    for fault, keys in (("unknown", "unexpected_keys"), ("of another shape", "mismatched_keys")):
        if wrong := sorted(report[keys]):
            raise ModelError(
                f"{source}: {len(wrong)} weights are {fault}, the first is {wrong[0]!r}"
            )
    for name, weight in model.named_parameters():
        if not bool(weight.isfinite().all()):
            raise ModelError(f"{source}: weight {name!r} is not finite")
    return fast_on_cpu(model.to(device).eval()), processor


def load_processor(source: str | Path) -> ParaCLAPProcessor:
    """Load the processor of a trained model, see `load_model`."""
    source = find_model(source)
    with _loading(source):
        return ParaCLAPProcessor.from_pretrained(source, trust_remote_code=False)


def _loading(source: str | Path) -> AbstractContextManager[None]:
    """Convert errors to `ModelError`."""
    if Path(source).exists():
        return as_model_error(f"{source} cannot be loaded")
    return as_model_error(
        f"{source} is no folder here, and cannot be loaded from the Hugging Face Hub"
    )


if logging.is_progress_bar_enabled():  # they would show "Loading weights" for each encoder
    logging.disable_progress_bar()
    enable_progress_bars()  # of downloads
AutoConfig.register(ParaCLAPConfig.model_type, ParaCLAPConfig)
AutoModel.register(ParaCLAPConfig, ParaCLAPModel)
AutoFeatureExtractor.register(ParaCLAPConfig, ParaCLAPFeatureExtractor)
AutoProcessor.register(ParaCLAPConfig, ParaCLAPProcessor)
for copied in (
    ParaCLAPConfig,
    ParaCLAPModel,
    ParaCLAPFeatureExtractor,
    FunctionalsFeatureExtractor,
    ParaCLAPProcessor,
):
    copied.register_for_auto_class()  # save_pretrained copies modeling_paraclap.py to the weights
