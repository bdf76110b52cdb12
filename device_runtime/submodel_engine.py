"""The device engine over any runner of decoder layers: which rows go where, and what is refused."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from device_runtime.engine import Rows, SequenceId
from device_runtime.engine_checks import check_deep, check_fork, check_span, checked_token_ids


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


@dataclass(frozen=True, slots=True)
class Submodels:
    """The device's share of a model, ready to run.

    `embed` maps ids `[T]` to rows `[T, H]`, `head` rows `[R, H]` to logits `[R, V]`. The stacks
    make an empty cache; None stands for a part without layers.
    """

    embed: Callable[[NDArray[np.int64]], Rows]
    new_input_cache: Callable[[], StackCache] | None
    new_output_cache: Callable[[], StackCache] | None
    head: Callable[[Rows], Rows]


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """The sizes a device engine announces."""

    hidden_size: int
    vocab_size: int
    max_context_tokens: int
    num_output_layers: int


@dataclass(slots=True)
class _Sequence:
    """What is held of one sequence; `num_tokens` are the positions whose input rows were made."""

    num_tokens: int = 0
    input_cache: StackCache | None = None
    output_cache: StackCache | None = None


class SubmodelEngine:
    """A `DeviceEngine` on `Submodels`."""

    def __init__(self, submodels: Submodels, limits: EngineLimits) -> None:
        self.hidden_size = limits.hidden_size
        self.vocab_size = limits.vocab_size
        self.max_context_tokens = limits.max_context_tokens
        self.num_output_layers = limits.num_output_layers
        self._submodels = submodels
        self._sequences: dict[SequenceId, _Sequence] = {}
        self._ids = count(1)

    def open(self) -> SequenceId:
        """Make an empty sequence."""
        new_input, new_output = self._submodels.new_input_cache, self._submodels.new_output_cache
        return self._add(
            _Sequence(0, new_input() if new_input else None, new_output() if new_output else None)
        )

    def input_rows(self, sequence: SequenceId, token_ids: Sequence[int], position: int) -> Rows:
        """Shallow hidden states `[T, H]`; see `DeviceEngine`.

        Output layers forget positions that are given new tokens here.
        """
        state = self._sequence(sequence)
        ids = checked_token_ids(token_ids, self.vocab_size)
        check_span(position, len(ids), state.num_tokens, self.max_context_tokens)
        state.num_tokens = position
        if state.output_cache is not None:
            state.output_cache.num_tokens = min(state.output_cache.num_tokens, position)
        rows = self._submodels.embed(ids)
        if state.input_cache is not None:
            rows = state.input_cache.run(rows, position)
        state.num_tokens = position + len(ids)
        return rows

    def logits(self, sequence: SequenceId, deep: Rows, position: int, num_logits: int) -> Rows:
        """Next-token logits `[num_logits, V]`; see `DeviceEngine`."""
        state = self._sequence(sequence)
        check_deep(deep, self.hidden_size, num_logits)
        rows, num_rows = deep, deep.shape[0]
        if state.output_cache is not None:
            num_held = state.output_cache.num_tokens
            check_span(position, num_rows, num_held, self.max_context_tokens)
            rows = state.output_cache.run(deep, position)
        if num_logits == 0:
            return np.empty((0, self.vocab_size), np.float32)
        return self._submodels.head(rows[num_rows - num_logits :])

    def fork(self, sequence: SequenceId, num_tokens: int) -> SequenceId:
        """A new sequence that starts as the first `num_tokens` positions of another.

        Raises:
            ValueError: input or output layers hold fewer positions.
        """
        state = self._sequence(sequence)
        check_fork(num_tokens, state.num_tokens)
        copy = _Sequence(num_tokens)
        if state.output_cache is not None:
            check_fork(num_tokens, state.output_cache.num_tokens)
            copy.output_cache = state.output_cache.fork(num_tokens)
        if state.input_cache is not None:
            copy.input_cache = state.input_cache.fork(num_tokens)
        return self._add(copy)

    def release(self, sequence: SequenceId) -> None:
        """Forget a sequence and free its caches."""
        self._sequence(sequence)
        del self._sequences[sequence]

    def _add(self, state: _Sequence) -> SequenceId:
        sequence = SequenceId(next(self._ids))
        self._sequences[sequence] = state
        return sequence

    def _sequence(self, sequence: SequenceId) -> _Sequence:
        if sequence not in self._sequences:
            raise ValueError(f"expected an open sequence, got {sequence}")
        return self._sequences[sequence]
