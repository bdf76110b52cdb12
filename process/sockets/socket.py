"""What both daemons ask of a connection between them."""

from typing import Protocol

from process.sockets.pulse import Progress
from process.sockets.windows import Window

HEADER_BYTES = 14
"""The most that a WebSocket frame adds; a ping is no longer."""


class BrokenSocketError(ConnectionError):
    """What came was no frame; the words say what it was."""


class Socket(Protocol):
    """One end of a connection that carries frames whole and in order until it is closed.

    One task reads it while another writes it.
    """

    async def send(self, frame: bytes) -> None:
        """Hand a frame over, and wait while too much of what was sent is still to go.

        Raises:
            ConnectionError: it is closed.
        """
        ...

    async def receive(self) -> bytes | str | None:
        """The next frame, `str` if it is text; None once the connection is closed.

        Raises:
            BrokenSocketError: what came is no frame.
            ConnectionError: it is gone.
        """
        ...

    async def ping(self) -> None:
        """Ask the far end for a sign of life, which shows in `progress`.

        Raises:
            ConnectionError: it is closed.
        """
        ...

    def num_unsent_bytes(self) -> int:
        """What was handed over and waits in this process."""
        ...

    def window(self) -> Window:
        """What it lets go now."""
        ...

    def progress(self) -> Progress:
        """What has come and what has gone, as far as is known here."""
        ...

    async def close(self) -> None:
        """Send what was handed over and say goodbye."""
        ...

    def abort(self) -> None:
        """Cut the connection off at once, with what was still to go."""
        ...
