"""The codecs that are compared: what a receiver makes of rows, and how many bytes they took."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from submodels.bundle.coding_file import ChannelScales
from wire.coding.exact import ExactCoder
from wire.coding.integers import INT6, INT8, IntegerCoder, IntegerFormat
from wire.coding.tables import centres_of
from wire.messages import Dtype, Payload
from wire.numbers import pack_rows, unpack_rows

Float32 = NDArray[np.float32]

_INTEGERS: Mapping[str, IntegerFormat] = MappingProxyType({"int8": INT8, "int6": INT6})


@dataclass(frozen=True, slots=True)
class Received:
    """Rows `[T, H]` as a receiver has them, and the payload's size."""

    rows: Float32
    num_bytes: int


Passage = Callable[[Float32], Received]
"""One way over the link."""


@dataclass(frozen=True, slots=True)
class CodecUnderTest:
    """A codec by the name it has in a report, for each direction."""

    name: str
    up: Passage
    down: Passage


class RowCoder(Protocol):
    """A codec of `wire/coding/`."""

    def encode(self, raw: Payload, num_rows: int) -> bytes | None:
        """The payload, or None where it would be no shorter."""
        ...

    def decode(self, payload: Payload, num_rows: int) -> memoryview:
        """RAW rows."""
        ...


def codecs_under_test(
    dtype: Dtype, hidden_size: int, scales: ChannelScales, num_kept: int
) -> tuple[CodecUnderTest, ...]:
    """Every codec.

    Args:
        dtype: The wire's number format.
        hidden_size: Numbers in a row.
        scales: What the bundles know of their channels; nothing leaves out codecs that need it.
        num_kept: Channels that the last arms send as they are, of those that stand out.
    """
    name = dtype.name.lower()
    raw = passage(None, dtype)
    codecs = [CodecUnderTest(f"raw {name}", raw, raw)]
    if scales.up and scales.down:
        exact = [ExactCoder(dtype, centres_of(each, dtype)) for each in (scales.up, scales.down)]
        codecs.append(CodecUnderTest("exact", *(passage(coder, dtype) for coder in exact)))
    for name, form in _INTEGERS.items():
        plain = passage(IntegerCoder(form, dtype, hidden_size), dtype)
        codecs.append(CodecUnderTest(name, plain, plain))
    kept = [sorted(each[:num_kept]) for each in (scales.up_largest, scales.down_largest)]
    if all(kept):
        for name, form in _INTEGERS.items():
            ways = [passage(IntegerCoder(form, dtype, hidden_size, k), dtype) for k in kept]
            codecs.append(CodecUnderTest(f"{name}, {len(kept[0])} channels exact", *ways))
    return tuple(codecs)


def passage(coder: RowCoder | None, dtype: Dtype) -> Passage:
    """RAW rows, through a coder where there is one and it makes them shorter."""

    def passed(rows: Float32) -> Received:
        raw: Payload = pack_rows(rows, dtype)
        num_bytes = len(raw)
        coded = None if coder is None else coder.encode(raw, len(rows))
        if coder is not None and coded is not None:
            raw, num_bytes = coder.decode(coded, len(rows)), len(coded)
        received = unpack_rows(raw, len(rows), rows.shape[1], dtype)
        return Received(received.astype(np.float32), num_bytes)

    return passed
