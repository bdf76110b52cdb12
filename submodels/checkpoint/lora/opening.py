"""An adapter of PEFT and its base model, opened as one checkpoint."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

from submodels.checkpoint.checkpoint import CONFIG_FILE, Checkpoint, read_json, read_shard
from submodels.checkpoint.hub import resolve_model
from submodels.checkpoint.lora.merging import merged_tensors
from submodels.checkpoint.lora.settings import lora_settings
from submodels.checkpoint.named_templates import TEMPLATE_FOLDER
from submodels.checkpoint.other_forms import ADAPTER_CONFIG_FILE
from submodels.checkpoint.tokenizer_files import GENERATION_CONFIG_FILE, TOKENIZER_FILES
from submodels.errors import CheckpointError
from submodels.plan.wrappers import text_config

_WEIGHTS_FILE = "adapter_model.safetensors"
_BASE_KEY = "base_model_name_or_path"


def base_of(adapter: Path, base: str | None = None) -> Path:
    """The folder or GGUF file of an adapter's base model: `base`, or what the adapter names.

    Raises:
        CheckpointError: it names none, or one that cannot be had.
    """
    config = read_json(adapter / ADAPTER_CONFIG_FILE)
    named = base or config.get(_BASE_KEY)
    if not isinstance(named, str) or not named:
        raise CheckpointError(f"{adapter} is an adapter that names no base model: give --base")
    if base is None and config.get("revision"):
        raise CheckpointError(
            f"{adapter} is an adapter for the revision {config['revision']!r} of {named}: give "
            "that one with --base"
        )
    try:
        return resolve_model(named)
    except CheckpointError as error:
        if base is not None:
            raise
        raise CheckpointError(f"the base model of {adapter}: {error}; or give --base") from error


@contextmanager
def opened_adapter(adapter: Path, model: Checkpoint) -> Iterator[Checkpoint]:
    """The base model with the adapter merged into it, tensor by tensor, while it is read.

    The tokenizer is the adapter's, where it has one of its own.

    Raises:
        UnsupportedModelError: an adapter of another kind, or a base that is refused by name.
        CheckpointError: files that are missing, corrupt, or do not fit one another.
    """
    settings = lora_settings(
        read_json(adapter / ADAPTER_CONFIG_FILE), str(adapter / ADAPTER_CONFIG_FILE)
    )
    config = text_config(read_json(model.folder / CONFIG_FILE))
    merged = merged_tensors(model, _updates(adapter), settings, _ties(config))
    with TemporaryDirectory(prefix="hat-adapter-") as folder:
        _gather(model.folder, adapter, Path(folder))
        yield Checkpoint(adapter, Path(folder), merged.tensors)


def _ties(config: Mapping[str, Any]) -> bool:
    from submodels.plan.families import family_of

    return bool(family_of(config).load_config(config).tie_word_embeddings)


def _updates(adapter: Path) -> Checkpoint:
    path = adapter / _WEIGHTS_FILE
    if not path.is_file():
        pickled = adapter / "adapter_model.bin"
        hint = f"; {pickled.name} is pickled, save it with a newer peft" if pickled.exists() else ""
        raise CheckpointError(f"expected {_WEIGHTS_FILE} in {adapter}{hint}")
    return Checkpoint(adapter, adapter, MappingProxyType(dict(read_shard(path))))


def _gather(model: Path, adapter: Path, folder: Path) -> None:
    """Configuration, tokenizer and settings of the two as one folder."""
    own = any((adapter / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
    for name in TOKENIZER_FILES:
        source = (adapter if own else model) / name
        if source.is_file():
            shutil.copyfile(source, folder / name)
    templates = (adapter if own else model) / TEMPLATE_FOLDER
    if templates.is_dir():
        shutil.copytree(templates, folder / TEMPLATE_FOLDER)
    shutil.copyfile(model / CONFIG_FILE, folder / CONFIG_FILE)
    for place in (adapter, model):
        if (place / GENERATION_CONFIG_FILE).is_file():
            shutil.copyfile(place / GENERATION_CONFIG_FILE, folder / GENERATION_CONFIG_FILE)
            break
