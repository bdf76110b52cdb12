"""A checkpoint: which file holds which tensor, and its numbers in pieces."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, Protocol

from submodels.errors import CheckpointError
from submodels.tensors.tensor_file import TensorFileError, TensorInfo, read_header

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
CONFIG_FILE = "config.json"

# Large enough for full disk speed, small enough that a split of any model runs in little memory.
PIECE_BYTES = 16 << 20
# Configuration and index files; the index of the largest models takes a few MiB.
_MAX_JSON_BYTES = 256 << 20


class SourceTensor(Protocol):
    """One tensor of a checkpoint."""

    @property
    def name(self) -> str:
        """Its name in a Hugging Face checkpoint."""

    @property
    def dtype(self) -> str:
        """The safetensors name of the format in which its numbers come."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first."""

    @property
    def num_bytes(self) -> int:
        """How many bytes all pieces have."""

    def pieces(self) -> Iterator[bytes]:
        """Its numbers in order, in pieces of about `PIECE_BYTES`.

        Raises:
            CheckpointError: the file ends before the tensor does.
        """


@dataclass(frozen=True, slots=True)
class ShardTensor:
    """A tensor in a safetensors file, a `SourceTensor`."""

    name: str
    path: Path
    info: TensorInfo

    @property
    def dtype(self) -> str:
        """As in the file."""
        return self.info.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """As in the file."""
        return self.info.shape

    @property
    def num_bytes(self) -> int:
        """As in the file."""
        return self.info.num_bytes

    def pieces(self, piece_bytes: int = PIECE_BYTES) -> Iterator[bytes]:
        """See `SourceTensor.pieces`; every piece but the last has exactly `piece_bytes`."""
        left = self.info.num_bytes
        with self.path.open("rb") as file:
            file.seek(self.info.start)
            while left:
                wanted = min(piece_bytes, left)
                piece = file.read(wanted)
                if len(piece) < wanted:
                    raise CheckpointError(f"{self.path} ends inside the tensor {self.name}")
                left -= len(piece)
                yield piece


@dataclass(frozen=True, slots=True)
class ReadThrough:
    """What a tensor that is read through another one has of it."""

    source: SourceTensor

    @property
    def dtype(self) -> str:
        """As in the other."""
        return self.source.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """As in the other."""
        return self.source.shape

    @property
    def num_bytes(self) -> int:
        """As in the other."""
        return self.source.num_bytes


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All tensors of a checkpoint, by name."""

    path: Path
    """What the user named: a folder or a file."""
    folder: Path
    """Where config.json and the tokenizer's files are."""
    tensors: Mapping[str, SourceTensor]

    def same_bytes(self, first: str, second: str) -> bool:
        """Whether two tensors agree in number format, shape and every byte."""
        return _agree(self.tensors[first], self.tensors[second])


def open_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in a folder: one safetensors file, or shards with an index.

    Raises:
        CheckpointError: no safetensors there, or files that are missing, truncated, corrupt, or
            hold different numbers under one name.
    """
    if (path / SINGLE_FILE).is_file():
        return Checkpoint(path, path, MappingProxyType(read_shard(path / SINGLE_FILE)))
    if (path / INDEX_FILE).is_file():
        return Checkpoint(path, path, MappingProxyType(_read_shards(path)))
    raise CheckpointError(f"expected {SINGLE_FILE} or {INDEX_FILE} in {path}")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of bounded size.

    Raises:
        CheckpointError: missing, too large, or not a JSON object.
    """
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise CheckpointError(f"{path} is larger than {_MAX_JSON_BYTES} bytes")
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def _read_shards(path: Path) -> dict[str, ShardTensor]:
    """All tensors of the files that an index names, as transformers reads them.

    Of a tensor that several files hold, which happens where one replaces parts of others, it takes
    the last one's. What the index says of single tensors matters only there.
    """
    weight_map = read_json(path / INDEX_FILE).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path / INDEX_FILE} has no weight_map")
    tensors: dict[str, ShardTensor] = {}
    for file_name in sorted({str(name) for name in weight_map.values()}):
        if not _is_below(file_name):
            raise CheckpointError(f"{path / INDEX_FILE}: {file_name!r} is not a file below {path}")
        for name, found in read_shard(path / file_name).items():
            earlier, said = tensors.get(name), weight_map.get(name)
            if earlier is not None and said != file_name and not _agree(earlier, found):
                raise CheckpointError(
                    f"{name} is both in {earlier.path.relative_to(path)} and {file_name}, with "
                    f"other numbers, and {INDEX_FILE} says {said}, of which transformers takes the "
                    "last: write the checkpoint anew with one of them"
                )
            tensors[name] = found
    return tensors


def _is_below(file_name: str) -> bool:
    path = PurePosixPath(file_name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def _agree(one: SourceTensor, other: SourceTensor) -> bool:
    """Whether two tensors agree in number format, shape and every byte."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return all(a == b for a, b in zip(one.pieces(), other.pieces(), strict=True))


def read_shard(path: Path) -> dict[str, ShardTensor]:
    """The tensors of one safetensors file, by name.

    Raises:
        CheckpointError: missing, truncated or corrupt.
    """
    try:
        header = read_header(path)
    except TensorFileError as error:
        raise CheckpointError(str(error)) from error
    return {name: ShardTensor(name, path, info) for name, info in header.items()}
