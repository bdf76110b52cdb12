"""Texts that need no model, and rows of which each names all tokens up to its own.

The target's token at every position is fixed. A shallow row holds its token; the cloud makes a
number of it and of the number of the row before it, and gives that back as the deep row. The
device makes the same numbers for itself: a row that was lost, repeated or put behind another text
gives another number, and then the device chooses a token that shows.

What a row holds are the bits of its first element; all else in it is zero.
"""

from collections.abc import Sequence

VOCAB_SIZE = 64
WRONG_ROW = VOCAB_SIZE - 1
"""The token that is chosen where a deep row is not the one of the device's own text."""

_NUM_TRUE = 59
_MODULUS = 31_741
"""A prime; numbers below it are the bits of finite numbers in float16."""


def truth(position: int) -> int:
    """The target's token at a position of any text, if all before it is the target's own."""
    return position % _NUM_TRUE


def wrong(position: int, rank: int = 0) -> int:
    """A token at a position that is not the target's; `rank` 0 and 1 differ."""
    return (position + 1 + rank) % _NUM_TRUE


def prompt_ids(number: int, num_tokens: int, num_common: int = 0) -> tuple[int, ...]:
    """A prompt like no other one's, but for `num_common` tokens that it begins with."""
    digits = [number // _NUM_TRUE**place % _NUM_TRUE for place in range(5)]
    common = [truth(position) for position in range(min(num_common, num_tokens))]
    own = [digits[index % len(digits)] for index in range(num_tokens - len(common))]
    return (*common, *own)


class RowNumbers:
    """One sequence's numbers, a number per position."""

    def __init__(self, numbers: Sequence[int] = ()) -> None:
        self._numbers = list(numbers)

    def put(self, token_ids: Sequence[int], position: int) -> list[int]:
        """The numbers of tokens at `position`, which what was there and behind gives way to.

        Raises:
            ValueError: a gap before `position`.
        """
        numbers = self._numbers
        if not 0 <= position <= len(numbers):
            raise ValueError(f"expected a position in [0, {len(numbers)}], got {position}")
        del numbers[position:]
        last = numbers[-1] if numbers else 1
        for place, token in enumerate(token_ids, start=position):
            last = (last * 31 + token * 17 + place * 7 + 11) % _MODULUS
            numbers.append(last)
        return numbers[position:]

    def at(self, position: int, num_rows: int) -> list[int]:
        """The numbers of `num_rows` rows from `position` on, as far as there are any."""
        return self._numbers[position : position + num_rows]

    def truncate(self, num_tokens: int) -> None:
        """Forget those from `num_tokens` on."""
        del self._numbers[num_tokens:]

    def fork(self, num_tokens: int) -> "RowNumbers":
        """A copy of the first `num_tokens`."""
        return RowNumbers(self._numbers[:num_tokens])
