"""Child processes of a run: started on chosen cores, read line by line, and ended with the run."""

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import PIPE, STDOUT, Process
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from process.errors import UserError

_KEPT_LINES = 20
_STOP_S = 10.0
_LONGEST_LINE_BYTES = 1 << 24


class LiveError(UserError):
    """A run cannot go on; the message is one line for the user."""


@dataclass(frozen=True, slots=True)
class Command:
    """What to start, and the processor cores it may use (none: any).

    Its standard input is a pipe that ends with this process, however that ends.
    """

    name: str
    argv: Sequence[str]
    cores: frozenset[int] = frozenset()
    environ: Mapping[str, str] | None = None
    has_own_output: bool = False
    """Whether its standard output is for us alone; else it is read together with its errors."""


class Child:
    """One running process. `take` gets each line it writes, without the line's end."""

    def __init__(self, command: Command, process: Process, take: Callable[[bytes], None]) -> None:
        self.name = command.name
        self._process = process
        self._take = take
        self._last: deque[bytes] = deque(maxlen=_KEPT_LINES)
        streams = (process.stdout, process.stderr)
        self._readers = [
            asyncio.create_task(self._read(stream, is_told=stream is process.stdout))
            for stream in streams
            if stream is not None
        ]

    @classmethod
    async def start(
        cls, command: Command, take: Callable[[bytes], None] = lambda line: None
    ) -> "Child":
        """Start it in a session of its own, so that Ctrl-C reaches this process only."""
        process = await asyncio.create_subprocess_exec(
            *command.argv,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE if command.has_own_output else STDOUT,
            env=command.environ,
            start_new_session=True,
            limit=_LONGEST_LINE_BYTES,
        )
        if command.cores and hasattr(os, "sched_setaffinity"):
            # Before it has threads, which all have the cores of the one that made them.
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(process.pid, command.cores)
        return cls(command, process, take)

    async def write(self, line: bytes) -> None:
        """Write a line to its standard input; lost if it has ended."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\n")
        with contextlib.suppress(ConnectionError):
            await self._process.stdin.drain()

    async def ended(self) -> str:
        """Wait for its end and all it wrote; a sentence about it."""
        code = await self._process.wait()
        await asyncio.wait(self._readers)
        said = self._last[-1].decode(errors="replace")[-300:] if self._last else "no output"
        return f"{self.name} ended with exit code {code}: {said}"

    async def stop(self) -> None:
        """End it and what it had started: nicely, then by force."""
        if self._process.returncode is None:
            self.signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), _STOP_S)
        self.signal(signal.SIGKILL)
        await self.ended()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it and to what it had started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    async def _read(self, stream: asyncio.StreamReader, is_told: bool) -> None:
        async for line in stream:
            text = line.rstrip(b"\n")
            self._last.append(text)
            if is_told:
                self._take(text)


async def first_of(child: Child, event: asyncio.Event, within_s: float | None, what: str) -> None:
    """Wait for `event`, for ever if `within_s` is None.

    Raises:
        LiveError: the child ended, or too much time passed.
    """
    waits = [asyncio.create_task(event.wait()), asyncio.create_task(child.ended())]
    try:
        await asyncio.wait(waits, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        if event.is_set():
            return
        if waits[1].done():
            raise LiveError(str(waits[1].result()))
        raise LiveError(f"{child.name}: not {what} within {within_s:g} s")
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
