"""A Huffman code that both sides know, for frames too short to carry one of their own (rule W41).

Its bits are the body of a DEFLATE block (RFC 1951, section 3.2.7) whose beginning never travels, so
that zlib reads it: before the first byte both sides think `FixedCode.prefix`. Measured after
centring, exponents of hidden states are spread alike in every model and in both directions, so one
code serves all.
"""

from collections.abc import Sequence
from typing import Any, Final

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


class FixedCode:
    """The code of one number format, ready to write."""

    def __init__(self, dtype: Dtype) -> None:
        lengths = code_lengths(dtype)
        codes = _codes(lengths)
        low, high = np.arange(1 << 16) & 0xFF, np.arange(1 << 16) >> 8
        bits = np.array(lengths, np.uint8)
        self._end = (int(codes[END]), lengths[END])
        # Two values at once: half as many places to find.
        self._pair_bits = bits[low] + bits[high]
        self._pair_codes = codes[low] | codes[high] << bits[low]
        self._bits, self._codes = bits[:END], codes[:END]
        self.prefix = _prefix(lengths)

    def write(self, values: NDArray[np.uint8]) -> bytes:
        """The bits of values of any shape, at least one, and of the block's end."""
        flat = values.reshape(-1)
        pairs = flat[: flat.size & ~1].view(np.dtype("<u2"))
        bits, codes = self._pair_bits[pairs], self._pair_codes[pairs]
        if flat.size & 1:
            bits = np.append(bits, self._bits[flat[-1]])
            codes = np.append(codes, self._codes[flat[-1]])
        ends = np.cumsum(bits, dtype=np.int64)
        num_bits = int(ends[-1])
        words = np.zeros((num_bits + 63 >> 6) + 1, np.uint64)
        _put(words, codes.astype(np.uint64), ends - bits, bits)
        written = words.astype("<u8", copy=False).view(np.uint8)
        return _with_end(written, num_bits, self._end)


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


def _codes(lengths: Sequence[int]) -> NDArray[np.uint32]:
    """The canonical code of these lengths, first bit lowest (RFC 1951, section 3.2.2)."""
    codes = np.zeros(len(lengths), np.uint32)
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


def _put(
    words: NDArray[np.uint64],
    codes: NDArray[np.uint64],
    starts: NDArray[np.int64],
    bits: NDArray[np.uint8],
) -> None:
    """Write codes of up to 32 bits at ascending bit positions without gaps into zeroed words."""
    places, shifts = starts >> 6, (starts & 63).astype(np.uint64)
    firsts = np.flatnonzero(np.diff(places, prepend=-1))
    words[places[firsts]] = np.bitwise_or.reduceat(codes << shifts, firsts)
    # Only the last code of a word can reach into the next one.
    lasts = np.append(firsts[1:], places.size) - 1
    shift = shifts[lasts]
    reaches = lasts[shift + bits[lasts] > 64]
    words[places[reaches] + 1] |= codes[reaches] >> (np.uint64(64) - shifts[reaches])


def _with_end(written: NDArray[Any], num_bits: int, end: tuple[int, int]) -> bytes:
    """So many bits and the code of the end, as whole bytes."""
    code, length = end
    first = num_bits >> 3
    tail = int.from_bytes(written[first : first + 1].tobytes()) | code << (num_bits & 7)
    num_tail_bytes = (num_bits & 7) + length + 7 >> 3
    return written[:first].tobytes() + tail.to_bytes(num_tail_bytes, "little")
