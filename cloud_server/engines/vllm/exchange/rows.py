"""Memory that the daemon and the workers of one machine share: rows lie in it, and are not sent.

A slot holds the shallow rows of one step on its way to the workers, and the deep rows on their way
back. There are as many slots as steps in flight, so a slot is free again when its turn comes. The
file has no name once every worker has it open: nothing is left behind, however a process ends.
"""

import contextlib
import mmap
import os
import secrets
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

SHARED_MEMORY = Path("/dev/shm")


def unused_path(kind: str) -> Path:
    """A name in shared memory that nobody else has."""
    return SHARED_MEMORY / f"{kind}-{secrets.token_hex(8)}"


class ExchangeShape(NamedTuple):
    """`num_slots` times `max_rows` rows each way, `row_items` numbers of `item` bytes each."""

    num_slots: int
    max_rows: int
    row_items: int
    item: str

    @property
    def num_bytes(self) -> int:
        """Of the whole memory."""
        return 2 * self.num_slots * self.max_rows * self.row_items * np.dtype(self.item).itemsize


class RowExchange:
    """One process's view of the memory: `shallow(slot)` and `deep(slot)` are `[T, H]` windows."""

    def __init__(self, file: int, shape: ExchangeShape) -> None:
        self._memory = mmap.mmap(file, shape.num_bytes)
        rows: NDArray[Any] = np.frombuffer(self._memory, np.dtype(shape.item))
        self._rows = rows.reshape(2, shape.num_slots, shape.max_rows, shape.row_items)
        self.shape = shape

    def shallow(self, slot: int, num_rows: int) -> NDArray[Any]:
        """Where a step's rows are put for the workers."""
        return self._rows[0, slot, :num_rows]

    def deep(self, slot: int, num_rows: int) -> NDArray[Any]:
        """Where the last stage puts the wanted rows."""
        return self._rows[1, slot, :num_rows]


class NamedExchange:
    """The memory as long as it has a name for workers to open it by."""

    def __init__(self, shape: ExchangeShape) -> None:
        """Make it.

        Raises:
            OSError: there is no shared memory, or not so much.
        """
        self.path = unused_path("hat-rows")
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            # Taken now: a full file system would otherwise end the process at the first write.
            os.posix_fallocate(file, 0, shape.num_bytes)
            self.exchange = RowExchange(file, shape)
        except OSError:
            self.forget_name()
            raise
        finally:
            os.close(file)

    def forget_name(self) -> None:
        """Nobody can open it any more; who has it open keeps it."""
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()


def open_exchange(path: str, shape: ExchangeShape) -> RowExchange:
    """A worker's view of the memory.

    Raises:
        OSError: it is not there.
    """
    file = os.open(path, os.O_RDWR)
    try:
        return RowExchange(file, shape)
    finally:
        os.close(file)
