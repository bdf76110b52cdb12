"""The output of a child process, line by line, each with the child's name before it."""

import asyncio
import contextlib

import click

_READ_BYTES = 1 << 16
_MAX_LINE_BYTES = 8192
_NAME_WIDTH = 6


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
