# SPDX-License-Identifier: MIT
# Copyright (c) 2026 The ParaCLAP authors
"""ParaCLAP: a speech encoder and a text encoder with a shared embedding space.

    model = ParaCLAPModel.from_pretrained("runs/demo/best")
    model = ParaCLAPModel.from_published("best.pth.tar")       # the weights of the paper
    outputs = model(**inputs)                                  # outputs.logits_per_audio: (B, K)

Model of Jing, Triantafyllopoulos and Schuller, "ParaCLAP - Towards a general language-audio model
for computational paralinguistic tasks", Interspeech 2024. All classes follow the conventions of
Hugging Face transformers. A copy of this file is saved beside the weights, so that they load
without the repository: it imports nothing else from there.

Shapes: B clips, K texts, T samples at 16 kHz, N frames, L tokens, H hidden size of an encoder, P
size after pooling, D embedding size, F functionals, M values per log-mel frame.
"""

import copy
import functools
import hashlib
import importlib
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from huggingface_hub import hf_hub_download
from torch import nn
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    BatchFeature,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    SequenceFeatureExtractor,
)
from transformers.audio_utils import mel_filter_bank, window_function
from transformers.configuration_utils import SubConfigSpec
from transformers.initialization import no_init_weights
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling
from transformers.models.clap.modeling_clap import ClapOutput
from transformers.models.whisper.modeling_whisper import WhisperEncoder

SAMPLING_RATE = 16_000  # Hz
MAX_PEAK = 8.0  # above, float samples are probably unscaled integers
TEXT_POOLINGS = ("cls", "mean")
AUDIO_POOLINGS = {"mean": 1, "mean_std": 2, "attention": 1}  # P / H
AUDIO_LAYERS = ("last", "weighted")  # or a list of numbers
LOG_MEL = "wav2vec2-bert"  # model_types of encoders that read log-mel frames
WHISPER = "whisper"
ROTARY = (LOG_MEL, "rotary")
# model_types for which padding with a mask was found to leave embeddings unchanged (1e-5).
PADDABLE = {
    "wav2vec2",
    "hubert",
    "wavlm",
    "unispeech",
    "unispeech-sat",
    LOG_MEL,
    WHISPER,
    "egemaps",
}
MEL_WINDOW, MEL_HOP, MEL_FFT = 400, 160, 512  # samples
MEL_FLOOR = 1.192092955078125e-07
MEL_NORMALISATIONS = ("clip", "fixed", WHISPER)
MEL_LEVEL = 10.0  # about the mean of speech, in log power of 16-bit samples
MIN_VARIANCE = 1e-6  # added before the square root, whose gradient at zero is infinite
MAX_DEVIATION = 5.0  # of standardised values; those of other recordings may be far off
MIN_DEVIATION = 1e-5
ALIGNMENT = 64  # bytes, of memory that torch allocates
BRANCHES = ("audio", "text")
HUB_OPTIONS = ("cache_dir", "local_files_only", "token")
ENCODERS = "PARACLAP_ENCODERS"  # environment variable: folder with pretrained encoders
# Weights that an encoder may lack: none of them takes part in an embedding.
UNUSED_WEIGHTS = ("pooler.", "masked_spec_embed", "position_ids")
WHISPER_ENCODER = {r"^(model\.)?encoder\.": ""}  # tensors of whole Whisper models -> of the encoder
HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
MAX_LOGIT_SCALE = math.log(100)  # the scale is stored as a logarithm, as in CLIP

# Parts of the model that can be frozen -> module.
FREEZABLE = {
    "audio": "audio_branch.base",
    "audio_convolutions": "audio_branch.base.feature_extractor",
    "text": "text_branch",
    "audio_projection": "audio_projection",
    "text_projection": "text_projection",
}

# The weights of the paper: a bare state dict on the Hub with the module names below.
PUBLISHED_HUB = "KeiKinn/paraclap"
PUBLISHED_FILE = "best.pth.tar"
PUBLISHED_CONFIG: dict[str, Any] = {
    "audio_config": {
        "model_type": "wav2vec2",
        "hidden_size": 1024,
        "num_hidden_layers": 12,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "num_feat_extract_layers": 7,
        "conv_dim": [512] * 7,
        "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
        "conv_stride": [5, 2, 2, 2, 2, 2, 2],
        "conv_bias": True,
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
        "num_conv_pos_embeddings": 128,
        "num_conv_pos_embedding_groups": 16,
    },
    "text_config": {
        "model_type": "bert",
        "vocab_size": 30522,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "pad_token_id": 0,
    },
    "projection_dim": 768,
    "projection_dropout": 0.5,
    "provenance": {
        "audio_encoder": "audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim",
        "text_encoder": "bert-base-uncased",
        "corpora": ["MSP-Podcast 1.9 (train)"],
        "weights": PUBLISHED_HUB,
        "attributes": {  # of the captions: descriptor -> class or level -> words
            "emotion": {
                words.split()[0]: ["emotion", *words.split()]
                for words in (
                    "anger angry",
                    "contempt contemptuous",
                    "disgust disgusted",
                    "fear fearful",
                    "happiness happy",
                    "neutral",
                    "sadness sad",
                    "surprise surprised",
                )
            },
            "gender": {"female": ["female", "gender", "woman"], "male": ["gender", "male", "man"]},
            **{
                name: {level: [*name.split("_"), level] for level in ("low", "normal", "high")}
                for name in (
                    "pitch",
                    "pitch_variation",
                    "intensity",
                    "jitter",
                    "shimmer",
                    "arousal",
                    "valence",
                    "dominance",
                )
            },
            "duration": {
                "low": ["duration", "short"],
                "normal": ["duration", "normal"],
                "high": ["duration", "long"],
            },
        },
    },
}

# Names of the same tensors in older libraries and distributed training: pattern -> our name.
PUBLISHED_NAMES = {
    r"^module\.": "",
    r"\.pos_conv_embed\.conv\.weight_g$": ".pos_conv_embed.conv.parametrizations.weight.original0",
    r"\.pos_conv_embed\.conv\.weight_v$": ".pos_conv_embed.conv.parametrizations.weight.original1",
}
# No longer part of BERT's state dict; the only entry that may be dropped.
PUBLISHED_STRAYS = {"text_branch.base.embeddings.position_ids"}


class ParaCLAPConfig(PreTrainedConfig):
    """Configuration of `ParaCLAPModel`: two encoder configurations and the shared space.

    Attributes:
        audio_config: configuration of the speech encoder.
        text_config: configuration of the text encoder.
        text_pooling: "cls" (first token) or "mean" (over tokens).
        audio_pooling: "mean" (over frames), "mean_std" (mean and standard deviation) or "attention"
            (mean with learned weights).
        audio_layers: "last" (layer of the speech encoder), "weighted" (learned mean over all
            layers), or a list of layers that are concatenated (0 = the input of the first).
        audio_standardise: whether pooled layers are standardised with mean and standard deviation
            of the training clips.
        audio_dropout: dropout probability of the pooled layers.
        projection_dim: D, size of the shared space.
        projection_dropout: dropout probability inside the projections.
        logit_scale_init_value: logarithm of the factor on cosines, ln(1 / 0.07) as in CLIP.
        provenance: origin of the weights as far as recorded: names of `audio_encoder` and
            `text_encoder`, a list of `corpora`, and further entries.
        base_encoders: of each branch ("audio", "text") whose encoder has published weights that
            were not trained further: `name` on the Hub, `revision` (commit, None = any), `sha256`
            of `encoder_hash`, and `stored` = False if the weights are not saved with the model.
    """

    model_type = "paraclap"
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "audio_config": SubConfigSpec(config_class=AutoConfig, model_type="wav2vec2"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert"),
    }

    audio_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    text_pooling: str = "cls"
    audio_pooling: str = "mean"
    audio_layers: str | list[int] = "last"
    audio_standardise: bool = False
    audio_dropout: float = 0.0
    projection_dim: int = 768
    projection_dropout: float = 0.5
    logit_scale_init_value: float = math.log(1 / 0.07)
    provenance: dict[str, Any] | None = None
    base_encoders: dict[str, dict[str, Any]] | None = None


class FunctionalsConfig(PreTrainedConfig):
    """Configuration of `FunctionalsModel`.

    Attributes:
        names: of the functionals (F), in the spelling of eGeMAPSv02 in openSMILE.
        hidden_size: H.
        num_hidden_layers: residual layers after the first linear layer.
        hidden_dropout: dropout probability after each layer.
        limit: standardised functionals are clamped to +/- this value [standard deviations], because
            formants and slopes of short clips have extreme outliers.
        exclude: prefixes of functionals that are not used, such as "loudness", which depends on the
            recording more than on the speaker.
    """

    model_type = "egemaps"

    names: list[str] | None = None
    hidden_size: int = 256
    num_hidden_layers: int = 1
    hidden_dropout: float = 0.3
    limit: float = 4.0
    exclude: list[str] | None = None


class FunctionalsModel(PreTrainedModel):
    """A small network on the acoustic functionals of a clip, in place of a speech encoder.

    Functionals are standardised with mean and standard deviation of the training clips. Undefined
    ones (NaN, e.g. the pitch of an unvoiced clip) are replaced by the mean.
    """

    config: FunctionalsConfig
    config_class = FunctionalsConfig
    main_input_name = "input_values"

    def __init__(self, config: FunctionalsConfig) -> None:
        super().__init__(config)
        count, size = len(config.names or ()), config.hidden_size
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("deviation", torch.ones(count))  # std, inf where unused
        self.first = nn.Linear(count, size)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(size), nn.Linear(size, size), nn.GELU())
            for _ in range(config.num_hidden_layers)
        )
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, FunctionalsModel):
            nn.init.zeros_(module.mean)
            nn.init.ones_(module.deviation)

    def standardise_by(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        """Set mean and std (F,) of the training clips; constant functionals are not used.

        Raises:
            ValueError: if no functional has a prefix of `exclude`.
        """
        used = torch.isfinite(mean) & torch.isfinite(std) & (std > 0)
        names = self.config.names or ()
        for prefix in self.config.exclude or ():
            excluded = torch.tensor([name.startswith(prefix) for name in names])
            if not excluded.any():
                raise ValueError(f"exclude: no functional starts with {prefix!r}")
            used &= ~excluded
        self.mean.copy_(torch.where(used, mean, 0.0))
        self.deviation.copy_(torch.where(used, std, torch.inf))

    def forward(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> BaseModelOutputWithPooling:
        """Encode functionals (B, F): `last_hidden_state` (B, 1, H), one frame per clip."""
        standardised = (input_values - self.mean) / self.deviation
        limit = self.config.limit
        standardised = torch.nan_to_num(standardised, nan=0.0).clamp(-limit, limit)
        states = self.dropout(F.gelu(self.first(standardised)))
        for layer in self.layers:
            states = states + self.dropout(layer(states))
        return BaseModelOutputWithPooling(last_hidden_state=states[:, None])

    def _get_feat_extract_output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(lengths)


class WhisperTower(WhisperEncoder):
    """The encoder of Whisper for clips of any length up to its 1500 positions (30 s), with a mask.

    Transformers' own forward pass demands 30 s of frames, and masks nothing.
    """

    _keys_to_ignore_on_load_unexpected = (r"^(model\.)?decoder\.", r"^proj_out\.")

    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        output_hidden_states: bool = False,
        last_layer: int | None = None,
    ) -> BaseModelOutput:
        """Encode log-mel frames (B, N, M), M mel bands, to half as many frames (B, N / 2, H).

        Args:
            input_values: output of `whisper_frames`, zero in the padding.
            attention_mask: (B, N), 1 = signal, 0 = padding; None = no padding.
            output_hidden_states: return the input of the first layer and the output of each layer.
            last_layer: number of layers to compute; None = all. The output of the last layer of the
                encoder is normalised, that of earlier ones is not.

        Raises:
            ValueError: if there are more frames than positions.
        """
        frames = self._get_feat_extract_output_lengths(input_values.shape[1])
        if frames > self.max_source_positions:
            raise ValueError(
                f"clip of {input_values.shape[1]} frames, expected at most "
                f"{2 * self.max_source_positions}"
            )
        states = F.gelu(self.conv1(input_values.transpose(1, 2)))
        mask = None
        if attention_mask is not None:
            states = states * attention_mask[:, None]  # as the zeros beyond a clip alone
            lengths = self._get_feat_extract_output_lengths(attention_mask.sum(dim=1))
            valid = torch.arange(frames, device=states.device) < lengths[:, None]
            mask = valid[:, None, None, :].expand(-1, 1, frames, -1)
        states = F.gelu(self.conv2(states)).transpose(1, 2) + self.embed_positions.weight[:frames]
        states = F.dropout(states, self.dropout, self.training)
        outputs = [states]
        for layer in self.layers[:last_layer]:
            states = layer(states, mask)
            outputs.append(states)
        if len(outputs) > len(self.layers):
            outputs[-1] = self.layer_norm(states)
        hidden_states = tuple(outputs) if output_hidden_states else None
        return BaseModelOutput(last_hidden_state=outputs[-1], hidden_states=hidden_states)

    def _get_feat_extract_output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        return (lengths + 1) // 2


class AudioBranch(nn.Module):
    """Speech encoder with pooling over the frames that are not padding.

    Layers are pooled before they are standardised and combined, so that the pooled layers of a
    frozen encoder can be cached: those of one setting (`pool`), or the statistics of every layer,
    of which each setting without learned weights selects some (`statistics`, `statistic_columns`).
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        pooling: str = "mean",
        layers: str | Sequence[int] = "last",
        standardise: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_pooling(config, pooling, layers)
        if (config.model_type, getattr(config, "position_embeddings_type", None)) == ROTARY:
            raise ValueError(
                "position_embeddings_type 'rotary' caches tensors in inference mode that fail in "
                "training; expected null, 'relative' or 'relative_key'"
            )
        self.base = new_encoder(config)
        self.pooling = pooling
        self.layer_weights = self.attention = self.layer_numbers = None
        if layers == "weighted":  # of the input of the first layer, and the output of each layer
            self.layer_numbers = list(range(config.num_hidden_layers + 1))
        elif layers != "last":
            self.layer_numbers = list(layers)
        if layers == "weighted":
            self.layer_weights = nn.Parameter(torch.zeros(len(self.layer_numbers)))
        if standardise:
            self.register_buffer("mean", torch.zeros(self.pooled_size))
            self.register_buffer("deviation", torch.ones(self.pooled_size))
        self.standardise = standardise
        self.dropout = nn.Dropout(dropout)
        if pooling == "attention":
            self.attention = nn.Parameter(torch.zeros(config.hidden_size))
        if not hasattr(self.base, "_get_feat_extract_output_lengths"):
            raise ValueError(
                f"audio encoder {config.model_type!r} cannot compute its number of frames; "
                "expected Whisper or one of the wav2vec2 family (wav2vec2, hubert, wavlm, ...)"
            )

    @property
    def supports_padding(self) -> bool:
        """Whether padding with a mask leaves embeddings unchanged.

        Group normalisation averages over time including the padding, and the convolutions of an
        adapter extend into it, as do those of data2vec-audio and wav2vec2-conformer. Such encoders
        (wav2vec2-base) and unknown ones need clips of equal length.
        """
        config = self.base.config
        if config.model_type not in PADDABLE:
            return False
        by_layer = getattr(config, "feat_extract_norm", "layer") == "layer"
        return by_layer and not getattr(config, "add_adapter", False)

    @property
    def reads_functionals(self) -> bool:
        """Whether the input is functionals (B, F) instead of waveforms."""
        return isinstance(self.base, FunctionalsModel)

    @property
    def reads_whisper_frames(self) -> bool:
        """Whether the input is the log-mel frames of Whisper (B, N, M)."""
        return isinstance(self.base, WhisperTower)

    @property
    def combined_size(self) -> int:
        """P, input size of the projection."""
        layers = 1 if self.layer_weights is None else len(self.layer_weights)
        return self.pooled_size // layers

    @property
    def pooled_size(self) -> int:
        """Size of all pooled layers of a clip."""
        layers = 1 if self.layer_numbers is None else len(self.layer_numbers)
        return layers * self.base.config.hidden_size * AUDIO_POOLINGS[self.pooling]

    def forward(self, input_values: torch.Tensor, padding_mask: torch.Tensor | None) -> tuple:
        """Encode waveforms (B, T): frames (B, N, H) and pooled layers, see `pool`.

        Raises:
            ValueError: if clips are padded and the encoder does not support padding.
        """
        mask = self._mask(padding_mask)
        layers = self.layers(input_values, mask)
        return layers[-1], self.pool(layers, mask)

    def statistics(
        self, input_values: torch.Tensor, padding_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the mean and standard deviation of the frames of every layer, (B, layers * 2H)."""
        mask = self._mask(padding_mask)
        numbers = range(self.base.config.num_hidden_layers + 1)
        layers = self.layers(input_values, mask, numbers)
        valid = self._valid(layers, mask)
        return torch.cat([_mean_std(frames, valid) for frames in layers], dim=-1)

    def statistic_columns(self) -> torch.Tensor:
        """Return the columns of `statistics` that `pool` returns.

        Raises:
            ValueError: if pooling has learned weights.
        """
        if self.pooling == "attention":
            raise ValueError("audio_pooling 'attention' has learned weights, expected 'mean(_std)'")
        size, last = self.base.config.hidden_size, self.base.config.num_hidden_layers
        columns = torch.arange((last + 1) * 2 * size).view(last + 1, 2 * size)
        pooled = size * AUDIO_POOLINGS[self.pooling]
        return columns[self.layer_numbers or [last], :pooled].flatten()

    def _mask(self, padding_mask: torch.Tensor | None) -> torch.Tensor | None:
        """Return the mask as the encoder expects it; None = no padding."""
        if padding_mask is None or bool(padding_mask.all()):
            return None
        if not self.supports_padding:
            raise ValueError(
                "padding would change the embeddings of this speech encoder, which normalises or "
                "convolves over it; pass clips of equal length"
            )
        return padding_mask.long()

    def layers(
        self,
        input_values: torch.Tensor,
        mask: torch.Tensor | None,
        numbers: Sequence[int] | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """Return the frames (B, N, H) of these layers; None = of those that are pooled."""
        numbers = self.layer_numbers if numbers is None else numbers
        if numbers is None:  # the last layer alone
            return (self.base(input_values, attention_mask=mask).last_hidden_state,)
        limit = {"last_layer": max(numbers)} if self.reads_whisper_frames else {}
        outputs = self.base(input_values, attention_mask=mask, output_hidden_states=True, **limit)
        # The last hidden state may be normalised, the last of `hidden_states` is not.
        states = (*outputs.hidden_states[:-1], outputs.last_hidden_state)
        return tuple(states[number] for number in numbers)

    def pool(
        self, layers: Sequence[torch.Tensor], padding_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Pool the frames of each layer: (B, layers * P)."""
        valid = self._valid(layers, padding_mask)
        pooled = [self._pooled(frames, valid) for frames in layers]
        return pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=-1)

    def _valid(
        self, layers: Sequence[torch.Tensor], padding_mask: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Return which frames (B, N) are not padding; None = all."""
        if padding_mask is None:
            return None
        lengths = self.base._get_feat_extract_output_lengths(padding_mask.sum(dim=1))
        positions = torch.arange(layers[-1].shape[1], device=lengths.device)
        return positions < lengths[:, None]

    def _pooled(self, frames: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
        """Pool the valid (B, N; None = all) frames (B, N, H): (B, P)."""
        if self.pooling == "attention":
            scores = (frames @ self.attention)[..., None]
            if valid is not None:
                scores = scores.masked_fill(~valid[..., None], -torch.inf)
            return (frames * scores.softmax(dim=1)).sum(dim=1)
        return _masked_mean(frames, valid) if self.pooling == "mean" else _mean_std(frames, valid)

    def combine(self, pooled: torch.Tensor) -> torch.Tensor:
        """Standardise the pooled layers, and sum them if they have learned weights: (B, P)."""
        if self.standardise:
            pooled = (pooled - self.mean) / self.deviation
            pooled = pooled.clamp(-MAX_DEVIATION, MAX_DEVIATION)
        if self.layer_weights is not None:
            weights = self.layer_weights.softmax(dim=0)
            pooled = (pooled.unflatten(1, (len(weights), -1)) * weights[:, None]).sum(dim=1)
        return self.dropout(pooled)

    def standardise_by(self, pooled: torch.Tensor) -> None:
        """Set mean and standard deviation to those of the pooled layers of training clips."""
        pooled = pooled.double()
        self.mean.copy_(pooled.mean(dim=0))
        self.deviation.copy_(pooled.std(dim=0, correction=0).clamp(min=MIN_DEVIATION))


def new_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """Return an encoder with random weights; of Whisper only its encoder.

    Code that a configuration names is not run, even if the user trusts that of this file.
    """
    if config.model_type == WHISPER:
        return WhisperTower(config)
    return AutoModel.from_config(config, trust_remote_code=False)


def load_encoder(
    name: str | Path, config: PreTrainedConfig, **options: Any
) -> tuple[PreTrainedModel, list[str]]:
    """Load a pretrained encoder as float32; of Whisper only its encoder.

    Args:
        name: folder or Hub name.
        config: of the encoder.
        options: of `from_pretrained`, such as `revision`.

    Returns:
        The encoder and the names of the weights that the files lack.
    """
    kind: Any = AutoModel
    if config.model_type == WHISPER:
        kind, options = WhisperTower, {**options, "key_mapping": WHISPER_ENCODER}
    encoder, report = kind.from_pretrained(
        name,
        config=config,
        dtype=torch.float32,  # not that of the file
        output_loading_info=True,
        trust_remote_code=False,
        **options,
    )
    return encoder, report["missing_keys"]


def encoder_hash(encoder: nn.Module, dtype: torch.dtype | None = torch.float16) -> str:
    """Return the SHA-256 of the names and values of all tensors that take part in embeddings.

    Args:
        encoder: `base` of a branch.
        dtype: floats are rounded to it, so that a copy of that precision has the same hash as the
            original in float32; None = as they are.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        if any(unused in name for unused in UNUSED_WEIGHTS):
            continue
        if dtype is not None and tensor.is_floating_point():
            tensor = tensor.to(dtype)
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def base_encoder(config: PreTrainedConfig, origin: Mapping[str, Any], **options: Any) -> Any:
    """Load the encoder that an entry of `ParaCLAPConfig.base_encoders` names.

    From a folder in `$PARACLAP_ENCODERS` that is called like it, otherwise from the Hub.

    Args:
        config: of the encoder.
        origin: the entry.
        options: of `from_pretrained`.

    Raises:
        OSError: if it cannot be loaded.
        ValueError: if its weights are others.
    """
    name, revision = str(origin.get("name")), origin.get("revision")
    if not HUB_NAME.fullmatch(name):
        raise ValueError(f"base encoder {name!r} is no name of the Hub")
    source = encoder_source(name)
    if source == name and revision:
        options["revision"] = revision
    try:
        encoder, _ = load_encoder(source, copy.deepcopy(config), **options)
    except OSError as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise OSError(
            f"base encoder {name} is neither in the folder ${ENCODERS} "
            f"({os.environ.get(ENCODERS) or 'not set'}) nor available from the Hub: {reason}"
        ) from error
    if (found := encoder_hash(encoder)) != origin.get("sha256"):
        raise ValueError(
            f"the weights of the base encoder {source} are not those that the model was "
            f"trained with: their hash is {found}, expected {origin.get('sha256')}"
        )
    return encoder


def _align(model: nn.Module) -> None:
    """Copy tensors that are mapped from a file to where torch would have allocated them.

    The rounding of matrix products on a CPU depends on the alignment of their operands, so the same
    weights would give other embeddings in training and after loading.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type == "cpu" and tensor.data_ptr() % ALIGNMENT:
            tensor.data = tensor.data.clone()


def encoder_source(name: str | Path) -> str | Path:
    """Return the folder of an encoder in `$PARACLAP_ENCODERS`, or its name if there is none.

    The folder is called as the last part of the name, with or without `-encoder`, or as the whole
    name with `--` for `/`. Paths of folders remain as they are.
    """
    if not os.environ.get(ENCODERS) or not HUB_NAME.fullmatch(str(name)) or Path(name).is_dir():
        return name
    last = str(name).rpartition("/")[2]
    for folder in (last, str(name).replace("/", "--"), f"{last}-encoder"):
        path = Path(os.environ[ENCODERS]).expanduser() / folder
        if (path / "config.json").is_file():
            return path
    return name


def check_pooling(config: PreTrainedConfig, pooling: str, layers: str | Sequence[int]) -> None:
    """Raise `ValueError` if an encoder cannot be pooled like this, see `ParaCLAPConfig`."""
    if pooling not in AUDIO_POOLINGS:
        raise ValueError(f"audio_pooling is {pooling!r}, expected one of {tuple(AUDIO_POOLINGS)}")
    _check_layers(config, layers)
    if config.model_type == FunctionalsConfig.model_type and (pooling, layers) != ("mean", "last"):
        raise ValueError(
            f"audio_pooling {pooling!r} of audio_layers {layers!r}: functionals are a single frame "
            "of one layer, expected 'mean' of 'last'"
        )
    if layers != "last" and getattr(config, "layerdrop", 0.0):
        raise ValueError(
            f"audio_layers is {layers!r}, but layerdrop skips layers in training; expected "
            "model.audio.config.layerdrop=0.0"
        )


def _check_layers(config: PreTrainedConfig, layers: str | Sequence[int]) -> None:
    if layers in AUDIO_LAYERS:
        return
    last = config.num_hidden_layers
    numbers = [] if isinstance(layers, str) else list(layers)
    fits = all(type(number) is int and 0 <= number <= last for number in numbers)
    if not numbers or not fits or len(set(numbers)) < len(numbers):
        raise ValueError(
            f"audio_layers is {layers!r}, expected one of {AUDIO_LAYERS} or a list of different "
            f"layers from 0 to {last}"
        )


def _masked_mean(frames: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
    """Average the frames (B, N, H) for which `valid` (B, N) is not 0; None = all: (B, H)."""
    if valid is None:
        return frames.mean(dim=1)
    valid = valid[..., None]
    return (frames * valid).sum(dim=1) / valid.sum(dim=1)


def _mean_std(frames: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
    """Return mean and standard deviation of valid frames (B, N, H), in float32 or more: (B, 2H)."""
    mean = _at_least_float32(_masked_mean(frames, valid))
    variance = _masked_mean((_at_least_float32(frames) - mean[:, None]).square(), valid)
    return torch.cat([mean, (variance + MIN_VARIANCE).sqrt()], dim=-1)


class TextBranch(nn.Module):
    """Text encoder, pooled to the last hidden state of its first token or the mean over tokens."""

    def __init__(self, config: PreTrainedConfig, pooling: str = "cls") -> None:
        super().__init__()
        if pooling not in TEXT_POOLINGS:
            raise ValueError(f"text_pooling is {pooling!r}, expected one of {TEXT_POOLINGS}")
        self.base = AutoModel.from_config(config, trust_remote_code=False)
        self.pooling = pooling

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> tuple:
        """Encode tokens (K, L): states (K, L, H) and pooled states (K, H)."""
        states = self.base(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if self.pooling == "cls":
            return states, states[:, 0]
        return states, _masked_mean(states, attention_mask)


class Projection(nn.Module):
    """Two linear layers with a residual connection into the shared space."""

    def __init__(self, input_dim: int, output_dim: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(input_dim, output_dim, bias=False)
        self.linear2 = nn.Linear(output_dim, output_dim, bias=False)
        self.layer_norm = nn.LayerNorm(output_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """Map (B, P) to (B, D), not normalised."""
        first = self.linear1(pooled)
        return self.layer_norm(first + self.dropout(self.linear2(F.gelu(first))))


class FreezableModel(PreTrainedModel):
    """A model whose parts can be frozen and made trainable again.

    Attributes:
        frozen: names of the frozen parts, see `FREEZABLE`.
    """

    frozen: tuple[str, ...] = ()

    @property
    def has_convolutions(self) -> bool:
        """Whether the part `audio_convolutions` exists."""
        return hasattr(self.audio_branch.base, "freeze_feature_encoder")

    def freeze(self, parts: Iterable[str]) -> "FreezableModel":
        """Freeze the weights of `parts` (names of `FREEZABLE`) and keep them in evaluation mode.

        Raises:
            ValueError: if a name is not in `FREEZABLE`, or this model cannot freeze that part.
        """
        unknown = sorted(set(parts) - set(FREEZABLE))
        if unknown:
            raise ValueError(f"cannot freeze {unknown}, expected some of {sorted(FREEZABLE)}")
        self.frozen = tuple(parts)
        if "audio" in self.frozen and self.audio_branch.pooling == "attention":
            raise ValueError(
                "cannot freeze audio with audio_pooling 'attention': its learned weights need the "
                "frames, but only pooled frames of a frozen encoder are cached; expected 'mean' or "
                "'mean_std'"
            )
        if "audio_convolutions" in self.frozen and not self.has_convolutions:
            raise ValueError("cannot freeze audio_convolutions: this audio tower has none")
        for part in self.frozen:
            self.get_submodule(FREEZABLE[part]).requires_grad_(False)
        if "audio_convolutions" in self.frozen:
            # Otherwise the encoder sets requires_grad on its input in training mode.
            self.audio_branch.base.freeze_feature_encoder()
        return self.train(self.training)

    def unfreeze(self) -> None:
        """Make all parts trainable again."""
        for part in self.frozen:
            self.get_submodule(FREEZABLE[part]).requires_grad_(True)
        self.frozen = ()
        self.train(self.training)

    def train(self, mode: bool = True) -> "FreezableModel":
        """Set training mode, except for frozen parts, which have neither dropout nor masking."""
        super().train(mode)
        for part in self.frozen:
            self.get_submodule(FREEZABLE[part]).eval()
        return self


class ParaCLAPModel(FreezableModel):
    """Two encoders, two projections and a learned scale of the cosine similarities."""

    config: ParaCLAPConfig
    config_class = ParaCLAPConfig
    base_model_prefix = "paraclap"
    main_input_name = "input_values"
    input_modalities = ("audio", "text")
    _supports_sdpa = True

    def __init__(self, config: ParaCLAPConfig) -> None:
        super().__init__(config)
        self.audio_branch = AudioBranch(
            config.audio_config,
            config.audio_pooling,
            config.audio_layers,
            config.audio_standardise,
            config.audio_dropout,
        )
        self.text_branch = TextBranch(config.text_config, config.text_pooling)
        self.audio_projection = Projection(
            self.audio_branch.combined_size, config.projection_dim, config.projection_dropout
        )
        self.text_projection = Projection(
            config.text_config.hidden_size, config.projection_dim, config.projection_dropout
        )
        self.logit_scale = nn.Parameter(torch.tensor(config.logit_scale_init_value))
        self.post_init()
        self._keys_to_ignore_on_load_missing = {
            rf"^{branch}_branch\.base\." for branch in self.absent_encoders
        }

    @property
    def absent_encoders(self) -> dict[str, dict[str, Any]]:
        """Entries of `config.base_encoders` whose weights are not saved with the model."""
        entries = self.config.base_encoders or {}
        return {
            name: entries[name]
            for name in BRANCHES
            if not entries.get(name, {}).get("stored", True)
        }

    @classmethod
    def from_pretrained(cls, source: str | Path, *arguments: Any, **options: Any) -> Any:
        """Load a model, see transformers; encoders that are not saved with it are fetched by name.

        Raises:
            OSError: if a file cannot be loaded.
            ValueError: if the weights of a fetched encoder are not those of the training.
        """
        model = super().from_pretrained(source, *arguments, **options)
        loaded = model[0] if isinstance(model, tuple) else model  # with `output_loading_info`
        hub = {key: options[key] for key in HUB_OPTIONS if key in options}
        for branch, origin in loaded.absent_encoders.items():
            base = loaded.get_submodule(f"{branch}_branch.base")
            base.load_state_dict(base_encoder(base.config, origin, **hub).state_dict())
            del origin["stored"]
        _align(loaded)
        return model

    @classmethod
    def from_published(
        cls,
        source: str | Path = PUBLISHED_HUB,
        config: ParaCLAPConfig | None = None,
        sha256: str | None = None,
    ) -> "ParaCLAPModel":
        """Load weights in the form published by the authors of the paper, a bare state dict.

        The base encoders are not downloaded: their configurations are in `PUBLISHED_CONFIG`.

        Args:
            source: `best.pth.tar`, a folder that holds it, or a name on the Hugging Face Hub.
            config: of a checkpoint with other towers; None = `PUBLISHED_CONFIG`.
            sha256: expected hash of the file, checked before it is read; None = any.

        Returns:
            Model in float32 and evaluation mode; `config.provenance` names the file and its hash.

        Raises:
            FileNotFoundError: if there is no such file.
            OSError: if the file cannot be downloaded from the Hub.
            ValueError: if the hash, the names or the shapes differ from what is expected, or the
                file holds anything but finite tensors.
        """
        path = _published_file(source)
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if sha256 is not None and found != sha256.lower():
            raise ValueError(f"{path} has SHA-256 {found}, expected {sha256.lower()}")
        state = _known_names(path, _read_tensors(path))
        config = copy.deepcopy(config) if config else ParaCLAPConfig(**PUBLISHED_CONFIG)
        config.provenance = {**(config.provenance or {}), "file": path.name, "sha256": found}
        with no_init_weights():
            model = cls(config)  # every tensor is replaced below
        _check_tensors(path, state, model.state_dict())
        model.load_state_dict(state, assign=True)
        return model.eval()

    def _init_weights(self, module: nn.Module) -> None:
        """Initialise modules outside of the encoders."""
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, AudioBranch):  # equal weights of frames and layers at first
            for name, parameter in module.named_parameters():
                if not name.startswith("base."):
                    nn.init.zeros_(parameter)
            if module.standardise:
                nn.init.zeros_(module.mean)
                nn.init.ones_(module.deviation)
        elif isinstance(module, ParaCLAPModel):
            nn.init.constant_(module.logit_scale, self.config.logit_scale_init_value)

    def clamp_logit_scale(self) -> None:
        """Clamp the logarithmic scale to [0, ln 100]; called after every optimiser step."""
        with torch.no_grad():
            self.logit_scale.clamp_(0, MAX_LOGIT_SCALE)

    def get_audio_features(
        self, input_values: torch.Tensor, padding_mask: torch.Tensor | None = None
    ) -> BaseModelOutputWithPooling:
        """Embed clips.

        Args:
            input_values: waveforms (B, T) at 16 kHz, log-mel frames (B, N, M) or functionals
                (B, F), as the processor returns them.
            padding_mask: of the first two dimensions, 1 = signal, 0 = padding; None = no padding.

        Returns:
            `pooler_output` (B, D) of unit length and `last_hidden_state` (B, N, H).
        """
        frames, pooled = self.encode("audio", input_values, padding_mask)
        return BaseModelOutputWithPooling(frames, self.project("audio", pooled))

    def get_text_features(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> BaseModelOutputWithPooling:
        """Embed tokens (K, L) with a mask of their shape: `pooler_output` (K, D) of unit length."""
        states, pooled = self.encode("text", input_ids, attention_mask)
        return BaseModelOutputWithPooling(states, self.project("text", pooled))

    def encode(
        self, branch: str, inputs: torch.Tensor, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the encoder of a branch ("audio" or "text"), without autograd if it is frozen.

        Returns:
            States (B, N, H) or (K, L, H), and pooled states: (K, H), or for clips the pooled layers
            of `AudioBranch.pool`.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and branch not in self.frozen):
            return self.get_submodule(f"{branch}_branch")(inputs, mask)

    def pool(
        self, branch: str, inputs: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the pooled states of `encode` in at least float32."""
        return _at_least_float32(self.encode(branch, inputs, mask)[1])

    def project(self, branch: str, pooled: torch.Tensor) -> torch.Tensor:
        """Map the output of `pool` to embeddings of unit length, (B, D) or (K, D).

        Normalised in float32, because in half precision the epsilon of `normalize` is zero.
        """
        if branch == "audio":
            pooled = self.audio_branch.combine(pooled)
        projected = self.get_submodule(f"{branch}_projection")(pooled)
        return F.normalize(_at_least_float32(projected), dim=-1)

    def forward(
        self,
        input_values: torch.Tensor,
        input_ids: torch.Tensor,
        padding_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        targets: torch.Tensor | None = None,
        return_loss: bool = False,
        **unused: Any,
    ) -> ClapOutput:
        """Compare clips with texts, see `get_audio_features` and `get_text_features`.

        Args:
            input_values: of the clips.
            input_ids: of the texts.
            padding_mask: of the clips.
            attention_mask: of the texts.
            targets: (B, K) weights of matching pairs for the loss; None = the diagonal.
            return_loss: whether to compute `clip_loss`.
            unused: entries of tokenizers (`token_type_ids`) that are ignored.

        Returns:
            `logits_per_audio` (B, K) and the fields of transformers' `ClapOutput`.

        Raises:
            TypeError: if there are other inputs.
        """
        unknown = set(unused) - {"token_type_ids", "return_dict"}
        if unknown:
            raise TypeError(f"unexpected inputs {sorted(unknown)}")
        audio = self.get_audio_features(input_values, padding_mask)
        text = self.get_text_features(input_ids, attention_mask)
        logits = scaled_cosines(audio.pooler_output, text.pooler_output, self.logit_scale)
        return ClapOutput(
            loss=clip_loss(logits, targets) if return_loss else None,
            logits_per_audio=logits,
            logits_per_text=logits.T,
            text_embeds=text.pooler_output,
            audio_embeds=audio.pooler_output,
            text_model_output=text,
            audio_model_output=audio,
        )


def _at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def scaled_cosines(
    audio: torch.Tensor, text: torch.Tensor, logit_scale: torch.Tensor
) -> torch.Tensor:
    """Return logits (B, K) of unit embeddings (B, D) and (K, D), in at least float32.

    Without autocast: bfloat16 logits at scale 100 are off by 0.3.
    """
    with torch.autocast(audio.device.type, enabled=False):
        audio, text = _at_least_float32(audio), _at_least_float32(text)
        return logit_scale.exp() * audio @ text.T


def clip_loss(logits: torch.Tensor, targets: torch.Tensor | None = None) -> torch.Tensor:
    """Return the symmetric cross entropy of clips and texts (Radford et al. 2021, section 2.3).

    Args:
        logits: (B, K), scaled cosines of clips and texts.
        targets: (B, K) non-negative weights of matching pairs; rows and columns are normalised to
            distributions. None = clip i matches text i alone.

    Returns:
        Scalar, mean of the clip-to-text and the text-to-clip cross entropy in nats.

    Raises:
        ValueError: if shapes disagree, or a clip or a text has no match.
    """
    logits = _at_least_float32(logits)
    if targets is None:
        targets = torch.eye(len(logits), device=logits.device)
    if targets.shape != logits.shape:
        raise ValueError(f"targets are {tuple(targets.shape)}, logits {tuple(logits.shape)}")
    targets = targets.to(logits.dtype)
    return (_soft_cross_entropy(logits, targets) + _soft_cross_entropy(logits.T, targets.T)) / 2


def _soft_cross_entropy(logits: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    totals = weights.sum(dim=1, keepdim=True)
    if not bool((totals > 0).all()):
        raise ValueError("every clip and every text needs at least one match in targets")
    return F.cross_entropy(logits, weights / totals)


class ParaCLAPFeatureExtractor(SequenceFeatureExtractor):
    """Convert waveforms to a padded batch of waveforms or log-mel frames.

    The recording level is kept, unless `mel` normalises it.

    Attributes:
        sampling_rate: Hz.
        gain: constant factor on every sample, after normalisation.
        min_samples: shortest input of the encoder; shorter clips are extended with silence.
        max_samples: longest input of the encoder; None = any length.
        normalise: whether each waveform is brought to mean 0 and variance 1, which removes the
            recording level.
        mel: options of `log_mel_frames`; None = waveforms.
    """

    model_input_names = ["input_values", "padding_mask"]

    def __init__(
        self,
        sampling_rate: int = SAMPLING_RATE,
        gain: float = 1.0,
        min_samples: int = 400,
        max_samples: int | None = None,
        normalise: bool = False,
        mel: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.gain = gain
        self.min_samples = min_samples
        self.max_samples = max_samples
        self.normalise = normalise
        self.mel = None if mel is None else dict(mel)
        defaults = {"feature_size": 1, "padding_value": 0.0}
        super().__init__(sampling_rate=sampling_rate, **(defaults | kwargs))

    def __call__(
        self,
        audio: np.ndarray | Sequence[np.ndarray],
        sampling_rate: int | None = None,
        samples: int | None = None,
        mask_dtype: type = np.int64,
        return_tensors: str | None = None,
        **unused: Any,
    ) -> BatchFeature:
        """Pad waveforms to the longest of them.

        Args:
            audio: one waveform (T,) or several; mono; float in [-1, 1] or signed 16-bit or 32-bit
                integers of full scale.
            sampling_rate: of the waveforms [Hz]; required, so that a wrong rate is an error.
            samples: length to pad to; None = the longest clip. (Not called `max_length`, because
                processors pass the tokenizer's `max_length`, in tokens, to audio as well.)
            mask_dtype: of the mask; as int64 it takes twice the memory of the waveforms.
            return_tensors: "pt" or "np" (default).
            unused: padding options of transformers; clips are always padded.

        Returns:
            `input_values` (B, T) float32 and `padding_mask` (B, T), 1 = signal, 0 = padding; with
            `mel` (B, N, M) and (B, N).

        Raises:
            ValueError: if a waveform has another rate, is not mono, empty, not finite or far
                outside of [-1, 1], or is longer than `samples` or `max_samples`.
        """
        waveforms = _checked_waveforms(audio, sampling_rate, self.sampling_rate)
        if self.max_samples is not None and max(map(len, waveforms)) > self.max_samples:
            longest = max(map(len, waveforms))
            raise ValueError(
                f"clip of {longest / self.sampling_rate:.2f} s ({longest} samples), this encoder "
                f"reads at most {self.max_samples / self.sampling_rate:g} s; use windows"
            )
        longest = max(self.min_samples, *map(len, waveforms))
        width = longest if samples is None else samples
        if longest > width:
            raise ValueError(f"clip of {longest} samples is longer than {width}")
        inputs = [self._input(waveform) for waveform in waveforms]
        if self.mel is not None:
            width = mel_frames(width, self.mel)
        shape = (len(inputs), width)
        input_values = np.zeros((*shape, *inputs[0].shape[1:]), dtype=np.float32)
        padding_mask = np.zeros(shape, dtype=mask_dtype)
        for row, values in enumerate(inputs):
            input_values[row, : len(values)] = values
            padding_mask[row, : len(values)] = 1
        data = {"input_values": input_values, "padding_mask": padding_mask}
        return BatchFeature(data, tensor_type=return_tensors or "np")

    def _input(self, waveform: np.ndarray) -> np.ndarray:
        """Return the encoder input of one clip: (T,), or (N, M) with `mel`."""
        if self.normalise:  # as transformers' extractors with `do_normalize`
            waveform = (waveform - waveform.mean()) / np.sqrt(waveform.var() + np.float32(1e-7))
        if self.gain != 1:
            waveform = waveform * np.float32(self.gain)
        if len(waveform) < self.min_samples:
            waveform = np.pad(waveform, (0, self.min_samples - len(waveform)))
        return waveform if self.mel is None else log_mel_frames(waveform, **self.mel)


def mel_frames(samples: int, mel: Mapping[str, Any]) -> int:
    """Return N for a number of samples and options of `log_mel_frames`."""
    if mel["normalisation"] == WHISPER:
        return samples // MEL_HOP
    return ((samples - MEL_WINDOW) // MEL_HOP + 1) // mel["stride"]


def log_mel_frames(waveform: np.ndarray, bins: int, stride: int, normalisation: str) -> np.ndarray:
    """Return a log-mel spectrogram, equal to `SeamlessM4TFeatureExtractor` of transformers.

    Windows of 25 ms every 10 ms, as in Kaldi. "clip" normalises each band to mean 0 and standard
    deviation 1 per clip, which removes the recording level. "fixed" subtracts a constant and
    appends a value that is always 0: without it, the layer norm at the input of encoders would
    remove the level. "whisper" are the frames of `whisper_frames`.

    Args:
        waveform: (T,) at 16 kHz, at least `stride` windows long.
        bins: mel bands between 20 Hz and 8 kHz.
        stride: windows per frame.
        normalisation: a name of `MEL_NORMALISATIONS`.

    Returns:
        (N, M) float32, M = `bins * stride`, plus 1 with "fixed".

    Raises:
        ValueError: if there is no such normalisation.
    """
    if normalisation not in MEL_NORMALISATIONS:
        raise ValueError(f"normalisation is {normalisation!r}, expected {MEL_NORMALISATIONS}")
    if normalisation == WHISPER:
        return whisper_frames(waveform, bins)
    window, bands = _mel_tables(bins)
    samples = waveform.astype(np.float64) * 2**15
    windows = np.lib.stride_tricks.sliding_window_view(samples, MEL_WINDOW)[::MEL_HOP]
    windows = windows - windows.mean(axis=1, keepdims=True)
    emphasised = windows.copy()
    emphasised[:, 1:] -= 0.97 * windows[:, :-1]
    emphasised[:, 0] *= 1 - 0.97
    spectra = np.fft.rfft(emphasised * window, MEL_FFT)
    power = spectra.real**2 + spectra.imag**2
    mel = np.log(np.maximum(power @ bands, MEL_FLOOR))
    if normalisation == "clip":
        mel = (mel - mel.mean(axis=0)) / np.sqrt(mel.var(axis=0, ddof=1) + 1e-7)
    else:
        mel = mel - MEL_LEVEL
    frames = mel[: len(mel) // stride * stride].reshape(-1, bins * stride)
    if normalisation == "fixed":
        frames = np.pad(frames, ((0, 0), (0, 1)))
    return frames.astype(np.float32)


def whisper_frames(waveform: np.ndarray, bins: int) -> np.ndarray:
    """Return a log-mel spectrogram, equal to transformers' `WhisperFeatureExtractor`.

    The extractor pads every clip to 30 s before; here the floor, 80 dB below the loudest value, and
    the reflected ends are those of the clip alone.

    Args:
        waveform: (T,) at 16 kHz, more than 200 samples.
        bins: mel bands between 0 and 8 kHz.

    Returns:
        (N, M) float32, 10 ms per frame, M = `bins`.
    """
    padded = np.pad(waveform.astype(np.float64), MEL_WINDOW // 2, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, MEL_WINDOW)[::MEL_HOP][:-1]
    spectra = np.fft.rfft(windows * window_function(MEL_WINDOW, "hann"))
    power = spectra.real**2 + spectra.imag**2
    mel = np.log10(np.maximum(power @ _whisper_bands(bins), 1e-10))
    return ((np.maximum(mel, mel.max() - 8) + 4) / 4).astype(np.float32)


@functools.cache
def _whisper_bands(bins: int) -> np.ndarray:
    """Return the mel filters (201, bins)."""
    return mel_filter_bank(
        num_frequency_bins=MEL_WINDOW // 2 + 1,
        num_mel_filters=bins,
        min_frequency=0.0,
        max_frequency=SAMPLING_RATE / 2,
        sampling_rate=SAMPLING_RATE,
        norm="slaney",
        mel_scale="slaney",
    )


@functools.cache
def _mel_tables(bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the window (400,) and the mel filters (257, bins)."""
    bands = mel_filter_bank(
        num_frequency_bins=MEL_FFT // 2 + 1,
        num_mel_filters=bins,
        min_frequency=20,
        max_frequency=SAMPLING_RATE // 2,
        sampling_rate=SAMPLING_RATE,
        norm=None,
        mel_scale="kaldi",
        triangularize_in_mel_space=True,
    )
    return window_function(MEL_WINDOW, "povey", periodic=False), bands


class FunctionalsFeatureExtractor(SequenceFeatureExtractor):
    """Convert waveforms to eGeMAPSv02 functionals, measured by openSMILE.

    Attributes:
        sampling_rate: Hz.
        names: functionals (F) that are kept, in this order.
        undefined: rules (index, value, indices): if the functional at `index` has this value,
            those at `indices` are undefined and become NaN.
    """

    model_input_names = ["input_values", "padding_mask"]

    def __init__(
        self,
        sampling_rate: int = SAMPLING_RATE,
        names: Sequence[str] = (),
        undefined: Sequence[tuple[int, float, Sequence[int]]] = (),
        **kwargs: Any,
    ) -> None:
        self.names = list(names)
        self.undefined = [(index, value, list(indices)) for index, value, indices in undefined]
        defaults = {"feature_size": 1, "padding_value": 0.0}
        super().__init__(sampling_rate=sampling_rate, **(defaults | kwargs))

    def __call__(
        self,
        audio: np.ndarray | Sequence[np.ndarray],
        sampling_rate: int | None = None,
        return_tensors: str | None = None,
        **unused: Any,
    ) -> BatchFeature:
        """Measure waveforms.

        Args:
            audio: one waveform (T,) or several; mono; float in [-1, 1] or signed 16-bit or 32-bit
                integers of full scale.
            sampling_rate: of the waveforms [Hz]; required, so that a wrong rate is an error.
            return_tensors: "pt" or "np" (default).
            unused: padding options; functionals need no padding.

        Returns:
            `input_values` (B, F) float32 and `padding_mask` (B, 1) of ones.

        Raises:
            ImportError: if opensmile is not installed.
            ValueError: if a waveform has another rate, is not mono, empty or not finite, or is
                shorter than 60 ms.
        """
        waveforms = _checked_waveforms(audio, sampling_rate, self.sampling_rate)
        return self.batch([self._measure(w) for w in waveforms], return_tensors)

    def batch(self, rows: Sequence[np.ndarray], return_tensors: str | None = None) -> BatchFeature:
        """Collate the functionals (F,) of several clips, in the form that `__call__` returns."""
        values = np.stack(rows).astype(np.float32)
        data = {"input_values": values, "padding_mask": np.ones((len(rows), 1), np.int64)}
        return BatchFeature(data, tensor_type=return_tensors or "np")

    def _measure(self, waveform: np.ndarray) -> np.ndarray:
        limited = np.clip(waveform, -1.0, 32767 / 32768)  # beyond, int16 of openSMILE overflows
        table = _smile().process_signal(limited, self.sampling_rate)
        values = table[self.names].to_numpy(np.float32)[0]
        if np.isnan(values).any():
            seconds = len(waveform) / self.sampling_rate
            raise ValueError(f"clip of {seconds:.3f} s is too short for openSMILE, expected 60 ms")
        defined = values.copy()
        for index, value, indices in self.undefined:
            if values[index] == np.float32(value):
                defined[indices] = np.nan
        return defined


@functools.cache
def _smile() -> Any:
    """Create the openSMILE interface; imported here, because other towers do not need it."""
    opensmile = importlib.import_module("opensmile")
    return opensmile.Smile(
        opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals, num_workers=1
    )


def _checked_waveforms(
    audio: np.ndarray | Sequence[np.ndarray], rate: int | None, expected: int
) -> list[np.ndarray]:
    """Return one or several waveforms as a list of float32 arrays (T,)."""
    if rate != expected:
        found = "no sampling_rate" if rate is None else f"{rate} Hz"
        raise ValueError(f"{found} given, expected {expected} Hz")
    several = audio if isinstance(audio, list | tuple) else [audio]
    waveforms = [_floats(np.asarray(waveform)) for waveform in several]
    for waveform in waveforms:
        if waveform.ndim != 1:
            raise ValueError(f"waveform has shape {waveform.shape}, expected mono (T,)")
        if not len(waveform):
            raise ValueError("waveform has no samples")
        peak = max(waveform.max(), -waveform.min())
        if not np.isfinite(peak):
            raise ValueError("waveform has non-finite samples")
        if peak > MAX_PEAK:
            raise ValueError(f"waveform peaks at {peak:g}, expected float samples in [-1, 1]")
    return waveforms


def _floats(waveform: np.ndarray) -> np.ndarray:
    """Return a waveform as float32; signed integers of full scale become [-1, 1)."""
    if np.issubdtype(waveform.dtype, np.signedinteger) and waveform.dtype.itemsize < 8:
        return (waveform / -float(np.iinfo(waveform.dtype).min)).astype(np.float32)
    return waveform.astype(np.float32, copy=False)


class ParaCLAPProcessor(ProcessorMixin):
    """Feature extractor and tokenizer in one call: `processor(text=..., audio=...)`."""

    def __init__(
        self,
        feature_extractor: ParaCLAPFeatureExtractor | FunctionalsFeatureExtractor,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        super().__init__(feature_extractor, tokenizer)


def receptive_field(audio_config: PreTrainedConfig) -> int:
    """Return the number of samples that a wav2vec2-like encoder needs for one frame."""
    samples = 1
    layers = zip(audio_config.conv_kernel, audio_config.conv_stride, strict=True)
    for kernel, stride in reversed(list(layers)):
        samples = (samples - 1) * stride + kernel
    return samples


def _published_file(source: str | Path) -> Path:
    """Return the path of published weights, downloaded if `source` is a Hub name."""
    path = Path(source)
    if path.is_dir():
        path /= PUBLISHED_FILE
        if not path.is_file():
            raise FileNotFoundError(f"{path.parent} contains no {PUBLISHED_FILE}")
    if path.exists():
        return path
    if str(source).count("/") != 1 or path.suffix in {".tar", ".pth", ".pt", ".bin"}:
        raise FileNotFoundError(f"there is no file {path}")
    try:
        return Path(hf_hub_download(str(source), PUBLISHED_FILE))
    except (OSError, ValueError) as error:
        raise OSError(
            f"{source} is neither a file nor a folder, and {PUBLISHED_FILE} could not be loaded "
            "from the Hugging Face Hub; download it from "
            f"https://huggingface.co/{source}/blob/main/{PUBLISHED_FILE} and pass its path"
        ) from error


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Load a state dict of finite tensors as float32; code in the file is never executed."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on damaged files the unpickler raises errors of any kind
        raise ValueError(
            f"{path} is damaged or contains more than tensors; checkpoints with code are not loaded"
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and torch.is_tensor(tensor) for name, tensor in state.items()
    ):
        raise ValueError(f"{path} is not a bare state dict, expected names and tensors only")
    broken = [name for name, tensor in state.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise ValueError(f"{path} has {len(broken)} tensors with NaN or Inf, first {broken[0]!r}")
    return {name: tensor.float() for name, tensor in state.items()}


def _known_names(path: Path, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename tensors to our names and drop `PUBLISHED_STRAYS`."""
    renamed: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        for pattern, replacement in PUBLISHED_NAMES.items():
            name = re.sub(pattern, replacement, name)
        if name in renamed:
            raise ValueError(f"{path} contains {name!r} twice, under an old and a new name")
        renamed[name] = tensor
    return {name: tensor for name, tensor in renamed.items() if name not in PUBLISHED_STRAYS}


def _check_tensors(
    path: Path, given: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]
) -> None:
    """Check names and shapes: weights that the file lacks would keep their random values."""
    missing = [name for name in expected if name not in given]
    unexpected = [name for name in given if name not in expected]
    reshaped = [
        f"{name} {tuple(given[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in expected
        if name in given and given[name].shape != expected[name].shape
    ]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    found = [
        f"{len(names)} {fault} (first: {names[0]})" for fault, names in faults.items() if names
    ]
    if found:
        raise ValueError(
            f"{path} has {len(given)} tensors, the model {len(expected)}: {', '.join(found)}"
        )


# Registered wherever this file is imported, with or without the repository.
AutoConfig.register(FunctionalsConfig.model_type, FunctionalsConfig, exist_ok=True)
AutoModel.register(FunctionalsConfig, FunctionalsModel, exist_ok=True)
AutoFeatureExtractor.register(FunctionalsConfig, FunctionalsFeatureExtractor, exist_ok=True)
