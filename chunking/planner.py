"""The planner's interface, and the plainest planner: chunks of a fixed size."""

from dataclasses import dataclass
from typing import Protocol


class Planner(Protocol):
    """Decides how many prompt tokens go up next; asked again before every chunk."""

    def next_chunk_tokens(self, num_remaining_tokens: int) -> int:
        """A number in `[1, num_remaining_tokens]`, given at least one remaining token."""
        ...


@dataclass(frozen=True, slots=True)
class FixedSizePlanner:
    """Chunks of `chunk_tokens`, the last one shorter; `None` sends the prompt whole."""

    chunk_tokens: int | None

    def __post_init__(self) -> None:
        if self.chunk_tokens is not None and self.chunk_tokens < 1:
            raise ValueError(f"chunk_tokens must be at least 1, got {self.chunk_tokens}")

    def next_chunk_tokens(self, num_remaining_tokens: int) -> int:
        if num_remaining_tokens < 1:
            raise ValueError(f"expected at least 1 remaining token, got {num_remaining_tokens}")
        if self.chunk_tokens is None:
            return num_remaining_tokens
        return min(self.chunk_tokens, num_remaining_tokens)
