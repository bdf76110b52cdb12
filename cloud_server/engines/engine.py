"""What the cloud asks of a middle engine: rows in, rows out, a KV cache per sequence.

An engine sees no text, no sampling and no sockets. The KV layout is private to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NewType, Protocol, runtime_checkable

from numpy.typing import NDArray

from wire.messages import Dtype, Want

SequenceId = NewType("SequenceId", int)
Rows = NDArray[Any]
"""Hidden states `[T, H]` in the engine's dtype (float32, float16 or ml_dtypes.bfloat16)."""


class EngineFullError(Exception):
    """The engine has no room for another sequence of this length."""


class EngineLostError(Exception):
    """The engine is gone with every cache it held; the message is safe to show."""


@dataclass(frozen=True, slots=True)
class StepItem:
    """One sequence's share of a step: rows for positions `[position, position + T)`.

    A `position` below the cached length truncates first. `want` names the deep rows to return:
    none, the last of this item, or all. Behind each of them come the rows of its position after
    as many middle layers as `taps` says, for engines with `takes_taps`.
    """

    sequence: SequenceId
    position: int
    rows: Rows
    want: Want
    taps: tuple[int, ...] = ()

    @property
    def num_wanted_rows(self) -> int:
        """How many deep rows must come back."""
        return self.want.num_rows(len(self.rows))


class PendingCopy(Protocol):
    """Positions on their way to host memory or back."""

    def wait(self) -> None:
        """Return once they are there; from any one thread, in begun order with steps.

        Raises:
            EngineLostError: the engine has to be loaded again.
        """
        ...


class HostCopy(PendingCopy, Protocol):
    """Positions `[begin, end)` of a sequence in host memory."""

    @property
    def begin(self) -> int:
        """The first position."""
        ...

    @property
    def end(self) -> int:
        """Behind the last position."""
        ...


class MiddleEngine(Protocol):
    """The middle layers with a KV cache per sequence; used from one thread only.

    A sequence takes whole blocks of `block_tokens` of the capacity.
    """

    hidden_size: int
    dtype: Dtype
    capacity_tokens: int
    block_tokens: int
    max_context_tokens: int
    takes_taps: bool

    def open(
        self, max_tokens: int, fork_of: SequenceId | None = None, fork_tokens: int = 0
    ) -> SequenceId:
        """Make an empty sequence, or one that starts as `fork_of[:fork_tokens]`.

        Raises:
            EngineFullError: no room for `max_tokens` more positions.
        """
        ...

    def step(self, batch: Sequence[StepItem]) -> list[Rows]:
        """Run the middle layers once over all items; at most one item per sequence.

        Returns:
            One array `[R, H]` per item, R = 0, 1 or T after its `want`, and R times 1 + the number
            of its taps, each wanted row followed by its taps. Later steps do not change them.

        Raises:
            EngineLostError: the engine has to be loaded again.
        """
        ...

    def release(self, sequence: SequenceId) -> None:
        """Forget a sequence and free its cache."""
        ...

    def save(self, sequence: SequenceId, begin: int, end: int) -> HostCopy:
        """Begin to copy positions `[begin, end)` to host memory, where they stay whatever becomes
        of the sequence. `begin` is a multiple of `block_tokens`.

        Raises:
            EngineFullError: there is no host memory for it.
        """
        ...

    def restore(self, sequence: SequenceId, copy: HostCopy, begin: int, end: int) -> PendingCopy:
        """Begin to put positions `[begin, end)` of a copy behind those that the sequence holds,
        which are `begin`, a multiple of `block_tokens`."""
        ...

    def drop(self, copy: HostCopy) -> PendingCopy:
        """Begin to free a copy's memory."""
        ...


class PendingRows(Protocol):
    """A step that was begun."""

    def wait(self) -> list[Rows]:
        """Its rows, as `MiddleEngine.step` gives them; from any one thread, in begun order."""
        ...


@runtime_checkable
class PipelinedEngine(MiddleEngine, Protocol):
    """An engine that works on several steps at once, such as one cut into stages.

    Steps take effect in the order in which they are begun. Of one sequence a step may hold what
    follows on its rows in the steps under way before it, and nothing else.
    """

    max_steps_in_flight: int

    def begin(self, batch: Sequence[StepItem]) -> PendingRows:
        """Start a step and return at once.

        Raises:
            EngineLostError: the engine has to be loaded again.
        """
        ...


def steps_in_flight(engine: MiddleEngine) -> int:
    """How many steps an engine works on at once."""
    return engine.max_steps_in_flight if isinstance(engine, PipelinedEngine) else 1
