"""Choices made of bytes: a fuzzer that changes a byte changes a choice."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Draws:
    """Takes choices off a byte string, from its beginning; zeros behind its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    @property
    def is_empty(self) -> bool:
        """Whether all bytes are used up."""
        return self._place >= len(self._data)

    def number(self, least: int, most: int) -> int:
        """A whole number from `least` to `most`."""
        span = most - least + 1
        num_bytes = max(1, ((span - 1).bit_length() + 7) // 8)
        return least + int.from_bytes(self.some(num_bytes), "little") % span

    def flag(self) -> bool:
        """Yes or no."""
        return bool(self.number(0, 1))

    def one_in(self, num: int) -> bool:
        """Yes, once in so many times."""
        return self.number(0, num - 1) == num - 1

    def pick(self, choices: Sequence[T]) -> T:
        """One of them."""
        return choices[self.number(0, len(choices) - 1)]

    def some(self, num_bytes: int) -> bytes:
        """So many bytes."""
        taken = self._data[self._place : self._place + num_bytes]
        self._place += num_bytes
        return taken.ljust(num_bytes, b"\0")

    def noise(self, most: int) -> bytes:
        """Up to so many bytes."""
        return self.some(self.number(0, most))

    def mutated(self, frame: bytes) -> bytes:
        """A byte string with one to three of its bytes changed, put in or left out."""
        changed = bytearray(frame)
        for _ in range(self.number(1, 3)):
            place = self.number(0, len(changed))
            match self.number(0, 3):
                case 0 if place < len(changed):
                    changed[place] ^= 1 << self.number(0, 7)
                case 1 if place < len(changed):
                    changed[place] = self.number(0, 255)
                case 2:
                    changed[place:place] = self.noise(16)
                case _:
                    del changed[place : place + self.number(1, 8)]
        return bytes(changed)
