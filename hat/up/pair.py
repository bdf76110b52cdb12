"""Cloud and device as two child processes: started in order, watched, stopped together.

The device starts once the cloud listens: both load their parts of the model side by side.
"""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from hat.errors import CommandError
from hat.up.children import Child, Side, until_answers, until_ready
from process.program.run import first_of

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Pair:
    """Both sides of this machine. Nobody outlives `run`, and nobody outlives this process."""

    def __init__(self, sides: tuple[Side, Side], announce: Callable[[], None]) -> None:
        self._cloud, self._device = sides
        self._announce = announce
        self._children: list[Child] = []
        self._stop = asyncio.Event()
        self._kill = asyncio.Event()

    async def run(self) -> None:
        """Serve until a signal asks to stop.

        Raises:
            CommandError: one side ended by itself; the other has been stopped.
        """
        loop = asyncio.get_running_loop()
        for number in _STOP_SIGNALS:
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            ended = await self._serve()
        finally:
            for child in reversed(self._children):
                await child.stop(self._kill)
        if ended is not None:
            raise CommandError(f"{ended.obituary()}; everything is stopped")

    def _on_signal(self, number: signal.Signals) -> None:
        """Stop; or kill, if Ctrl-C comes while already stopping."""
        if number is signal.SIGINT and self._stop.is_set():
            self._kill.set()
        self._stop.set()

    async def _serve(self) -> Child | None:
        """Start both sides and wait; returns the one that ended by itself, if one did."""
        cloud = await self._start(self._cloud)
        await self._until_over_or(until_answers(self._cloud.ready_url))
        if not self._is_over():
            device = await self._start(self._device)
            await self._until_over_or(until_ready(self._cloud.ready_url, cloud.notice))
            await self._until_over_or(until_ready(self._device.ready_url, device.notice))
        if self._is_over():
            return self._ended()
        self._announce()
        await self._until_over_or(asyncio.Event().wait())
        return self._ended()

    async def _start(self, side: Side) -> Child:
        child = await Child.start(side)
        self._children.append(child)
        return child

    async def _until_over_or(self, event: Coroutine[Any, Any, object]) -> None:
        """Wait for `event`, a signal, or the end of any child."""
        waits = [event, self._stop.wait()]
        waits += [child.process.wait() for child in self._children]
        await first_of(*waits)

    def _is_over(self) -> bool:
        return self._stop.is_set() or self._ended() is not None

    def _ended(self) -> Child | None:
        if self._stop.is_set():
            return None
        ended = (child for child in self._children if child.process.returncode is not None)
        return next(ended, None)
