"""Building blocks of a model: encoders, tokenizer, feature extractor and processor."""

import dataclasses
import json
import re
import string
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import cached_file

from paraclap.model.modeling_paraclap import (
    BRANCHES,
    LOG_MEL,
    MEL_HOP,
    MEL_WINDOW,
    UNUSED_WEIGHTS,
    WHISPER,
    FunctionalsFeatureExtractor,
    ParaCLAPConfig,
    ParaCLAPFeatureExtractor,
    ParaCLAPModel,
    ParaCLAPProcessor,
    encoder_hash,
    encoder_source,
    load_encoder,
    new_encoder,
    receptive_field,
)
from paraclap.model.sources import ModelError, read_object
from paraclap.settings import MelSettings, ModelSettings, TowerSettings

SNAPSHOT = re.compile(r"models--(.+)/snapshots/([0-9a-f]{40})/")
"""Name and commit in the path of a file from the Hub."""
RENAMED_KEYS = {"left_out": "exclude"}  # of encoder configurations: old name -> new name

PREPROCESSING = "preprocessor_config.json"
MALFORMED = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError)
"""Errors of transformers for configurations and tokenizers of another form than expected."""

SPECIAL_TOKENS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
ALPHABET = string.ascii_lowercase + string.digits + string.punctuation


@contextmanager
def as_model_error(about: str) -> Iterator[None]:
    """Convert errors of transformers and of modeling_paraclap.py to `ModelError`.

    Args:
        about: the setting or file at fault, first words of the message.
    """
    try:
        yield
    except ModelError:
        raise
    except (OSError, ValueError, ImportError, StrictDataclassError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"{about}: {lines[0]}") from error
    except MALFORMED as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ModelError(f"{about}: its configuration is malformed ({reason})") from error


# --- Encoders ------------------------------------------------------------------------------------


def encoder_config(branch: str, tower: TowerSettings, **defaults: Any) -> PreTrainedConfig:
    """Return the configuration of an encoder; no weights are read.

    Args:
        branch: "audio" or "text", for messages.
        tower: name and configuration.
        defaults: entries of the configuration of a new encoder, unless `tower` has them.

    Raises:
        ModelError: if there is no such encoder, its configuration has unknown or invalid entries,
            or `tower` has neither name nor `model_type`.
    """
    if tower.name:
        with as_model_error(f"model.{branch}.name {tower.name} cannot be loaded"):
            source = encoder_source(tower.name)
            known = AutoConfig.from_pretrained(source, trust_remote_code=False)
            _check_keys(branch, known, tower.config)
            return AutoConfig.from_pretrained(source, **tower.config, trust_remote_code=False)
    if "model_type" not in tower.config:
        raise ModelError(
            f"model.{branch} needs the name of a pretrained encoder or a config with a model_type, "
            "unless model.start names a whole model"
        )
    with as_model_error(f"model.{branch}.config"):
        known = AutoConfig.for_model(tower.config["model_type"])
        _check_keys(branch, known, tower.config)
        return AutoConfig.for_model(**(defaults | tower.config))


def build_encoder(branch: str, name: str | None, config: PreTrainedConfig) -> PreTrainedModel:
    """Load the weights of a pretrained encoder, or build one with random weights.

    Args:
        branch: "audio" or "text", for messages.
        name: of the pretrained encoder; None = random weights.
        config: see `encoder_config`.

    Raises:
        ModelError: if the encoder lacks weights, its configuration is invalid, or it is of the
            other branch.
    """
    if name:
        encoder = _pretrained_encoder(branch, name, config)
    else:
        with as_model_error(f"model.{branch}.config"):
            encoder = new_encoder(config)
    if branch == "text" and encoder.main_input_name != "input_ids":
        raise ModelError(f"model.text: an encoder of type {config.model_type} does not read tokens")
    return encoder


def _pretrained_encoder(branch: str, name: str, config: PreTrainedConfig) -> PreTrainedModel:
    with as_model_error(f"model.{branch}.name {name} cannot be loaded"):
        encoder, missing = load_encoder(encoder_source(name), config)
    check_complete(name, missing)
    return encoder


def base_encoders(
    model: ParaCLAPModel, settings: ModelSettings, trained: Collection[str]
) -> dict[str, dict[str, Any]] | None:
    """Return `ParaCLAPConfig.base_encoders` of a model that is going to be trained.

    Args:
        model: as it was built from `settings`.
        settings: the model part of a configuration.
        trained: frozen parts that are trained later.
    """
    branches = constant_branches(model, settings, trained)
    if settings.start:
        before = model.config.base_encoders or {}
        return {branch: before[branch] for branch in branches if branch in before} or None
    return {
        branch: _origin(getattr(settings, branch).name)
        | {"sha256": encoder_hash(model.get_submodule(f"{branch}_branch.base"))}
        for branch in branches
    } or None


def constant_branches(
    model: ParaCLAPModel, settings: ModelSettings, trained: Collection[str]
) -> list[str]:
    """Return the branches whose encoders keep pretrained weights throughout, see above.

    Among them are those that are going to have adapters.
    """
    return [
        branch
        for branch in BRANCHES
        if branch in settings.lora.towers
        or branch in model.frozen
        and branch not in trained
        and (settings.start or getattr(settings, branch).name)
    ]


def _origin(name: str) -> dict[str, Any]:
    """Return Hub name and commit of an encoder; of a folder its name, without a commit."""
    source = encoder_source(name)
    path = cached_file(source, "config.json", _raise_exceptions_for_missing_entries=False)
    if path and (found := SNAPSHOT.search(Path(path).as_posix())):
        return {"name": found[1].replace("--", "/", 1), "revision": found[2]}
    if not Path(name).is_dir():
        return {"name": name, "revision": None}
    folder = Path(name).resolve().name
    stated = str(read_object(Path(name) / "config.json").get("_name_or_path", ""))
    return {"name": stated if stated.rpartition("/")[2] == folder else folder, "revision": None}


def _check_keys(branch: str, known: PreTrainedConfig, given: Iterable[str]) -> None:
    """Check that keys are fields of a type of encoder.

    transformers accepts unknown ones silently, and takes some of them for arguments of its own,
    such as `trust_remote_code`, which executes code from the folder of the encoder.
    """
    fields = {"model_type", *known.attribute_map, *vars(type(known)())}  # not of its config.json
    for key in given:
        if key in RENAMED_KEYS:
            raise ModelError(f"model.{branch}.config.{key} is called {RENAMED_KEYS[key]} now")
        if key in ("dtype", "torch_dtype"):
            raise ModelError(
                f"model.{branch}.config.{key}: weights are float32, train.precision sets that of "
                "the computation"
            )
        if key not in fields or key.startswith("_"):
            raise ModelError(
                f"model.{branch}.config.{key} is unknown to encoders of type {known.model_type!r}"
            )


def check_complete(source: str | Path, missing_keys: Iterable[str]) -> None:
    """Check that no weights are missing: they would keep their random values.

    Raises:
        ModelError: if one of the missing weights takes part in embeddings.
    """
    missing = sorted(key for key in missing_keys if not any(name in key for name in UNUSED_WEIGHTS))
    if missing:
        raise ModelError(f"{source} lacks {len(missing)} weights, the first is {missing[0]!r}")


# --- Tokenizer, feature extractor, processor -----------------------------------------------------


def load_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a pretrained text encoder from a folder or the Hub.

    Raises:
        ModelError: if there is none.
    """
    with as_model_error(f"tokenizer {name} is neither in a folder nor available from the Hub"):
        return AutoTokenizer.from_pretrained(encoder_source(name), trust_remote_code=False)


def train_tokenizer(texts: Iterable[str], vocabulary_size: int) -> PreTrainedTokenizerFast:
    """Fit an uncased WordPiece tokenizer to `texts`, for text encoders without pretrained weights.

    The vocabulary includes single letters, digits and punctuation, so that any ASCII prompt can be
    encoded. The same texts give the same vocabulary in any order.
    """
    tokenizer = _wordpiece(None)
    special = list(SPECIAL_TOKENS.values())
    # The trainer numbers characters in the order of a randomly seeded hash table, and breaks ties
    # by these numbers. It numbers "special" tokens in the order given.
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


def waveform_extractor(config: ParaCLAPConfig, settings: ModelSettings) -> ParaCLAPFeatureExtractor:
    """Build the feature extractor of an encoder that reads waveforms or log-mel frames.

    Clips shorter than one frame of the encoder are padded to it.

    Raises:
        ModelError: if the encoder reads log-mel frames of another size.
    """
    audio = config.audio_config
    own = _preprocessing(settings)
    normalise = settings.normalise_waveform
    normalise = bool(own.get("do_normalize", False) if normalise is None else normalise)
    common = {"gain": settings.input_gain, "normalise": normalise}
    if audio.model_type == WHISPER:
        return ParaCLAPFeatureExtractor(
            max_samples=2 * audio.max_source_positions * MEL_HOP,
            mel={"bins": audio.num_mel_bins, "stride": 1, "normalisation": WHISPER},
            **common,
        )
    if audio.model_type != LOG_MEL:
        return ParaCLAPFeatureExtractor(min_samples=receptive_field(audio), **common)
    mel = settings.mel
    if "num_mel_bins" in own and mel == MelSettings():
        with as_model_error(f"preprocessing of {settings.audio.name} cannot be used"):
            mel = MelSettings(int(own["num_mel_bins"]), int(own.get("stride", 2)), "clip")
    if audio.feature_projection_input_dim != mel.size:
        raise ModelError(
            f"the audio encoder reads frames of {audio.feature_projection_input_dim} values, "
            f"{mel} gives {mel.size}; pretrained ones read bins=80, stride=2, normalisation=clip"
        )
    windows = max(mel.stride, 2)  # the std of a single window is undefined
    shortest = MEL_WINDOW + (windows - 1) * MEL_HOP
    return ParaCLAPFeatureExtractor(min_samples=shortest, mel=dataclasses.asdict(mel), **common)


def _preprocessing(settings: ModelSettings) -> Mapping[str, Any]:
    """Return the options of the pretrained encoder's own feature extractor, if it has one."""
    name = settings.audio.name
    if name is None:
        return {}
    with as_model_error(f"preprocessing of {name} cannot be loaded"):
        path = cached_file(
            encoder_source(name), PREPROCESSING, _raise_exceptions_for_missing_entries=False
        )
        if path is not None:
            return dict(json.loads(Path(path).read_text(encoding="utf-8")))
    if settings.normalise_waveform is None:
        warnings.warn(
            f"{name} has no {PREPROCESSING}: waveforms are not normalised; "
            "model.normalise_waveform states what the encoder expects",
            stacklevel=2,
        )
    return {}


def build_processor(
    config: ParaCLAPConfig,
    tokenizer: PreTrainedTokenizerBase,
    extractor: ParaCLAPFeatureExtractor | FunctionalsFeatureExtractor,
) -> ParaCLAPProcessor:
    """Combine both; texts are truncated to the longest input of the text encoder."""
    longest = getattr(config.text_config, "max_position_embeddings", tokenizer.model_max_length)
    tokenizer.model_max_length = min(tokenizer.model_max_length, longest)
    return ParaCLAPProcessor(extractor, tokenizer)
