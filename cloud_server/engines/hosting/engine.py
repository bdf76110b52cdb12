"""A middle engine whose process is another one."""

from collections.abc import Callable, Sequence
from typing import Any

from cloud_server.engines.engine import (
    EngineLostError,
    HostCopy,
    PendingCopy,
    Rows,
    SequenceId,
    StepItem,
)
from cloud_server.engines.hosting.calls import Call, CopyName, Facts, Reply
from cloud_server.engines.hosting.channel import Channel


class HostedEngine:
    """A `MiddleEngine` that has another process do what it is asked.

    `why_gone` says how that process has ended, once nothing comes from it any more.
    """

    def __init__(self, channel: Channel, facts: Facts, why_gone: Callable[[], str]) -> None:
        self.hidden_size = facts.hidden_size
        self.dtype = facts.dtype
        self.capacity_tokens = facts.capacity_tokens
        self.block_tokens = facts.block_tokens
        self.max_context_tokens = facts.max_context_tokens
        self.takes_taps = facts.takes_taps
        self._channel = channel
        self._why_gone = why_gone

    def open(
        self, max_tokens: int, fork_of: SequenceId | None = None, fork_tokens: int = 0
    ) -> SequenceId:
        """See `MiddleEngine.open`."""
        sequence: SequenceId = self._call("open", max_tokens, fork_of, fork_tokens)
        return sequence

    def step(self, batch: Sequence[StepItem]) -> list[Rows]:
        """See `MiddleEngine.step`."""
        rows: list[Rows] = self._call("step", batch)
        return rows

    def release(self, sequence: SequenceId) -> None:
        """See `MiddleEngine.release`."""
        self._call("release", sequence)

    def save(self, sequence: SequenceId, begin: int, end: int) -> HostCopy:
        """See `MiddleEngine.save`; it is made before this returns."""
        copy: CopyName = self._call("save", sequence, begin, end)
        return copy

    def restore(self, sequence: SequenceId, copy: HostCopy, begin: int, end: int) -> PendingCopy:
        """See `MiddleEngine.restore`; it is done before this returns."""
        self._call("restore", sequence, copy, begin, end)
        return copy

    def drop(self, copy: HostCopy) -> PendingCopy:
        """See `MiddleEngine.drop`; it is done before this returns."""
        self._call("drop", copy)
        return copy

    def _call(self, method: str, *arguments: Any) -> Any:
        """Make a call there and wait for its answer.

        Raises:
            EngineLostError: the process is gone.
            Exception: what the engine raised.
        """
        try:
            self._channel.send(Call(method, arguments))
            reply: Reply = self._channel.receive()
        except (EOFError, OSError) as error:
            raise EngineLostError(self._why_gone()) from error
        if reply.error is not None:
            raise reply.error
        return reply.value
