"""Checks of the encoders that settings name, before weights are read or fetched."""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

from paraclap.errors import MissingPackageError
from paraclap.files import reading
from paraclap.model.sources import HUB_NAME
from paraclap.settings import LoraSettings, ModelSettings, Settings, SettingsError, TowerSettings


def check_layers(model: ModelSettings) -> None:
    """Raise `SettingsError` if the audio encoder cannot have the layers of a list.

    Encoders that are not on this machine are checked before their weights are fetched.
    """
    layers = model.audio_layers
    if layers in ("last", "weighted"):
        return
    numbers = layers if isinstance(layers, list) else []
    fits = numbers and all(type(number) is int and number >= 0 for number in numbers)
    last = _number_of_layers(model.audio) if fits else None
    if not fits or len(set(numbers)) < len(numbers) or (last is not None and max(numbers) > last):
        limit = "" if last is None else f" to {last}"
        raise SettingsError(
            f"model.audio_layers is {layers!r}, expected last, weighted, or a list of different "
            f"layers from 0{limit}"
        )


def check_lora(settings: Settings) -> None:
    """Check that adapters can be added to the towers of `model.lora`.

    Raises:
        MissingPackageError: if peft is not installed.
        SettingsError: if a tower has random weights or is frozen as well.
    """
    model, lora = settings.model, settings.model.lora
    for key in ("towers", "targets"):
        if not getattr(lora, key) and lora != LoraSettings():
            raise SettingsError(f"model.lora.{key} is empty, model.lora requires both")
    if lora.towers and importlib.util.find_spec("peft") is None:
        raise MissingPackageError("peft", "lora")
    for tower in lora.towers:
        if tower in model.freeze:
            raise SettingsError(
                f"{tower} is in model.lora.towers and in model.freeze; an encoder with adapters is "
                "frozen otherwise, remove it from model.freeze"
            )
        if not (model.start or getattr(model, tower).name):
            raise SettingsError(
                f"model.lora.towers: the {tower} encoder has random weights, expected a pretrained "
                f"one in model.{tower}.name"
            )
    if "audio" in lora.towers and "audio_convolutions" in settings.train.unfreeze:
        raise SettingsError("train.unfreeze: audio_convolutions, but audio is in model.lora.towers")


def _number_of_layers(tower: TowerSettings) -> int | None:
    """Return the number of layers of an encoder, if a configuration on this machine states it."""
    stated: dict[str, Any] = {}
    if tower.name and (path := _configuration(tower.name)):
        with reading(path, SettingsError):
            stated = json.loads(path.read_text(encoding="utf-8"))
    for known in (tower.config, stated):
        for key in ("encoder_layers", "num_hidden_layers"):  # Whisper has both
            if isinstance(known, dict) and isinstance(known.get(key), int):
                return known[key]
    return None


def _configuration(name: str) -> Path | None:
    """Return config.json of an encoder in a folder or in the cache of the Hub.

    Folders are those of `encoder_source` in modeling_paraclap.py, which imports torch.
    """
    folders, local = [Path(name)], os.environ.get("PARACLAP_ENCODERS")
    if local and HUB_NAME.fullmatch(name) and not folders[0].is_dir():
        last = name.rpartition("/")[2]
        names = (last, name.replace("/", "--"), f"{last}-encoder")
        folders = [Path(local).expanduser() / folder for folder in names]
    for folder in folders:
        if (folder / "config.json").is_file():
            return folder / "config.json"
    if folders[0].is_dir():
        return None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return None
    return Path(cached) if isinstance(cached, str) else None
