"""Between a WebSocket's connection and its reader, until the peer has shown who it is."""

import asyncio
from collections.abc import Callable

from aiohttp.http_websocket import WebSocketReader

from process.listening.first_message import FirstMessage, TooLargeError


class Threshold:
    """Lets one message through, of at most `max_bytes`; the rest waits in the socket for `open`.

    What came in one piece with that message is kept, up to `max_bytes` too. `on_too_large` is
    called, once, when there is more than that; from then on nothing is kept.
    """

    def __init__(self, max_bytes: int, transport: asyncio.Transport) -> None:
        self.on_too_large: Callable[[], None] | None = None
        self.is_too_large = False
        self._max_bytes = max_bytes
        self._transport = transport
        self._first = FirstMessage(max_bytes)
        self._held = b""
        self._is_open = False
        self._reader: WebSocketReader | None = None

    def guard(self, reader: WebSocketReader) -> None:
        """Stand before this reader."""
        self._reader = reader

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """What aiohttp calls with all that comes."""
        assert self._reader is not None
        if self._is_open:
            return self._reader.feed_data(data)
        if self.is_too_large:
            return False, b""
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

    def open(self) -> None:
        """Let everything through from now on."""
        if self._is_open or self.is_too_large:
            return
        self._is_open = True
        held, self._held = self._held, b""
        if held and self._reader is not None:
            self._reader.feed_data(held)
        if not self._transport.is_closing():
            self._transport.resume_reading()

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
