"""Finds out that the far end of a WebSocket is gone, and asks it for signs of life meanwhile."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from process.pulse import LOOKS, Beat, Progress, Pulse
from process.socket_progress import num_received_bytes, num_unacknowledged_bytes

HEADER_BYTES = 14
"""The most that a WebSocket frame adds; a ping is no longer."""


class Heartbeat:
    """Of one socket, None where there is none below; `ping` writes a ping.

    Whoever writes says how much, and whoever reads that something came, which counts where the
    system does not tell. `clock` is monotonic, in seconds.
    """

    def __init__(
        self,
        transport: asyncio.Transport | None,
        sock: Any,
        ping: Callable[[], Awaitable[None]],
        clock: Callable[[], float],
    ) -> None:
        self._transport = transport
        self._sock = sock
        self._ping = ping
        self._clock = clock
        self._num_written = 0
        self._num_heard = 0
        self._pinging: asyncio.Task[None] | None = None

    def wrote(self, num_bytes: int) -> None:
        """A frame is about to be written."""
        self._num_written += num_bytes + HEADER_BYTES

    def heard(self) -> None:
        """A frame of any kind has come."""
        self._num_heard += 1

    async def until_silent(self, silence_s: float) -> None:
        """Return when nothing came for so long from a far end that could have answered."""
        pulse = Pulse(silence_s, self._clock())
        try:
            while True:
                await asyncio.sleep(silence_s / LOOKS)
                match pulse.look(self._progress(), self._clock()):
                    case Beat.PING:
                        # Writing it may have to wait, and looking must not.
                        self._pinging = asyncio.create_task(self._ask(pulse))
                    case Beat.LOST:
                        return
                    case Beat.CALM:
                        pass
        finally:
            if self._pinging is not None:
                self._pinging.cancel()

    async def _ask(self, pulse: Pulse) -> None:
        self._num_written += HEADER_BYTES
        pulse.pinged(self._num_written)
        # That the socket is closed, its reader tells.
        with contextlib.suppress(ConnectionError):
            await self._ping()

    def _progress(self) -> Progress:
        num_received = None if self._sock is None else num_received_bytes(self._sock)
        num_waiting = 0 if self._sock is None else num_unacknowledged_bytes(self._sock)
        if self._transport is not None and not self._transport.is_closing():
            num_waiting += self._transport.get_write_buffer_size()
        received = self._num_heard if num_received is None else num_received
        return Progress(received, max(0, self._num_written - num_waiting))
