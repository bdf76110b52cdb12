"""Steps' rows in shared memory, as the daemon and as a worker see them.

The daemon sends a step's numbers, then puts its rows into a slot and gives notice of them to the
workers of the first stage, which have prepared the step in the meantime. One worker of the last
stage leaves the wanted rows in the slot and gives notice back.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from cloud_server.engines.vllm.exchange.notices import NoticeReader, NoticeWriter, named_pipe
from cloud_server.engines.vllm.exchange.rows import (
    ExchangeShape,
    NamedExchange,
    RowExchange,
    open_exchange,
)

_ROWS_TIMEOUT_S = 60.0
"""For rows whose step has been sent: the daemon is putting them there."""


class RowPaths(NamedTuple):
    """What a worker opens. `shallow_notices` has a pipe for each rank of the first stage."""

    memory: Path
    shape: ExchangeShape
    shallow_notices: tuple[Path, ...]
    deep_notices: Path
    answering_rank: int


@dataclass(frozen=True, slots=True)
class SharedRows:
    """The daemon's side."""

    exchange: RowExchange
    shallow_notices: tuple[NoticeWriter, ...]
    deep_notices: NoticeReader

    def put(self, slot: int, step: int, parts: Sequence[NDArray[Any]]) -> None:
        """Put a step's rows into a slot, one part behind the other.

        Raises:
            BrokenPipeError: a worker has ended.
        """
        num_rows = sum(map(len, parts))
        np.concatenate(parts, out=self.exchange.shallow(slot, num_rows))
        for writer in self.shallow_notices:
            writer.tell(step, num_rows)

    def wait(self, step: int, is_lost: Callable[[], bool], timeout_s: float) -> int:
        """How many wanted rows lie in the step's slot, or `FAILED`: see `NoticeReader.wait`."""
        return self.deep_notices.wait(step, is_lost, timeout_s)


@dataclass(frozen=True, slots=True)
class WorkerRows:
    """A worker's side: the first stage's take rows, one of the last stage's answers."""

    exchange: RowExchange
    shallow_notices: NoticeReader | None
    deep_notices: NoticeWriter | None

    @classmethod
    def opened(cls, paths: RowPaths, rank: int) -> Self:
        """What the worker of this rank needs of it.

        Raises:
            OSError: something of it is not there.
        """
        is_first = rank < len(paths.shallow_notices)
        return cls(
            open_exchange(str(paths.memory), paths.shape),
            NoticeReader(paths.shallow_notices[rank]) if is_first else None,
            NoticeWriter(paths.deep_notices) if rank == paths.answering_rank else None,
        )

    def take(self, slot: int, step: int) -> NDArray[Any]:
        """The rows `[T, H]` of a step once they lie in its slot: the shared memory itself.

        Raises:
            EOFError: the daemon has ended.
            TimeoutError: nothing came.
        """
        assert self.shallow_notices is not None, "rows go to the first stage"
        num_rows = self.shallow_notices.wait(step, lambda: False, _ROWS_TIMEOUT_S)
        return self.exchange.shallow(slot, num_rows)


def share_rows(
    shape: ExchangeShape,
    num_first: int,
    answering_rank: int,
    attach: Callable[[RowPaths], object],
) -> SharedRows:
    """Make the memory and the pipes, have `num_first` workers of the first stage and all others
    open them in `attach`, and leave nothing behind.

    Raises:
        OSError: there is no shared memory, or not so much.
    """
    with contextlib.ExitStack() as names:
        memory = NamedExchange(shape)
        names.callback(memory.forget_name)
        pipes = []
        for _ in range(num_first + 1):
            pipes.append(named_pipe())
            names.callback(pipes[-1].unlink)
        *shallow, deep = pipes
        deep_notices = NoticeReader(deep)
        attach(RowPaths(memory.path, shape, tuple(shallow), deep, answering_rank))
        return SharedRows(memory.exchange, tuple(map(NoticeWriter, shallow)), deep_notices)
