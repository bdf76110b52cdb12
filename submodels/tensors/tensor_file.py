"""One safetensors file, memory-mapped: names, dtypes, shapes, and arrays without a copy.

Format: https://huggingface.co/docs/safetensors, section "Format". Needs no torch.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ml_dtypes
import msgspec
import numpy as np
from numpy.typing import NDArray

# The limit of the reference implementation, which refuses larger headers.
MAX_HEADER_BYTES = 100_000_000
HEADER_LENGTH_BYTES = 8

_ITEM_BYTES = MappingProxyType(
    {
        "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1,
        "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
        "I32": 4, "U32": 4, "F32": 4,
        "I64": 8, "U64": 8, "F64": 8,
    }
)  # fmt: skip
NUMPY_DTYPES: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        "F32": np.dtype(np.float32),
        "F16": np.dtype(np.float16),
        "BF16": np.dtype(ml_dtypes.bfloat16),
    }
)
"""The number formats of weights, by their safetensors names."""

_READABLE: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {**NUMPY_DTYPES, "I32": np.dtype(np.int32)}
)


class TensorFileError(ValueError):
    """A safetensors file breaks a rule of its format; the message names file and rule."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies: bytes `[start, end)` of the file; `dtype` is the safetensors name."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def num_bytes(self) -> int:
        """How many bytes the tensor takes."""
        return self.end - self.start


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


class TensorFile:
    """A safetensors file whose header has been checked against the file's real size.

    Raises:
        TensorFileError: missing, truncated or corrupt.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType(read_header(path))
        self._bytes: NDArray[np.uint8] | None = None

    def read(self, name: str) -> NDArray[Any]:
        """The named tensor, memory-mapped and read-only.

        Raises:
            KeyError: no such tensor.
            TensorFileError: its number format is none of weights, nor int32.
        """
        info = self.tensors[name]
        if info.dtype not in _READABLE:
            raise TensorFileError(
                f"{self.path}: {name} is {info.dtype}, expected one of {', '.join(_READABLE)}"
            )
        if info.num_bytes == 0:
            return np.empty(info.shape, _READABLE[info.dtype])
        if self._bytes is None:
            self._bytes = np.memmap(self.path, np.uint8, mode="r")
        raw = self._bytes[info.start : info.end]
        return raw.view(_READABLE[info.dtype]).reshape(info.shape)


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Names and places of all tensors of a safetensors file, in the order of their bytes.

    Raises:
        TensorFileError: missing, truncated, or not a safetensors file.
    """
    try:
        num_file_bytes = path.stat().st_size
        with path.open("rb") as file:
            num_header_bytes = int.from_bytes(file.read(HEADER_LENGTH_BYTES), "little")
            limit = min(MAX_HEADER_BYTES, num_file_bytes - HEADER_LENGTH_BYTES)
            if not 0 < num_header_bytes <= limit:
                raise TensorFileError(
                    f"{path} is corrupt or truncated: its header claims {num_header_bytes} bytes "
                    f"in a file of {num_file_bytes}"
                )
            header = file.read(num_header_bytes)
    except OSError as error:
        raise TensorFileError(f"cannot read {path}: {error.strerror or error}") from error
    data_start = HEADER_LENGTH_BYTES + num_header_bytes
    return _parse(path, header, data_start, num_file_bytes - data_start)


def _parse(
    path: Path, header: bytes, data_start: int, num_data_bytes: int
) -> dict[str, TensorInfo]:
    try:
        raw = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        raw.pop("__metadata__", None)
        entries = {name: msgspec.json.decode(value, type=_Entry) for name, value in raw.items()}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TensorFileError(f"{path} is corrupt: its header is not valid ({error})") from error
    expected_start = 0
    tensors: dict[str, TensorInfo] = {}
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        _check_entry(path, name, entry, expected_start)
        start, expected_start = entry.data_offsets
        tensors[name] = TensorInfo(
            entry.dtype, tuple(entry.shape), data_start + start, data_start + expected_start
        )
    if expected_start != num_data_bytes:
        raise TensorFileError(
            f"{path} is corrupt or truncated: tensors take {expected_start} bytes, "
            f"the file has {num_data_bytes}"
        )
    return tensors


def _check_entry(path: Path, name: str, entry: _Entry, expected_start: int) -> None:
    start, end = entry.data_offsets
    if entry.dtype not in _ITEM_BYTES:
        raise TensorFileError(f"{path}: {name} has the unknown number format {entry.dtype!r}")
    num_bytes = math.prod(entry.shape) * _ITEM_BYTES[entry.dtype]
    if min(entry.shape, default=0) < 0 or end - start != num_bytes:
        raise TensorFileError(
            f"{path}: {name} of shape {entry.shape} and format {entry.dtype} takes {num_bytes} "
            f"bytes, its range [{start}, {end}) has {end - start}"
        )
    if start != expected_start:
        raise TensorFileError(
            f"{path}: {name} starts at byte {start}, the tensor before it ends at {expected_start}"
        )
