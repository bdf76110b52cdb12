"""What the device asks of its engine: shallow rows for tokens, logits for deep rows.

All arrays are numpy, float32, on the host. Positions are absolute; writing at a position below
what a sequence holds is the truncation. Engines are used from one thread only: `Workers` run the
calls.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NewType, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

SequenceId = NewType("SequenceId", int)
Rows = NDArray[np.float32]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DraftLimits:
    """Where drafts end: before a token less likely than the threshold, and after `max_tokens`.

    The likeliest token's probability at temperature 1 is what the threshold is held against.
    With `are_all` every draft is asked for whole, whatever shorter ones would bring. A pass of the
    draft model gives `pass_tokens` tokens at once.
    """

    stop_threshold: float
    max_tokens: int
    are_all: bool = False
    pass_tokens: int = 1
    may_stand_alone: bool = True
    """Whether the draft model can go on for ever without a row of the cloud's."""


@dataclass(frozen=True, slots=True)
class DraftRequest:
    """A draft of at most `num_tokens` tokens behind `token_ids`, which begin at `position`.

    `choose` picks a token from logits `[V]`, given what was drafted before it in this request;
    None ends the draft, and so does a stop token, which is its last. Where not every token can be
    drafted, the others' logits are minus infinity. The array is the engine's and is written again
    for the next token. `min_probability` stands in the place of the engine's own stop threshold.
    """

    token_ids: Sequence[int]
    position: int
    num_tokens: int
    choose: Callable[[Rows, Sequence[int]], int | None]
    stop_token_ids: frozenset[int] = frozenset()
    min_probability: float | None = None
    is_alone: bool = False
    """No row of the cloud's will ever come in this sequence: output layers keep the estimates, and
    logits are those of the model's own head, of every token."""


class DeviceEngine(Protocol):
    """Input and output submodels with their KV caches, one per sequence, and perhaps an adapter."""

    hidden_size: int
    vocab_size: int
    max_context_tokens: int
    num_output_layers: int
    runs_on: str
    """What computes layers and head: cpu, or the name of an execution provider."""
    draft_limits: DraftLimits | None
    """None when the engine has no adapter to draft with."""

    def open(self) -> SequenceId:
        """Make an empty sequence."""
        ...

    def input_rows(self, sequence: SequenceId, token_ids: Sequence[int], position: int) -> Rows:
        """Shallow hidden states `[T, H]` of tokens at `[position, position + T)`.

        Output layers, too, forget what they hold from `position` on.

        Raises:
            ValueError: a position beyond what the sequence holds, a token id outside the
                vocabulary, or more than `max_context_tokens` positions.
        """
        ...

    def logits(self, sequence: SequenceId, deep: Rows, position: int, num_logits: int) -> Rows:
        """Next-token logits `[num_logits, V]` of the last `num_logits` of the deep rows `[T, H]`.

        With output layers on the device (K > 0) every position must pass through here once, in
        order, since these layers keep a cache; `num_logits` may be 0. With K = 0 a row's logits
        depend on nothing else. An adapter that is fed with deep rows remembers those of positions
        that the sequence holds, until these are forgotten.
        """
        ...

    def draft(self, sequence: SequenceId, request: DraftRequest) -> tuple[int, ...]:
        """Tokens that may follow, by the draft model: input submodel, adapter, output submodel.

        What `input_rows` would forget is forgotten, and the request's tokens and the draft take its
        place. `input_rows` of these same tokens then costs only what drafting has not computed.
        Output layers hold afterwards what they held before `position`, unless it is alone.

        Raises:
            ValueError: no adapter, or what `input_rows` refuses.
        """
        ...

    def prepare_draft(self, sequence: SequenceId, num_rows: int) -> bool:
        """Bring the adapter at most `num_rows` rows nearer to the present; whether to go on.

        For moments when nothing else is to be done; `draft` does what is left. Rows that would be
        run again when a reply comes are left alone.
        """
        ...

    def fork(self, sequence: SequenceId, num_tokens: int) -> SequenceId:
        """A new sequence that starts as the first `num_tokens` positions of another.

        Raises:
            ValueError: input or output layers hold fewer positions.
        """
        ...

    def release(self, sequence: SequenceId) -> None:
        """Forget a sequence and free its caches."""
        ...


@runtime_checkable
class TappedEngine(DeviceEngine, Protocol):
    """An engine whose adapter may read further rows of the model than the deep ones."""

    taps: int
    """The depths that it reads, as a bit set: bit d stands for the rows that d of the model's
    layers have made. 0: none."""

    def take_taps(self, sequence: SequenceId, taps: Rows, position: int) -> None:
        """Take rows `[T, n, H]` of these n depths, lowest first, of positions from `position` on.

        What `input_rows` of these positions forgets is forgotten with them.
        """
        ...


class Workers(Protocol):
    """Run calls on one engine in the order they come.

    A simulator's twin calls at once, then lets the seconds pass that the call would have taken,
    one call after another; `EngineThread` is the real one.
    """

    @property
    def engine(self) -> DeviceEngine:
        """The engine, for what never changes: its sizes and limits."""
        ...

    async def run(self, call: Callable[[DeviceEngine], T]) -> T:
        """The result of a call. Cancelled while waiting, it does not run; once begun, it ends."""
        ...

    def run_later(self, call: Callable[[DeviceEngine], None]) -> None:
        """Run a call behind those already waiting; a failure is logged. Not after `close`."""
        ...

    def close(self) -> None:
        """Finish what waits, then end."""
        ...


class StackCache(Protocol):
    """What an engine asks of a stack of decoder layers, with one sequence's keys and values."""

    num_tokens: int

    def run(self, rows: Rows, position: int) -> Rows:
        """Rows `[T, H]` at `[position, position + T)` after these layers, in their own memory.

        `position` is at most `num_tokens`; what was held from there on is forgotten.
        """
        ...

    def fork(self, num_tokens: int) -> "StackCache":
        """A copy of the first `num_tokens` positions."""
        ...
