"""What every engine has of a stack of decoder layers: one sequence's keys and values, runnable."""

from typing import Protocol

from device_runtime.engines.engine import Rows


class StackCache(Protocol):
    """A stack of decoder layers with one sequence's keys and values."""

    num_tokens: int

    def run(self, rows: Rows, position: int) -> Rows:
        """Rows `[T, H]` at `[position, position + T)` after these layers, in their own memory.

        `position` is at most `num_tokens`; what was held from there on is forgotten.
        """
        ...

    def fork(self, num_tokens: int) -> "StackCache":
        """A copy of the first `num_tokens` positions."""
        ...
