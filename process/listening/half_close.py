"""Whether a client that has stopped sending still reads its answer.

The end of what a client sends looks the same whether it has only closed that half, as `nc` and some
proxies do, or has left. What tells them apart is to write: a machine whose program has left answers
with a reset. So bytes are written now and then that do no harm, such as the first ones of the
answer, which are the same whatever it will be.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

ANSWERS_BEGIN = b"HTTP/"
"""Every answer begins with these bytes, so each of them can be sent ahead of it."""

# It takes two writes: the reset answers the first, the second fails. So a client that leaves at
# once is noticed after 0.2 s and a round trip, and one that leaves later by the next byte.
DELAYS_S = (0.05, 0.15, 0.8, 7.0, 52.0)


class Probes:
    """Calls `probe` after growing pauses, until it returns False or there were `DELAYS_S`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, probe: Callable[[], bool]) -> None:
        self._loop = loop
        self._probe = probe
        self._delays = iter(DELAYS_S)
        self._handle: asyncio.TimerHandle | None = None
        self._wait()

    def stop(self) -> None:
        """Call no more."""
        if self._handle is not None:
            self._handle.cancel()

    def _wait(self) -> None:
        delay_s = next(self._delays, None)
        self._handle = None if delay_s is None else self._loop.call_later(delay_s, self._fire)

    def _fire(self) -> None:
        if self._probe():
            self._wait()


class BegunTransport:
    """A transport over which the first bytes of an answer can go ahead of the rest."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._num_ahead = 0

    def __getattr__(self, name: str) -> Any:
        """All else is the transport's own."""
        return getattr(self._transport, name)

    def send_ahead(self) -> bool:
        """Send one more byte of what every answer begins with; False when there is none left."""
        if self._num_ahead == len(ANSWERS_BEGIN):
            return False
        self._transport.write(ANSWERS_BEGIN[self._num_ahead : self._num_ahead + 1])
        self._num_ahead += 1
        return True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes of the answer, but for those that have gone."""
        num_ahead, self._num_ahead = self._num_ahead, 0
        self._transport.write(memoryview(data)[num_ahead:] if num_ahead else data)

    def writelines(self, lines: Iterable[bytes | bytearray | memoryview]) -> None:
        """Send several at once."""
        self.write(b"".join(lines))
