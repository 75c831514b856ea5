"""Building ParaCLAP models from settings, and loading trained ones."""

import dataclasses
import string
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from paraclap.model.modeling_paraclap import (
    LOG_MEL,
    MEL_HOP,
    MEL_WINDOW,
    FunctionalsConfig,
    FunctionalsFeatureExtractor,
    ParaCLAPConfig,
    ParaCLAPFeatureExtractor,
    ParaCLAPModel,
    ParaCLAPProcessor,
    receptive_field,
)
from paraclap.settings import ModelSettings, TowerSettings

# Weights that a published encoder may lack without harm: none of them takes part in an embedding.
UNUSED_WEIGHTS = ("pooler.", "masked_spec_embed")

SPECIAL_TOKENS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
ALPHABET = string.ascii_lowercase + string.digits + string.punctuation


@dataclass
class Functionals:
    """What a tower on acoustic functionals has to know of the training clips.

    Attributes:
        names: of the functionals (F).
        mean: over the clips (F,).
        deviation: standard deviation over the clips (F,).
        undefined: see `FunctionalsFeatureExtractor`.
    """

    names: list[str]
    mean: torch.Tensor
    deviation: torch.Tensor
    undefined: list[tuple[int, float, list[int]]]


def train_tokenizer(texts: Iterable[str], vocabulary_size: int) -> PreTrainedTokenizerFast:
    """Fit an uncased WordPiece tokenizer to `texts`, for text encoders without pretrained weights.

    Single letters and digits are in the vocabulary, so any later prompt in them can be read. The
    same texts give the same vocabulary in any order.
    """
    tokenizer = _wordpiece(None)
    special = list(SPECIAL_TOKENS.values())
    # The trainer numbers unknown characters in the order of a randomly seeded hash table, and
    # breaks ties by these numbers. It numbers "special" tokens in the order given.
    pieces = [f"{prefix}{letter}" for prefix in ("", "##") for letter in ALPHABET]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary_size, special_tokens=special + pieces, show_progress=False
    )
    tokenizer.train_from_iterator(sorted(set(texts)), trainer)
    tokenizer = _wordpiece(tokenizer.get_vocab())
    cls, sep = (
        (SPECIAL_TOKENS[name], tokenizer.token_to_id(SPECIAL_TOKENS[name]))
        for name in ("cls", "sep")
    )
    tokenizer.post_processor = processors.BertProcessing(sep, cls)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", "attention_mask"],
        **{f"{name}_token": token for name, token in SPECIAL_TOKENS.items()},
    )


def _wordpiece(vocabulary: dict[str, int] | None) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=SPECIAL_TOKENS["unk"]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def build_model(
    settings: ModelSettings, texts: Iterable[str], functionals: Functionals | None = None
) -> tuple[ParaCLAPModel, ParaCLAPProcessor]:
    """Build what `settings` describe, with pretrained weights where they are named.

    Args:
        settings: the model part of a configuration.
        texts: captions of the training part; a tokenizer is fitted to them when the text
            encoder has no name.
        functionals: of the training part, for an audio tower that reads them.

    Raises:
        FileNotFoundError: if the folder of `start` holds no model.
        OSError: if there is neither such a folder nor such a name.
        ValueError: if a pretrained encoder lacks weights, a tower has neither name nor config, or
            has one beside `start`, or functionals are wanted and not given, or the other way round.
    """
    if settings.start:
        model, processor = _started(settings)
        _refuse_apart(model.audio_branch.reads_functionals, functionals)
        return model, processor
    tokenizer = (
        AutoTokenizer.from_pretrained(settings.text.name)
        if settings.text.name
        else train_tokenizer(texts, settings.vocabulary_size)
    )
    kind = settings.audio.config.get("model_type")
    _refuse_apart(kind == FunctionalsConfig.model_type, functionals)
    known = {} if functionals is None else {"names": functionals.names}
    if kind == LOG_MEL:
        known = {"feature_projection_input_dim": settings.mel.size}
    audio = _encoder("audio", settings.audio, **known)
    if functionals is not None:
        audio.standardise_by(functionals.mean, functionals.deviation)
    text = _encoder("text", settings.text, vocab_size=len(tokenizer))
    config = ParaCLAPConfig(
        audio_config=audio.config.to_dict(),
        text_config=text.config.to_dict(),
        text_pooling=settings.text_pooling,
        audio_pooling=settings.audio_pooling,
        audio_layers=settings.audio_layers,
        projection_dim=settings.projection_dim,
        projection_dropout=settings.projection_dropout,
    )
    model = ParaCLAPModel(config)
    model.audio_branch.base.load_state_dict(audio.state_dict())
    model.text_branch.base.load_state_dict(text.state_dict())
    extractor = (
        _waveform_extractor(config, settings)
        if functionals is None
        else FunctionalsFeatureExtractor(names=functionals.names, undefined=functionals.undefined)
    )
    return model.freeze(settings.freeze), _processor(config, tokenizer, extractor)


def _waveform_extractor(
    config: ParaCLAPConfig, settings: ModelSettings
) -> ParaCLAPFeatureExtractor:
    """Extractor that gives the encoder no clip too short for it.

    Raises:
        ValueError: if log-mel frames are not what the encoder reads.
    """
    audio, mel, gain = config.audio_config, settings.mel, settings.input_gain
    if audio.model_type != LOG_MEL:
        return ParaCLAPFeatureExtractor(gain=gain, min_samples=receptive_field(audio))
    if audio.feature_projection_input_dim != mel.size:
        raise ValueError(
            f"the audio encoder reads frames of {audio.feature_projection_input_dim} values, "
            f"{mel} gives {mel.size}; pretrained ones read bins=80, stride=2, normalisation=clip"
        )
    windows = max(mel.stride, 2)  # a single one has no deviation
    shortest = MEL_WINDOW + (windows - 1) * MEL_HOP
    return ParaCLAPFeatureExtractor(gain=gain, min_samples=shortest, mel=dataclasses.asdict(mel))


def _refuse_apart(reads_functionals: bool, functionals: Functionals | None) -> None:
    if reads_functionals != (functionals is not None):
        raise ValueError(
            "data.features is for an audio tower with model_type egemaps, and such a tower needs it"
        )


def _started(settings: ModelSettings) -> tuple[ParaCLAPModel, ParaCLAPProcessor]:
    """Take over a whole model; its provenance stays in its configuration."""
    for branch in ("audio", "text"):
        if getattr(settings, branch) != TowerSettings():
            raise ValueError(
                f"model.start and model.{branch} both say where the {branch} encoder comes from, "
                "expected one of them; configs/finetune.yaml names no encoders"
            )
    model, processor = load_model(settings.start)
    words, expected = len(processor.tokenizer), model.config.text_config.vocab_size
    if words > expected:
        raise ValueError(
            f"the tokenizer of {settings.start} has {words} entries, its weights expect {expected}"
        )
    return model.float().freeze(settings.freeze), processor


def _processor(
    config: ParaCLAPConfig,
    tokenizer: PreTrainedTokenizerBase,
    extractor: ParaCLAPFeatureExtractor | FunctionalsFeatureExtractor,
) -> ParaCLAPProcessor:
    """Processor that gives the encoder no text too long for it."""
    longest = getattr(config.text_config, "max_position_embeddings", tokenizer.model_max_length)
    tokenizer.model_max_length = min(tokenizer.model_max_length, longest)
    return ParaCLAPProcessor(extractor, tokenizer)


def _encoder(branch: str, tower: TowerSettings, **defaults: Any) -> PreTrainedModel:
    if tower.name:
        encoder, report = AutoModel.from_pretrained(
            tower.name, output_loading_info=True, **tower.config
        )
        _refuse_missing(tower.name, report["missing_keys"])
        return encoder
    if "model_type" not in tower.config:
        raise ValueError(
            f"model.{branch} needs the name of pretrained weights or a config with a model_type, "
            "unless model.start gives a whole model"
        )
    return AutoModel.from_config(AutoConfig.for_model(**(defaults | tower.config)))


def _refuse_missing(source: str | Path, keys: Iterable[str]) -> None:
    """Weights that are not in the file would stay random, and nobody would notice."""
    missing = sorted(key for key in keys if not any(name in key for name in UNUSED_WEIGHTS))
    if missing:
        raise ValueError(f"{source} lacks {len(missing)} weights, the first is {missing[0]!r}")


def load_model(
    source: str | Path, device: torch.device | str = "cpu"
) -> tuple[ParaCLAPModel, ParaCLAPProcessor]:
    """Load a trained model and its processor from a folder or a Hub name.

    A run folder stands for its `best/`.

    Raises:
        FileNotFoundError: if the folder holds no model.
        OSError: if there is neither such a folder nor such a name.
        ValueError: if weights are missing, unknown or have other shapes.
    """
    folder = Path(source)
    if (folder / "best" / "config.json").is_file():
        folder = folder / "best"
    if folder.exists() and not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} holds no model: neither config.json nor best/config.json"
        )
    source = folder if folder.exists() else source
    model, report = ParaCLAPModel.from_pretrained(source, output_loading_info=True)
    _refuse_missing(source, report["missing_keys"])
    if report["unexpected_keys"]:
        stray = sorted(report["unexpected_keys"])
        raise ValueError(f"{source} has {len(stray)} unknown weights, the first is {stray[0]!r}")
    return model.to(device).eval(), ParaCLAPProcessor.from_pretrained(source)


AutoConfig.register(ParaCLAPConfig.model_type, ParaCLAPConfig)
AutoModel.register(ParaCLAPConfig, ParaCLAPModel)
AutoFeatureExtractor.register(ParaCLAPConfig, ParaCLAPFeatureExtractor)
AutoProcessor.register(ParaCLAPConfig, ParaCLAPProcessor)
for travelling in (
    ParaCLAPConfig,
    ParaCLAPModel,
    ParaCLAPFeatureExtractor,
    FunctionalsFeatureExtractor,
    ParaCLAPProcessor,
):
    travelling.register_for_auto_class()  # a copy of modeling_paraclap.py goes with saved weights
