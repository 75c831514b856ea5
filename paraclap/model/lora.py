"""LoRA: low-rank adapters in linear layers of encoders, the weights of which are not trained.

The adapters (Hu et al. 2022, "LoRA: Low-rank adaptation of large language models") are those of
peft. A model has them in training only: it is saved as the merged model, in the form of any other,
with the adapters beside it in the form of peft.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from paraclap.errors import MissingPackageError
from paraclap.model.modeling_paraclap import ParaCLAPModel
from paraclap.model.sources import ModelError
from paraclap.settings import LoraSettings

ADAPTER = "default"  # its name, which peft leaves out of files


def add_adapters(
    model: ParaCLAPModel, settings: LoraSettings, origins: Mapping[str, Mapping[str, Any]]
) -> None:
    """Add adapters to encoders, and freeze all other weights of these encoders.

    An adapter adds zero at first, so that outputs remain as they are.

    Args:
        model: with pretrained encoders.
        settings: towers and adapters.
        origins: see `towers.base_encoders`; names and commits are saved with the adapters.

    Raises:
        MissingPackageError: if peft is not installed.
        ModelError: if an encoder reads functionals or lacks the layers.
    """
    if not settings.towers:
        return
    try:
        from peft import LoraConfig, inject_adapter_in_model  # takes seconds to import
    except ImportError as error:
        raise MissingPackageError("peft", "lora") from error
    if "audio" in settings.towers and model.audio_branch.reads_functionals:
        raise ModelError("model.lora.towers: a network on functionals has no adapters; train it")
    encoders = {branch: _encoder(model, branch) for branch in settings.towers}
    _check_targets(encoders, settings.targets)
    for branch, base in encoders.items():
        origin = origins.get(branch, {})
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=[name for name in settings.targets if name in _linear_layers(base)],
            base_model_name_or_path=origin.get("name"),
            revision=origin.get("revision"),
        )
        inject_adapter_in_model(config, base, ADAPTER)
        _adapt_weights_in_place(base, settings)
        if hasattr(base, "freeze_feature_encoder"):
            base.freeze_feature_encoder()  # otherwise its input has a gradient in training


def _encoder(model: ParaCLAPModel, branch: str) -> PreTrainedModel:
    return model.get_submodule(f"{branch}_branch.base")


def _linear_layers(base: PreTrainedModel) -> list[str]:
    """Return the names of linear layers, without the modules that they are in."""
    modules = base.named_modules()
    return sorted({name.rpartition(".")[2] for name, m in modules if isinstance(m, nn.Linear)})


def _check_targets(encoders: Mapping[str, PreTrainedModel], targets: list[str]) -> None:
    """Raise `ModelError` if an encoder has none of the layers, or a layer is in no encoder."""
    layers = {branch: _linear_layers(base) for branch, base in encoders.items()}
    missing = [name for name in targets if not any(name in names for names in layers.values())]
    for branch, names in layers.items():
        if missing or not set(targets) & set(names):
            raise ModelError(
                f"model.lora.targets: the {branch} encoder (type "
                f"{encoders[branch].config.model_type}) has no linear layer "
                f"{' or '.join(missing or targets)}; it has {', '.join(names)}"
            )


def _adapt_weights_in_place(base: PreTrainedModel, settings: LoraSettings) -> None:
    """Let the attention of WavLM read adapted weights, as it does not call its linear layers."""
    from peft.tuners.lora import Linear
    from transformers.models.wavlm.modeling_wavlm import WavLMAttention

    class ReadLinear(Linear):
        @property
        def weight(self) -> torch.Tensor:
            return _merged_weight(self)

    for module in base.modules():
        if isinstance(module, WavLMAttention):
            for layer in module.children():
                if isinstance(layer, Linear):
                    if settings.dropout:
                        raise ModelError(
                            "model.lora.dropout: it is on the input of an adapter, and the "
                            "attention of WavLM has no such input; expected 0"
                        )
                    layer.__class__ = ReadLinear


def _merged_weight(layer: Any) -> torch.Tensor:
    """Return the weight of a linear layer plus that of its adapter."""
    return layer.base_layer.weight + layer.get_delta_weight(ADAPTER)


def is_adapter(name: str) -> bool:
    """Return whether a weight, by its name in a state dict, is of an adapter."""
    return ".lora_" in name


def has_adapters(module: nn.Module) -> bool:
    """Return whether a module has adapters."""
    return any(map(is_adapter, module.state_dict()))


@torch.no_grad()
def merged_state(model: ParaCLAPModel) -> dict[str, torch.Tensor]:
    """Return the state dict of the model without adapters whose outputs are the same."""
    state = {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in model.state_dict().items()
        if not is_adapter(name)
    }
    for name, module in model.named_modules():
        if hasattr(module, "lora_A"):
            state[f"{name}.weight"] = _merged_weight(module)
    return state


def save_adapters(model: ParaCLAPModel, folder: Path) -> None:
    """Write the adapters of each tower to a folder of its name, for `peft.PeftModel`."""
    for branch in ("audio", "text"):
        base = _encoder(model, branch)
        if has_adapters(base):
            config = copy.copy(base.peft_config[ADAPTER])
            config.target_modules = sorted(config.target_modules)  # a set has any order
            config.save_pretrained(folder / branch)
            weights = {
                f"base_model.model.{name.replace(f'.{ADAPTER}.', '.')}": tensor.contiguous()
                for name, tensor in base.state_dict().items()
                if is_adapter(name)
            }
            save_file(weights, folder / branch / "adapter_model.safetensors", {"format": "pt"})
