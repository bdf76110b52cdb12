"""Between a WebSocket's connection and its reader, until the peer has shown who it is."""

import asyncio
from collections.abc import Callable

from aiohttp.http_websocket import WebSocketReader

from process.listening.first_message import FirstMessage, TooLargeError


class Threshold:
    """Lets one message through, of at most `max_bytes`; the rest waits in the socket for `open`.
    A peer that needs no long messages is given a bound for each that follows.

    What came in one piece with that message is kept, up to `max_bytes` too. `on_too_large` is
    called, once, when there is more than that; from then on nothing is kept.
    """

    def __init__(self, max_bytes: int, transport: asyncio.Transport) -> None:
        self.on_too_large: Callable[[], None] | None = None
        self.is_too_large = False
        self._max_bytes = max_bytes
        self._transport = transport
        self._first = self._next = FirstMessage(max_bytes)
        self._held = b""
        self._is_open = False
        self._most_bytes: int | None = None
        self._reader: WebSocketReader | None = None

    def guard(self, reader: WebSocketReader) -> None:
        """Stand before this reader."""
        self._reader = reader

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """What aiohttp calls with all that comes."""
        assert self._reader is not None
        if self.is_too_large:
            return False, b""
        if self._is_open:
            return self._reader.feed_data(data) if self._may_pass(data) else (False, b"")
        try:
            num_bytes = self._first.take(data)
        except TooLargeError:
            self._refuse()
            return False, b""
        result = self._reader.feed_data(data[:num_bytes]) if num_bytes else (False, b"")
        if self._first.is_whole:
            if not self._transport.is_closing():
                self._transport.pause_reading()
            self._hold(data[num_bytes:])
        return result

    def feed_eof(self) -> None:
        """The connection has ended."""
        assert self._reader is not None
        self._reader.feed_eof()

    def open(self, most_bytes: int | None = None) -> None:
        """Let all messages through from now on, or those of at most so many bytes."""
        if self._is_open or self.is_too_large:
            return
        self._is_open, self._most_bytes = True, most_bytes
        self._next = FirstMessage(most_bytes or 0, is_patient=True)
        held, self._held = self._held, b""
        if held and self._reader is not None:
            self.feed_data(held)
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def _may_pass(self, data: bytes) -> bool:
        """Whether no message in this is longer than allowed; if one is, that is told."""
        if self._most_bytes is None:
            return True
        left = memoryview(data)
        try:
            while left:
                left = left[self._next.take(left) :]
                if self._next.is_whole:
                    self._next = FirstMessage(self._most_bytes, is_patient=True)
        except TooLargeError:
            self._refuse()
            return False
        return True

    def _hold(self, data: bytes) -> None:
        if len(self._held) + len(data) > self._max_bytes:
            self._refuse()
            return
        self._held += data

    def _refuse(self) -> None:
        self.is_too_large = True
        self._held = b""
        if not self._transport.is_closing():
            self._transport.pause_reading()
        if self.on_too_large is not None:
            self.on_too_large()
