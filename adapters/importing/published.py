"""A published drafting head as its folder holds it: settings, and tensors by their usual names."""

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.storage import AdapterError
from submodels.checkpoint.checkpoint import (
    CONFIG_FILE,
    INDEX_FILE,
    SINGLE_FILE,
    Checkpoint,
    open_checkpoint,
    read_json,
)
from submodels.checkpoint.hub import resolve_folder
from submodels.errors import CheckpointError
from submodels.tensors.tensor_file import NUMPY_DTYPES

PICKLED_FILE = "pytorch_model.bin"
_WANTED_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json", PICKLED_FILE)
# Formats of weights and of vocabulary maps, by their safetensors names.
_READABLE: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        **NUMPY_DTYPES,
        "I64": np.dtype(np.int64),
        "I32": np.dtype(np.int32),
        "BOOL": np.dtype(np.bool_),
    }
)

# The head's one layer has two names among those that publish; here it has one.
_OTHER_LAYER_NAME, _LAYER_NAME = "midlayer.", "layers.0."
_MODEL_PREFIX = "model."


@dataclass(frozen=True, slots=True)
class PublishedHead:
    """A head's settings and tensors.

    Tensors are named `fc.weight`, `layers.0.self_attn.q_proj.weight` and so on, whether the folder
    says `midlayer.` for the layer or puts `model.` before all names.
    """

    path: Path
    config: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    _read: Callable[[str], NDArray[Any]]

    def numbers(self, name: str) -> NDArray[np.float32]:
        """A tensor of weights in float32, which is exact for the formats that are published.

        Raises:
            AdapterError: it has another format.
        """
        tensor = self._read(name)
        if tensor.dtype not in NUMPY_DTYPES.values():
            raise AdapterError(
                f"{self.path}: expected {name} in float32, float16 or bfloat16, got {tensor.dtype}"
            )
        return tensor.astype(np.float32)

    def whole_numbers(self, name: str) -> NDArray[np.int64]:
        """A tensor of whole numbers, or of truths as 0 and 1.

        Raises:
            AdapterError: it has another format.
        """
        tensor = self._read(name)
        if tensor.dtype.kind not in "iub":
            raise AdapterError(f"{self.path}: expected whole numbers in {name}, got {tensor.dtype}")
        return tensor.astype(np.int64)


def open_head(head: str) -> PublishedHead:
    """The head in a folder, or in a repository of a model hub.

    A hub's id is looked up as `hat split` does it, in the local cache first; weights are taken from
    safetensors files, or from `pytorch_model.bin`, of which nothing but tensors is read.

    Raises:
        CheckpointError: no such folder, nothing there that is a head, or files that are corrupt.
    """
    path = resolve_folder(head, _WANTED_FILES, "a folder with a published head")
    if not (path / CONFIG_FILE).is_file():
        raise CheckpointError(
            f"{path} holds no {CONFIG_FILE}: expected the folder of a published head"
        )
    config = read_json(path / CONFIG_FILE)
    if (path / SINGLE_FILE).is_file() or (path / INDEX_FILE).is_file():
        return _from_safetensors(path, config, open_checkpoint(path))
    if (path / PICKLED_FILE).is_file():
        return _from_pickle(path, config)
    raise CheckpointError(f"expected {SINGLE_FILE} or {PICKLED_FILE} in {path}")


def _from_safetensors(
    path: Path, config: Mapping[str, Any], checkpoint: Checkpoint
) -> PublishedHead:
    own_names = _usual_names(checkpoint.tensors)

    def read(name: str) -> NDArray[Any]:
        tensor = checkpoint.tensors[own_names[name]]
        if tensor.dtype not in _READABLE:
            raise AdapterError(f"{path}: {name} is in the format {tensor.dtype}")
        numbers = np.frombuffer(b"".join(tensor.pieces()), _READABLE[tensor.dtype])
        return numbers.reshape(tensor.shape)

    shapes = {name: checkpoint.tensors[own].shape for name, own in own_names.items()}
    return PublishedHead(path, config, shapes, read)


def _from_pickle(path: Path, config: Mapping[str, Any]) -> PublishedHead:
    """The tensors of `pytorch_model.bin`; whatever else a pickle could do is refused by torch."""
    import torch

    file = path / PICKLED_FILE
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{file} cannot be read as tensors alone ({reason}); convert it to {SINGLE_FILE}"
        ) from error
    if not isinstance(loaded, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor)
        for name, tensor in loaded.items()
    ):
        raise CheckpointError(f"{file}: expected tensors by name, got {type(loaded).__name__}")
    own_names = _usual_names(loaded)

    def read(name: str) -> NDArray[Any]:
        tensor: torch.Tensor = loaded[own_names[name]]
        # numpy has no bfloat16 of its own; float32 holds each of its numbers.
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        array: NDArray[Any] = tensor.numpy()
        return array

    shapes = {name: tuple(loaded[own].shape) for name, own in own_names.items()}
    return PublishedHead(path, config, shapes, read)


def _usual_names(tensors: Mapping[str, Any]) -> dict[str, str]:
    """The folder's own names by the usual ones."""
    has_prefix = f"{_MODEL_PREFIX}fc.weight" in tensors
    named: dict[str, str] = {}
    for own in tensors:
        name = own.removeprefix(_MODEL_PREFIX) if has_prefix else own
        if name.startswith(_OTHER_LAYER_NAME):
            name = _LAYER_NAME + name.removeprefix(_OTHER_LAYER_NAME)
        named[name] = own
    return named
