"""Folders that hold a model in a form that is not ours, named for what they are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from submodels.checkpoint.checkpoint import (
    CONFIG_FILE,
    INDEX_FILE,
    SINGLE_FILE,
    read_json,
)
from submodels.errors import CheckpointError, UnsupportedModelError

ADAPTER_CONFIG_FILE = "adapter_config.json"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
_MODELOPT_FILE = "hf_quant_config.json"
_UNQUANTISED = "split the unquantised model, or a GGUF file of it"


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter of PEFT and no model of its own."""
    return (folder / ADAPTER_CONFIG_FILE).is_file() and not (folder / CONFIG_FILE).is_file()


def refuse_other_forms(folder: Path) -> None:
    """Return if a folder may hold a checkpoint as `hat split` reads it.

    Raises:
        UnsupportedModelError: it was quantised by ModelOpt or MLX.
        CheckpointError: something else than a checkpoint lies there, or beside it.
    """
    if (folder / _MODELOPT_FILE).is_file():
        raise UnsupportedModelError(
            f"{folder} was quantised by NVIDIA's ModelOpt, as {_MODELOPT_FILE} says: {_UNQUANTISED}"
        )
    if not (folder / CONFIG_FILE).is_file():
        raise CheckpointError(_without_config(folder))
    config = read_json(folder / CONFIG_FILE)
    if _is_mlx(config):
        raise UnsupportedModelError(f"{folder} was quantised by MLX: {_UNQUANTISED}")
    if (folder / ADAPTER_CONFIG_FILE).is_file():
        raise CheckpointError(
            f"{folder} holds a model and an adapter of PEFT ({ADAPTER_CONFIG_FILE}): move the "
            "adapter's files into a folder of their own, and split the model alone, or both "
            f"together with: hat split ADAPTER --base {folder}"
        )
    if not any((folder / name).is_file() for name in (SINGLE_FILE, INDEX_FILE)):
        raise CheckpointError(_without_safetensors(folder))
    if (folder / "tekken.json").is_file() and not _has_tokenizer(folder):
        raise CheckpointError(
            f"{folder} has Mistral's own tokenizer alone (tekken.json): put the tokenizer.json and "
            "tokenizer_config.json of a model with the same vocabulary beside it, such as those of "
            "its base model or of a conversion of it"
        )


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _TOKENIZER_FILES)


def _is_mlx(config: Mapping[str, Any]) -> bool:
    """MLX writes no method, but a group size and bits, under two names."""
    for key in ("quantization", "quantization_config"):
        value = config.get(key)
        if isinstance(value, Mapping) and "quant_method" not in value:
            return {"group_size", "bits"} <= value.keys()
    return False


def _without_config(folder: Path) -> str:
    """What a folder is that has no config.json."""
    if (folder / "params.json").is_file():
        return (
            f"{folder} holds the form in which Meta and Mistral publish weights (params.json): "
            "split the Hugging Face form of the model (config.json, safetensors)"
        )
    below = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG_FILE}"))
    hint = f"; {below[0]} in it has one" if below else ""
    return f"expected a checkpoint in {folder}: there is no {CONFIG_FILE}{hint}"


def _without_safetensors(folder: Path) -> str:
    expected = f"expected {SINGLE_FILE} or {INDEX_FILE} in {folder}"
    if pickled := _first(folder, "*.bin", "*.pt", "*.pth"):
        return (
            f"{expected}; {pickled} is pickled, which could run code: convert it to safetensors "
            "first, with from_pretrained and save_pretrained of transformers"
        )
    if other := _first(folder, "*.safetensors"):
        return f"{expected}; {other} has another name than the weights of a checkpoint"
    return f"{expected}; of a hub's GGUF files name one, such as owner/model:Q4_K_M"


def _first(folder: Path, *patterns: str) -> str | None:
    found = sorted(path.name for pattern in patterns for path in folder.glob(pattern))
    return found[0] if found else None
