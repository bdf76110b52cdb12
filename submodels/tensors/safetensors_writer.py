"""Writing a safetensors file of known layout in one pass, its SHA-256 computed on the way."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from submodels.manifest import BundleFile

# Readers may want the tensor bytes, which follow the header, aligned to the widest number.
_ALIGNMENT_BYTES = 8


@dataclass(frozen=True, slots=True)
class TensorToWrite:
    """A tensor that is going to be written; `dtype` is the safetensors name."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    num_bytes: int


class SafetensorsWriter:
    """Header first, then each tensor's bytes, in the order that was announced.

    Wider numbers must be announced before narrower ones, so that all of them stay aligned.
    Use as a context manager; `finish` makes the file durable and returns its size and hash.
    """

    def __init__(self, path: Path, tensors: Sequence[TensorToWrite]) -> None:
        header = _header(tensors)
        self._left = [(tensor.name, tensor.num_bytes) for tensor in reversed(tensors)]
        self._digest = hashlib.sha256()
        self._path = path
        self._file = path.open("xb")
        self._num_bytes = 0
        self._write(header)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def write(self, name: str, piece: bytes) -> None:
        """Append a piece of the tensor that is next in the announced order.

        Raises:
            ValueError: another tensor is next, or the piece is longer than what it has left.
        """
        while self._left and self._left[-1][1] == 0:
            self._left.pop()
        expected, num_left = self._left[-1] if self._left else ("the end", 0)
        if name != expected or len(piece) > num_left:
            raise ValueError(
                f"{self._path}: expected at most {num_left} bytes of {expected}, "
                f"got {len(piece)} of {name}"
            )
        self._left[-1] = (name, num_left - len(piece))
        self._write(piece)

    def finish(self) -> BundleFile:
        """Flush to the disk itself and close.

        Raises:
            ValueError: bytes are missing.
        """
        missing = [name for name, num_left in self._left if num_left]
        if missing:
            raise ValueError(f"{self._path}: {missing[-1]} and {len(missing) - 1} more not written")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return BundleFile(num_bytes=self._num_bytes, sha256=self._digest.hexdigest())

    def _write(self, piece: bytes) -> None:
        self._file.write(piece)
        self._digest.update(piece)
        self._num_bytes += len(piece)


def _header(tensors: Sequence[TensorToWrite]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.num_bytes
        entries[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT_BYTES)
    return len(text).to_bytes(8, "little") + text
