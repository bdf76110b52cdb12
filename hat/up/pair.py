"""Cloud and device as two child processes: started in order, watched, stopped together."""

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

import click

from hat.errors import CommandError
from hat.up.child_log import ChildLog
from hat.up.interrupts import Interrupts
from hat.up.readiness import until_ready

_LOG_END_S = 2.0


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


class Pair:
    """Both sides of this machine. Nobody outlives `run`, and nobody outlives this process."""

    def __init__(self, cloud: Side, device: Side, announce: Callable[[], None]) -> None:
        self._sides = (cloud, device)
        self._announce = announce
        self._interrupts = Interrupts()
        self._children: list[_Child] = []

    async def run(self) -> None:
        """Serve until a signal asks to stop.

        Raises:
            CommandError: one side ended by itself; the other has been stopped.
        """
        self._interrupts.listen()
        try:
            ended = await self._serve()
        finally:
            for child in reversed(self._children):
                await child.stop(self._interrupts)
        if ended is not None:
            raise CommandError(f"{ended.obituary()}; everything is stopped")

    async def _serve(self) -> "_Child | None":
        """Start both sides and wait; returns the one that ended by itself, if one did."""
        for side in self._sides:
            child = await _Child.start(side)
            self._children.append(child)
            await self._until_over_or(until_ready(side.ready_url, child.notice))
            if self._is_over():
                return self._ended()
        self._announce()
        await self._until_over_or(asyncio.Event().wait())
        return self._ended()

    async def _until_over_or(self, event: Coroutine[Any, Any, object]) -> None:
        """Wait for `event`, a signal, or the end of any child."""
        waits = [event, self._interrupts.stop.wait()]
        waits += [child.process.wait() for child in self._children]
        await _first(waits)

    def _is_over(self) -> bool:
        return self._interrupts.stop.is_set() or self._ended() is not None

    def _ended(self) -> "_Child | None":
        if self._interrupts.stop.is_set():
            return None
        ended = (child for child in self._children if child.process.returncode is not None)
        return next(ended, None)


class _Child:
    """One running side."""

    def __init__(self, side: Side, process: Process) -> None:
        assert process.stdout is not None
        self.process = process
        self._side = side
        self._log = ChildLog(side.name, side.color)
        self._copying = asyncio.create_task(self._log.copy(process.stdout))

    @classmethod
    async def start(cls, side: Side) -> "_Child":
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

    async def stop(self, interrupts: Interrupts) -> None:
        """End it: nicely first, then by force after its time or when the user insists."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
            waits = [self.process.wait(), interrupts.kill.wait()]
            await _first([*waits, asyncio.sleep(self._side.stop_within_s)])
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


async def _first(waits: list[Coroutine[Any, Any, object]]) -> None:
    """Wait for the first of these, and end the others.

    Raises:
        Exception: what the first one raised.
    """
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
