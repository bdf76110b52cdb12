"""A whole GGUF model: one file, or all parts of one that was split."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from submodels.checkpoint.gguf.header import Header, StoredTensor, read_header
from submodels.checkpoint.gguf.names import part_paths
from submodels.errors import CheckpointError, UnsupportedModelError

_ARCHITECTURE = "general.architecture"
_PART_COUNT = "split.count"
_TENSOR_COUNT = "split.tensors.count"
HEADS = "attention.head_count"
# Factors of rotary embeddings, one for two numbers of a head.
_MAX_VECTOR = 1 << 16


@dataclass(frozen=True, slots=True)
class GgufFile:
    """The settings of a model, those of its first file, and the tensors of all its files."""

    path: Path
    """The file the user named."""
    settings: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]

    @property
    def architecture(self) -> str:
        """llama.cpp's name for the kind of model."""
        return str(self.settings[_ARCHITECTURE])

    def get(self, key: str, default: Any = None) -> Any:
        """A setting of the model, whose name begins with its architecture."""
        return self.settings.get(f"{self.architecture}.{key}", default)

    def integer(self, key: str, default: int | None = None) -> int:
        """A count that holds for the whole model; some files have it once per layer.

        Raises:
            CheckpointError: missing without a default, no count, or another one in each layer.
        """
        value = self.get(key, default)
        if isinstance(value, list) and len(set(value)) == 1:
            value = value[0]
        if not isinstance(value, int) or isinstance(value, bool):
            name = f"{self.architecture}.{key}"
            raise CheckpointError(f"{self.path}: expected {name} as one number, got {value!r:.60}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A number. Files hold float32; it comes as the shortest decimal that is the same there.

        Raises:
            CheckpointError: missing without a default, or no number.
        """
        value = self.get(key, default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(shortest(value)):
            name = f"{self.architecture}.{key}"
            raise CheckpointError(f"{self.path}: expected {name} as a number, got {value!r:.60}")
        return shortest(value)

    @property
    def head_dim(self) -> int:
        """How many numbers a head of queries or keys has.

        Raises:
            CheckpointError: a setting is missing or no count.
        """
        hidden_size, num_heads = self.integer("embedding_length"), self.integer(HEADS)
        return self.integer("attention.key_length", hidden_size // max(num_heads, 1))

    def has_in_layers(self, name: str) -> bool:
        """Whether some layer has a tensor of this name."""
        return any(own.split(".", 2)[-1] == name for own in self.tensors)

    def vector(self, name: str) -> NDArray[np.float32] | None:
        """The numbers of a float32 tensor that belongs to the settings; None: there is none.

        Raises:
            UnsupportedModelError: it has another format.
            CheckpointError: it is no vector.
        """
        stored = self.tensors.get(name)
        if stored is None:
            return None
        if stored.type.name != "F32":
            raise UnsupportedModelError(f"{self.path}: {name} is {stored.type.name}, not F32")
        if len(stored.shape) != 1 or stored.shape[0] > _MAX_VECTOR:
            raise CheckpointError(f"{self.path}: {name} has the shape {stored.shape}")
        with stored.path.open("rb") as source:
            source.seek(stored.start)
            return np.frombuffer(source.read(stored.num_bytes), "<f4")


def shortest(value: float) -> float:
    """The number with the fewest digits among those that are the same in float32."""
    with np.errstate(over="ignore"):
        return float(str(np.float32(value)))


def read_gguf(path: Path) -> GgufFile:
    """The model in a GGUF file, with its other parts where it was split.

    Raises:
        CheckpointError: a file is missing, cut short, or corrupt.
        UnsupportedModelError: a version, byte order or number format that is not read.
    """
    paths = part_paths(path)
    missing = [part.name for part in paths if not part.is_file()]
    if missing:
        listed = ", ".join(missing[:3])
        raise CheckpointError(
            f"{path} is one of {len(paths)} files; {len(missing)} of them missing: {listed}"
        )
    headers = [read_header(part) for part in paths]
    first = headers[0].settings
    if not isinstance(first.get(_ARCHITECTURE), str):
        raise CheckpointError(f"{paths[0]} does not say which architecture it is")
    count = first.get(_PART_COUNT) or 1
    if count != len(paths):
        raise CheckpointError(
            f"{path} is one of {count!r:.20} files; expected names that end in "
            f"-00001-of-{count!r:.20}.gguf with five digits, as they were given"
        )
    return GgufFile(path, first, _joined(paths, headers))


def _joined(paths: tuple[Path, ...], headers: list[Header]) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    for part, header in zip(paths, headers, strict=True):
        for name in header.tensors.keys() & tensors.keys():
            raise CheckpointError(f"{name} is both in {tensors[name].path.name} and {part.name}")
        tensors |= header.tensors
    expected = headers[0].settings.get(_TENSOR_COUNT, len(tensors))
    if len(tensors) != expected:
        raise CheckpointError(
            f"{paths[0]} speaks of {expected!r:.20} tensors in all its parts, they hold "
            f"{len(tensors)}"
        )
    return tensors
