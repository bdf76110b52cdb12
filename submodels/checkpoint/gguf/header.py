"""What stands before the weights in a GGUF file: settings by name, and where each tensor lies.

Format: ggml's docs/gguf.md. Every length is checked against the file's real size before it is
followed, so a file that was cut short is refused here and not in the middle of a split. What a
file can make this code read and keep is bounded, whatever it says and however large it is.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from submodels.errors import CheckpointError, UnsupportedModelError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT_BYTES = 32
_MAX_DIMENSIONS = 4
# The largest vocabularies of today, with their merges, take about 16 MiB.
_MAX_HEADER_BYTES = 64 << 20
# ggml's own limit; `llama.cpp` opens no file with a longer one.
_MAX_NAME_LENGTH = 64

# The format's numbers for the types of settings.
_STRING, _ARRAY, _BOOL = 8, 9, 7
_NUMBERS: Mapping[int, str] = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?",
    10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as it lies in a file: blocks of `type`, rows first in `shape`."""

    path: Path
    type: GGMLQuantizationType
    shape: tuple[int, ...]
    start: int
    """Its first byte in the file."""
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """The settings of one file, and its tensors by llama.cpp's names."""

    settings: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]


def read_header(path: Path) -> Header:
    """The header of one GGUF file.

    Raises:
        CheckpointError: not a GGUF file, cut short, or corrupt.
        UnsupportedModelError: a version, byte order or number format that is not read.
    """
    try:
        with path.open("rb") as file:
            num_bytes = os.fstat(file.fileno()).st_size
            if file.read(len(_MAGIC)) != _MAGIC:
                raise CheckpointError(f"{path} is not a GGUF file: it does not begin with GGUF")
            begin = _MAGIC + file.read(_MAX_HEADER_BYTES)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    return _HeaderReader(path, begin, num_bytes).read()


class _HeaderReader:
    """Reads a file's header from its beginning to its end, once."""

    def __init__(self, path: Path, begin: bytes, num_bytes: int) -> None:
        self._path = path
        self._data = begin
        self._num_bytes = num_bytes
        self._place = len(_MAGIC)

    def read(self) -> Header:
        self._check_version(self._number("<u4"))
        num_tensors, num_settings = self._number("<u8"), self._number("<u8")
        settings: dict[str, Any] = {}
        for _ in range(num_settings):
            name = self._string()
            if name in settings:
                raise CheckpointError(f"{self._path} holds the setting {name!r:.60} twice")
            settings[name] = self._value(self._number("<u4"))
        entries = [self._tensor_entry() for _ in range(num_tensors)]
        alignment = settings.get("general.alignment", _DEFAULT_ALIGNMENT_BYTES)
        if not isinstance(alignment, int) or alignment < 1:
            raise CheckpointError(f"{self._path}: general.alignment is {alignment!r:.60}")
        data_start = -(-self._place // alignment) * alignment
        tensors: dict[str, StoredTensor] = {}
        for name, shape, type_number, offset in entries:
            if name in tensors:
                raise CheckpointError(f"{self._path} holds the tensor {name} twice")
            tensors[name] = self._stored(name, shape, type_number, data_start + offset)
        return Header(settings, tensors)

    def _check_version(self, version: int) -> None:
        if version in _VERSIONS:
            return
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        if swapped in _VERSIONS:
            raise UnsupportedModelError(
                f"{self._path} is a big-endian GGUF file; only little-endian ones are supported"
            )
        raise UnsupportedModelError(
            f"{self._path} is GGUF version {version}; supported: "
            f"{' and '.join(map(str, _VERSIONS))}"
        )

    def _tensor_entry(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string()
        if not name.isprintable() or not 0 < len(name) <= _MAX_NAME_LENGTH:
            raise CheckpointError(f"{self._path} is corrupt: a tensor is called {name!r:.60}")
        num_dimensions = self._number("<u4")
        if not 1 <= num_dimensions <= _MAX_DIMENSIONS:
            raise CheckpointError(f"{self._path}: {name} has {num_dimensions} dimensions")
        # The format names the dimension whose neighbours lie side by side first.
        shape = tuple(self._numbers("<u8", num_dimensions).tolist()[::-1])
        if 0 in shape:
            raise CheckpointError(f"{self._path}: {name} has the shape {shape}")
        return name, shape, self._number("<u4"), self._number("<u8")

    def _stored(
        self, name: str, shape: tuple[int, ...], type_number: int, start: int
    ) -> StoredTensor:
        try:
            kind = GGMLQuantizationType(type_number)
        except ValueError as error:
            raise UnsupportedModelError(
                f"{self._path}: {name} has the unknown number format {type_number}; a newer gguf "
                "package may know it"
            ) from error
        block_numbers, block_bytes = GGML_QUANT_SIZES[kind]
        if shape[-1] % block_numbers:
            raise CheckpointError(
                f"{self._path}: {name} has rows of {shape[-1]} numbers, which {kind.name} cannot "
                f"hold in blocks of {block_numbers}"
            )
        num_bytes = block_bytes * (shape[-1] // block_numbers)
        for size in shape[:-1]:
            num_bytes *= size
        if start + num_bytes > self._num_bytes:
            raise CheckpointError(
                f"{self._path} is corrupt or truncated: {name} ends at byte {start + num_bytes}, "
                f"the file has {self._num_bytes}"
            )
        return StoredTensor(self._path, kind, shape, start, num_bytes)

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            of, count = self._number("<u4"), self._number("<u8")
            if of == _STRING:
                return [self._string() for _ in range(count)]
            return self._numbers(self._number_format(of), count).tolist()
        return self._number(self._number_format(kind))

    def _number_format(self, kind: int) -> str:
        if kind not in _NUMBERS:
            raise CheckpointError(f"{self._path} is corrupt: a setting has the unknown type {kind}")
        return _NUMBERS[kind]

    def _number(self, number_format: str) -> Any:
        return self._numbers(number_format, 1)[0].item()

    def _numbers(self, number_format: str, count: int) -> Any:
        dtype = np.dtype(number_format)
        return np.frombuffer(self._bytes(dtype.itemsize * count), dtype)

    def _string(self) -> str:
        length = int.from_bytes(self._bytes(8), "little")
        try:
            return self._bytes(length).decode()
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self._path} is corrupt: a text is not UTF-8") from error

    def _bytes(self, length: int) -> bytes:
        end = self._place + length
        if end > len(self._data):
            reason = "its header goes on"
            if self._num_bytes > len(self._data):
                reason = f"its header goes on after {_MAX_HEADER_BYTES >> 20} MiB"
            raise CheckpointError(f"{self._path} is corrupt or truncated: {reason}")
        piece = self._data[self._place : end]
        self._place = end
        return piece
