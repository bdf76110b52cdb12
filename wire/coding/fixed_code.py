"""A Huffman code that both sides know, for frames too short to carry one of their own (rule W41).

Its bits are the body of a DEFLATE block (RFC 1951, section 3.2.7) whose beginning never travels, so
that zlib reads it: before the first byte both sides think `FixedCode.prefix`. Measured after
centring, exponents of hidden states are spread alike in every model and in both directions, so one
code serves all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wire.messages import Dtype

_NUM_SYMBOLS: Final = 257
"""256 byte values, and the end of the block."""

END: Final = 256

_NEAR: Final = {
    0: 2, 1: 2, -1: 2, 2: 4, -2: 4, -3: 4, -4: 6, -5: 6, -6: 7, -7: 8, 3: 9, -8: 9,
}  # fmt: skip
"""Bits of an exponent that is so much above the row's median."""

_FAR: Final = {-9: 11, -10: 12, -11: 13}
_REST_BITS: Final = 14

_NUM_EMPTY_BLOCKS: Final = 3
"""Of 10 bits each, so that the prefix ends with a byte."""

_LENGTH_ORDER: Final = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)
"""In which DEFLATE writes the lengths of the code that lengths are written in."""


_PAIR: Final = np.dtype("<u2")

_LAST: Final = 1 << 16
"""Where in `FixedCode`'s table the ends of blocks begin: behind all pairs."""

_WORD_BITS: Final = np.array(32, np.uint64)
_WORD_LOG: Final = np.array(5, np.uint64)
_IN_WORD: Final = np.array(31, np.uint64)
"""Codes are put together in words of 32 bits. All are arrays since numpy takes longer to make one
of a number than to shift a short row."""


@dataclass(frozen=True, slots=True)
class _Codes:
    """Codes, first bit lowest, and how many bits each of them has."""

    codes: NDArray[np.uint64]
    bits: NDArray[np.uint64]

    def at(self, places: NDArray[np.intp] | slice) -> "_Codes":
        """Those at these places."""
        return _Codes(self.codes[places], self.bits[places])

    def then(self, others: "_Codes") -> "_Codes":
        """Each with the other behind it."""
        return _Codes(self.codes | others.codes << self.bits, self.bits + others.bits)


class FixedCode:
    """The code of one number format, ready to write. See `fixed_code`."""

    def __init__(self, dtype: Dtype) -> None:
        lengths = code_lengths(dtype)
        each = _Codes(_codes(lengths), np.array(lengths, np.uint64))
        values, end = each.at(slice(END)), each.at(slice(END, None))
        pairs = np.arange(1 << 16)
        # Two values at once: half as many places to find. Then what may end a block: each value
        # that has no other beside it, with the end, and the end alone.
        table = (values.at(pairs & 0xFF).then(values.at(pairs >> 8)), values.then(end), end)
        self._codes = np.concatenate([part.codes for part in table])
        self._bits = np.concatenate([part.bits for part in table])
        self.prefix = _prefix(lengths)

    def write(self, values: NDArray[np.uint8]) -> bytes:
        """The bits of values of any shape, at least one, and of the block's end."""
        flat = values.reshape(-1)
        num_pairs = flat.size >> 1
        places = np.empty(num_pairs + 1, np.intp)
        places[:-1] = flat[: 2 * num_pairs].view(_PAIR)
        places[-1] = _LAST + (int(flat[-1]) if flat.size & 1 else END)
        return _joined(self._codes.take(places), self._bits.take(places))


@cache
def fixed_code(dtype: Dtype) -> FixedCode:
    """The one of this format: a megabyte that takes milliseconds to make and never changes."""
    return FixedCode(dtype)


def code_lengths(dtype: Dtype) -> tuple[int, ...]:
    """Bits of each byte value, and of the end: 257 lengths that fill a code exactly.

    In BF16 and FP32 a byte is an exponent. In FP16 it is an exponent and three bits behind it,
    which are as good as random.
    """
    lengths = [_REST_BITS] * _NUM_SYMBOLS
    if dtype is not Dtype.FP16:
        for value, num_bits in (_NEAR | _FAR).items():
            lengths[value % 256] = num_bits
        return tuple(lengths)
    for value in range(-159, -64):
        lengths[value % 256] = _REST_BITS - 1
    for exponent, num_bits in _NEAR.items():
        for below in range(8):
            lengths[(8 * exponent + below) % 256] = num_bits + 3
    return tuple(lengths)


def _codes(lengths: Sequence[int]) -> NDArray[np.uint64]:
    """The canonical code of these lengths, first bit lowest (RFC 1951, section 3.2.2)."""
    codes = np.zeros(len(lengths), np.uint64)
    code = 0
    for num_bits in range(1, max(lengths) + 1):
        for symbol, length in enumerate(lengths):
            if length == num_bits:
                codes[symbol] = _reversed(code, num_bits)
                code += 1
        code <<= 1
    return codes


def _reversed(value: int, num_bits: int) -> int:
    return int(f"{value:0{num_bits}b}"[::-1], 2)


def _prefix(lengths: Sequence[int]) -> bytes:
    """Empty blocks and the beginning of a dynamic one with this code: whole bytes."""
    bits: list[int] = []

    def put(value: int, num_bits: int) -> None:
        bits.extend(value >> place & 1 for place in range(num_bits))

    for _ in range(_NUM_EMPTY_BLOCKS):
        put(0b010, 10)
    put(0b101, 3)
    put(len(lengths) - 257, 5)
    put(0, 5)
    put(len(_LENGTH_ORDER) - 4, 4)
    for symbol in _LENGTH_ORDER:
        put(0 if symbol > 15 else 4, 3)
    for length in (*lengths, 1):
        # The last is that of the one distance, which nothing uses.
        put(_reversed(length, 4), 4)
    assert len(bits) % 8 == 0, "the first value begins a byte"
    return np.packbits(np.array(bits, np.uint8), bitorder="little").tobytes()


def _joined(codes: NDArray[np.uint64], bits: NDArray[np.uint64]) -> bytes:
    """Codes one behind the other, from the lowest bit on; overwrites `codes`.

    No code is longer than a word of 32 bits, so at least one begins in each. Those that begin in
    the same word are put together in 64 bits; what is in the upper half belongs to the next word.
    """
    ends = np.add.accumulate(bits)
    starts = ends - bits
    words = starts >> _WORD_LOG
    starts &= _IN_WORD
    codes <<= starts
    is_first = np.empty(codes.size, np.bool_)
    is_first[0] = True
    np.not_equal(words[1:], words[:-1], out=is_first[1:])
    joined = np.bitwise_or.reduceat(codes, is_first.nonzero()[0])
    joined[1:] |= joined[:-1] >> _WORD_BITS
    halves = joined.astype("<u8", copy=False).view("<u4")
    written = halves[::2].tobytes() + halves[-1:].tobytes()
    return written[: int(ends[-1]) + 7 >> 3]
