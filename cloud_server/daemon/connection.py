"""The way out to one device: a bounded queue and a writer, so that nobody else waits for it."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from cloud_server.core.names.people import Person
from process.sockets.socket import Socket
from wire.messages import Fault


@dataclass(frozen=True, slots=True)
class SendLimits:
    """When a device that does not read is given up.

    More than `max_backlog_bytes` waiting for it, or `stall_timeout_s` without one byte going out.
    """

    max_backlog_bytes: int
    stall_timeout_s: float


class Host(Protocol):
    """Who hears what the core has decided about a device."""

    @property
    def where(self) -> str:
        """Whose it is, if it has a name, and where it comes from; for log lines."""
        ...

    def greeted(self, is_lane: bool, person: Person) -> None:
        """It was welcomed, as a device or as a further socket of one; and whose it is."""
        ...

    def limited(self) -> None:
        """A quota has refused it something."""
        ...

    def refused(self, fault: Fault) -> None:
        """Its connection ends with this."""
        ...


@dataclass(frozen=True, slots=True)
class Later:
    """A frame that is made when its turn has come."""

    make: Callable[[], Awaitable[bytes]]
    num_bytes: int
    """What it is made of, and holds until then."""

    def __len__(self) -> int:
        return self.num_bytes


class Connection:
    """Frames to one socket, in order."""

    def __init__(
        self,
        socket: Socket,
        limits: SendLimits,
        host: Host,
    ) -> None:
        self.host = host
        self._socket = socket
        self._limits = limits
        self._outbox: deque[bytes | Later] = deque()
        self._backlog_bytes = 0
        self._handed_bytes = 0
        self._is_finishing = False
        self._wake = asyncio.Event()
        self._progress = (-1, 0.0)
        """Bytes that had gone out when that was last looked at and was more, and when."""
        self._writer = asyncio.create_task(self._write())

    def send(self, frame: bytes | Later) -> bool:
        """Queue a frame; False when the device is given up because too much waits for it.

        One that is made later counts with what it is made of; frames behind it wait for it.
        """
        self._outbox.append(frame)
        self._backlog_bytes += len(frame)
        self._wake.set()
        if self._backlog_bytes <= self._limits.max_backlog_bytes:
            return True
        self.abort()
        return False

    def finish(self) -> None:
        """Close the socket once everything queued is written."""
        self._is_finishing = True
        self._wake.set()

    def abort(self) -> None:
        """Cut the socket off at once."""
        self._outbox.clear()
        self._writer.cancel()
        self._socket.abort()

    def is_stalled(self, now: float) -> bool:
        """Whether something has waited for longer than allowed and nothing went out.

        To be asked regularly: it remembers when it last saw progress.
        """
        held_bytes = self._socket.num_unsent_bytes()
        written_bytes = self._handed_bytes - held_bytes
        is_idle = held_bytes == 0 and not self._outbox
        last_bytes, since_s = self._progress
        if is_idle or written_bytes != last_bytes:
            self._progress = (written_bytes, now)
            return False
        return now - since_s > self._limits.stall_timeout_s

    async def end(self, timeout_s: float) -> None:
        """Wait for `finish` to be done, if it was asked for; then nothing is written any more."""
        if self._is_finishing:
            await asyncio.wait([self._writer], timeout=timeout_s)
        self._writer.cancel()
        await asyncio.wait([self._writer])

    async def _write(self) -> None:
        # The reader of the same socket notices when it is gone, and ends the connection.
        with contextlib.suppress(ConnectionError):
            while self._outbox or not self._is_finishing:
                if not self._outbox:
                    self._wake.clear()
                    await self._wake.wait()
                    continue
                frame = await self._made(self._outbox.popleft())
                self._handed_bytes += len(frame)
                await self._socket.send(frame)
                self._backlog_bytes -= len(frame)
            await self._socket.close()

    async def _made(self, frame: bytes | Later) -> bytes:
        if isinstance(frame, bytes):
            return frame
        made = await frame.make()
        self._backlog_bytes += len(made) - len(frame)
        return made
