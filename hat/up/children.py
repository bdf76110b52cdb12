"""A program as a child process: started, shown line by line, waited for, and ended for good."""

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import aiohttp
import click

from process.program.run import first_of

_LOG_END_S = 2.0
_READ_BYTES = 1 << 16
_MAX_LINE_BYTES = 8192
_NAME_WIDTH = 6

_PAUSE_S = 0.1
_NOTICE_EVERY_S = 10.0
_MAX_REASON_BYTES = 300
_NOBODY = "not listening yet"


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two programs. After `stop_within_s` of asking nicely it is killed.

    Its standard input is a pipe that ends when this process does; the program must end then too.
    """

    name: str
    color: str
    command: tuple[str, ...]
    environ: Mapping[str, str]
    ready_url: str
    stop_within_s: float


class Child:
    """One running side."""

    def __init__(self, side: Side, process: Process) -> None:
        assert process.stdout is not None
        self.process = process
        self._side = side
        self._log = ChildLog(side.name, side.color)
        self._copying = asyncio.create_task(self._log.copy(process.stdout))

    @classmethod
    async def start(cls, side: Side) -> "Child":
        """Start it in a session of its own, so that Ctrl-C reaches this process only."""
        process = await asyncio.create_subprocess_exec(
            *side.command,
            stdin=PIPE,
            stdout=PIPE,
            stderr=STDOUT,
            env=side.environ,
            start_new_session=True,
        )
        return cls(side, process)

    def notice(self, reason: str) -> None:
        """Tell the user what is being waited for."""
        click.echo(f"hat: waiting for the {self._side.name} side: {reason}", err=True)

    async def stop(self, kill: asyncio.Event) -> None:
        """End it: nicely first, then by force after its time or when the user insists."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
            waits = [self.process.wait(), kill.wait()]
            await first_of(*waits, asyncio.sleep(self._side.stop_within_s))
        # Whatever it had started itself goes with it.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()
        await asyncio.wait([self._copying], timeout=_LOG_END_S)
        self._copying.cancel()

    def obituary(self) -> str:
        """How it ended, in a sentence."""
        code = self.process.returncode
        assert code is not None
        how = (
            f"ended with exit code {code}" if code >= 0 else f"was killed by {_signal_name(-code)}"
        )
        complaint = self._log.last_complaint
        return f"the {self._side.name} side {how}" + (f" ({complaint})" if complaint else "")


class ChildLog:
    """Shows what one child prints and remembers why it said it failed."""

    def __init__(self, name: str, color: str) -> None:
        self._prefix = click.style(f"{name:{_NAME_WIDTH}} |", fg=color)
        self._partial = b""
        self.last_complaint: str | None = None
        """The last line that began with `hat: `, without that."""

    async def copy(self, stream: asyncio.StreamReader) -> None:
        """Show everything up to the stream's end; a line longer than 8 KiB is broken."""
        while data := await stream.read(_READ_BYTES):
            *lines, self._partial = (self._partial + data).split(b"\n")
            for line in lines:
                self._show(line)
            while len(self._partial) > _MAX_LINE_BYTES:
                self._show(self._partial[:_MAX_LINE_BYTES])
                self._partial = self._partial[_MAX_LINE_BYTES:]
        if self._partial:
            self._show(self._partial)

    def _show(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip("\r")
        if text.startswith("hat: "):
            self.last_complaint = text.removeprefix("hat: ")[:500]
        # The terminal may be gone; the child's pipe must be read all the same.
        with contextlib.suppress(OSError):
            click.echo(f"{self._prefix} {text}", err=True)


async def until_ready(url: str, notice: Callable[[str], None]) -> None:
    """Return once `url` answers 200; every 10 s `notice` gets the reason why it does not."""
    loop = asyncio.get_running_loop()
    next_notice_s = loop.time() + _NOTICE_EVERY_S
    timeout = aiohttp.ClientTimeout(total=5)
    async with aiohttp.ClientSession(timeout=timeout) as http:
        while (reason := await _reason_not_ready(http, url)) is not None:
            if loop.time() >= next_notice_s:
                next_notice_s = loop.time() + _NOTICE_EVERY_S
                notice(reason)
            await asyncio.sleep(_PAUSE_S)


async def until_answers(url: str) -> None:
    """Return once something answers at `url`, whatever it says."""
    timeout = aiohttp.ClientTimeout(total=5)
    async with aiohttp.ClientSession(timeout=timeout) as http:
        while True:
            if await _reason_not_ready(http, url) != _NOBODY:
                return
            await asyncio.sleep(_PAUSE_S)


async def _reason_not_ready(http: aiohttp.ClientSession, url: str) -> str | None:
    try:
        async with http.get(url) as response:
            if response.status == 200:
                return None
            body = await response.content.read(_MAX_REASON_BYTES)
            return body.decode(errors="replace").strip() or f"status {response.status}"
    except (aiohttp.ClientError, TimeoutError):
        return _NOBODY


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
