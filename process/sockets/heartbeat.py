"""Finds out that the far end of a socket is gone, and asks it for signs of life meanwhile."""

import asyncio
import contextlib

from process.sockets.pulse import LOOKS, Beat, Pulse
from process.sockets.socket import HEADER_BYTES, Socket
from process.world import Clock


async def until_silent(socket: Socket, silence_s: float, clock: Clock) -> None:
    """Return when nothing came for so long from a far end that could have answered."""
    pulse = Pulse(silence_s, clock())
    pinging: asyncio.Task[None] | None = None
    try:
        while True:
            await asyncio.sleep(silence_s / LOOKS)
            match pulse.look(socket.progress(), clock()):
                case Beat.PING:
                    # Writing it may have to wait, and looking must not.
                    pinging = asyncio.create_task(_ask(socket, pulse))
                case Beat.LOST:
                    return
                case Beat.CALM:
                    pass
    finally:
        if pinging is not None:
            pinging.cancel()


async def _ask(socket: Socket, pulse: Pulse) -> None:
    pulse.pinged(socket.progress().num_written + HEADER_BYTES)
    # That the socket is closed, its reader tells.
    with contextlib.suppress(ConnectionError):
        await socket.ping()
