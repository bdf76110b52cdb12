"""The codecs that are compared: what a receiver makes of rows, and how many bytes they took."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wire.coding.integers import INT6, INT8, IntegerFormat, pack_integers, unpack_integers
from wire.messages import Dtype
from wire.numbers import pack_rows, unpack_rows

Float32 = NDArray[np.float32]

Channels = tuple[int, ...]


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


def codecs_under_test(dtype: Dtype, up: Channels, down: Channels) -> tuple[CodecUnderTest, ...]:
    """Every codec.

    Args:
        dtype: The wire's number format.
        up: Channels that the last arms send as they are, device to cloud.
        down: The same, cloud to device.
    """
    names = {INT8: "int8", INT6: "int6"}
    raw = _raw(dtype)
    codecs = [CodecUnderTest(f"raw {dtype.name.lower()}", raw, raw)]
    for form, name in names.items():
        plain = _integers(form, dtype, ())
        codecs.append(CodecUnderTest(name, plain, plain))
    if up or down:
        for form, name in names.items():
            passages = [_integers(form, dtype, kept) for kept in (up, down)]
            codecs.append(CodecUnderTest(f"{name}, {len(up)} channels exact", *passages))
    return tuple(codecs)


def largest_channels(rows: NDArray[Any], num: int) -> Channels:
    """The `num` channels of rows `[T, H]` with the largest root mean square, in order."""
    power = np.square(rows, dtype=np.float64).mean(axis=0)
    return tuple(sorted(int(channel) for channel in np.argsort(power)[len(power) - num :]))


def _raw(dtype: Dtype) -> Passage:
    def passage(rows: Float32) -> Received:
        payload = pack_rows(rows, dtype)
        received = unpack_rows(payload, len(rows), rows.shape[1], dtype)
        return Received(received.astype(np.float32), len(payload))

    return passage


def _integers(form: IntegerFormat, dtype: Dtype, kept: Sequence[int]) -> Passage:
    def passage(rows: Float32) -> Received:
        payload = pack_integers(rows, form, dtype, kept)
        received = unpack_integers(payload, len(rows), rows.shape[1], form, dtype, kept)
        return Received(received, len(payload))

    return passage
