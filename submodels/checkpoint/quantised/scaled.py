"""Matrices whose rows lie in order, as integers or floats of 8 bits or packed, and their scales."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from submodels.checkpoint.checkpoint import SourceTensor
from submodels.checkpoint.quantised.tensors import rows_per_step
from submodels.checkpoint.reading import row_steps, whole


class Codes(Protocol):
    """What was stored for each number of a matrix."""

    @property
    def shape(self) -> tuple[int, int]:
        """Of the matrix."""

    def steps(self) -> Iterator[NDArray[np.float32]]:
        """Rows in order, some at a time."""


@dataclass(frozen=True, slots=True)
class PlainCodes:
    """One integer or float of 8 bits for each number."""

    source: SourceTensor

    @property
    def shape(self) -> tuple[int, int]:
        """As in the file."""
        rows, columns = self.source.shape
        return rows, columns

    def steps(self) -> Iterator[NDArray[np.float32]]:
        """See `Codes.steps`."""
        for rows in row_steps(self.source, rows_per_step(self.shape[1])):
            yield rows.astype(np.float32)


@dataclass(frozen=True, slots=True)
class PackedCodes:
    """Integers of `bits` bits, along rows in words of 32, the first in the lowest bits.

    Source: compressed-tensors, `unpack_from_int32`.
    """

    source: SourceTensor
    shape: tuple[int, int]
    bits: int

    def steps(self) -> Iterator[NDArray[np.float32]]:
        """See `Codes.steps`; half of the range lies below zero."""
        for words in row_steps(self.source, rows_per_step(self.shape[1])):
            yield unpacked(words, self.bits)[:, : self.shape[1]].astype(np.float32)


def unpacked(words: NDArray[Any], bits: int) -> NDArray[np.int16]:
    """Integers out of words along the last axis, half of their range below zero."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    codes = (words.view(np.uint32)[..., None] >> shifts) & np.uint32((1 << bits) - 1)
    signed = codes.astype(np.int16) - np.int16(1 << (bits - 1))
    return signed.reshape(*words.shape[:-1], -1)


@dataclass(frozen=True, slots=True)
class Grid:
    """A number for each block of a matrix: `block` rows and columns share one."""

    source: SourceTensor
    shape: tuple[int, int]
    """Of the grid, into which what is stored is brought."""
    block: tuple[int, int]
    bits: int | None = None
    """What is stored is packed in words along columns of the grid; None: it is not."""

    def numbers(self) -> NDArray[np.float32]:
        """All of them."""
        held = whole(self.source)
        if self.bits is not None:
            held = unpacked(np.ascontiguousarray(held.T), self.bits).T[: self.shape[0]]
        return held.reshape(self.shape).astype(np.float32)


@dataclass(frozen=True, slots=True)
class ScaledMatrix:
    """`(code - zero) * scale`, a `Numbers`."""

    codes: Codes
    scale: Grid
    zero: Grid | None = None
    group_of: SourceTensor | None = None
    """Which column of the grid each column belongs to; None: one after the other."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the matrix."""
        return self.codes.shape

    def steps(self) -> Iterator[NDArray[np.float32]]:
        """See `Numbers.steps`."""
        height, width = self.scale.block
        columns = np.arange(self.codes.shape[1]) // width
        if self.group_of is not None:
            columns = whole(self.group_of)
        scale = self.scale.numbers()
        zero = None if self.zero is None else self.zero.numbers()
        first = 0
        for codes in self.codes.steps():
            rows = np.arange(first, first + len(codes)) // height
            first += len(codes)
            shifted = codes if zero is None else codes - zero[rows][:, columns]
            yield shifted * scale[rows][:, columns]
