"""Notices between the daemon and a worker: so many rows of a step lie in the shared memory.

They go through a named pipe. Its reader sleeps until one comes, where it would otherwise look at
shared memory again and again and keep a core and the interpreter's lock busy. A pipe ends with the
process that writes to it, which is how its death is heard of at once. The system's pipes order
memory as well: who has read a notice sees the rows.
"""

import os
import select
import struct
import time
import weakref
from collections.abc import Callable
from pathlib import Path

from cloud_server.engines.vllm.exchange.rows import unused_path

FAILED = -1
"""In place of a number of rows: the step raised, and the worker lives."""

_NOTICE = struct.Struct("<ii")
_LOOK_UP_MS = 100.0


def named_pipe() -> Path:
    """A new pipe for this user alone, to be removed when both ends are open.

    Raises:
        OSError: it cannot be made.
    """
    path = unused_path("hat-notices")
    os.mkfifo(path, 0o600)
    return path


class NoticeReader:
    """The end at which notices arrive; opened first."""

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            OSError: there is no such pipe.
        """
        # Without O_NONBLOCK it would wait here for a writer.
        self._file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        weakref.finalize(self, os.close, self._file)
        self._poll = select.poll()
        self._poll.register(self._file, select.POLLIN)
        self._num_rows_by_step: dict[int, int] = {}

    def wait(self, step: int, is_lost: Callable[[], bool], timeout_s: float) -> int:
        """How many rows of this step lie there, or `FAILED`. Each notice is given once.

        Raises:
            EOFError: the writer has ended, or `is_lost` says that all is over.
            TimeoutError: nothing came.
        """
        deadline_s = time.monotonic() + timeout_s
        while step not in self._num_rows_by_step:
            if self._poll.poll(_LOOK_UP_MS):
                told, num_rows = _NOTICE.unpack(self._read())
                self._num_rows_by_step[told] = num_rows
            elif is_lost():
                raise EOFError("a worker has ended")
            elif time.monotonic() > deadline_s:
                raise TimeoutError(f"no rows after {timeout_s:g} s")
        return self._num_rows_by_step.pop(step)

    def _read(self) -> bytes:
        notice = os.read(self._file, _NOTICE.size)
        if not notice:
            raise EOFError("the process at the other end has ended")
        return notice


class NoticeWriter:
    """The end from which notices come."""

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            OSError: there is no such pipe, or nobody reads from it.
        """
        self._file = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        weakref.finalize(self, os.close, self._file)

    def tell(self, step: int, num_rows: int) -> None:
        """So many rows of a step lie there, or `FAILED`. Notices are written whole or not at all.

        Raises:
            BrokenPipeError: the reader has ended.
        """
        os.write(self._file, _NOTICE.pack(step, num_rows))
