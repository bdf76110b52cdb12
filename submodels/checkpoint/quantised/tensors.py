"""A quantised tensor read as plain numbers: computed some rows at a time, and rounded as asked."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from submodels.errors import CheckpointError
from submodels.tensors.number_format import cast, item_bytes

STEP_NUMBERS = 1 << 18
"""How many numbers are computed at a time: 1 MiB in float32, beside what they are made of."""


class Numbers(Protocol):
    """What a quantised tensor says."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first, as a layer has them."""

    def steps(self) -> Iterator[NDArray[np.float32]]:
        """All numbers in order, about `STEP_NUMBERS` at a time.

        Raises:
            CheckpointError: a file ends before its tensor does.
        """


@dataclass(frozen=True, slots=True)
class DequantisedTensor:
    """A `SourceTensor` of computed numbers."""

    name: str
    numbers: Numbers
    formats: tuple[str, ...]
    """The formats that numbers are rounded to, one after the other; the last is the tensor's."""
    path: Path
    """What the user named, for messages."""

    @property
    def dtype(self) -> str:
        """The safetensors name of the format in which `pieces` come."""
        return self.formats[-1]

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first."""
        return self.numbers.shape

    @property
    def num_bytes(self) -> int:
        """The bytes of all pieces."""
        return int(np.prod(self.shape, dtype=np.int64)) * item_bytes(self.dtype)

    def pieces(self) -> Iterator[bytes]:
        """See `SourceTensor.pieces`; smaller ones.

        Raises:
            CheckpointError: as there, or what it holds is no number.
        """
        for numbers in _quietly(self.numbers.steps()):
            if not np.isfinite(numbers).all():
                raise CheckpointError(
                    f"{self.path} is corrupt: {self.name} holds what is no number when dequantised"
                )
            piece, came = numbers.astype("<f4", copy=False).tobytes(), "F32"
            for target in self.formats:
                piece, came = cast(piece, came, target, self.name), target
            yield piece


def _quietly(steps: Iterator[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    """The same without numpy's warnings of what is no number, which is looked for."""
    while True:
        with np.errstate(all="ignore"):
            numbers = next(steps, None)
        if numbers is None:
            return
        yield numbers


def rounded_by(through: str, target: str) -> tuple[str, ...]:
    """`DequantisedTensor.formats` of what is computed in one format and then kept in another."""
    return (target,) if through in ("F32", target) else (through, target)


def rows_per_step(num_columns: int) -> int:
    """How many rows of a matrix are computed at a time."""
    return max(1, STEP_NUMBERS // num_columns)
