"""What the system knows of a TCP connection: bytes that came, and bytes that are still to go."""

import array
import socket
import struct
import sys
from typing import Any

if sys.platform == "linux":
    import fcntl
    import termios

# Python 3.11 does not name them; offsets and numbers are those of the kernels' headers
# (`struct tcp_info` of Linux since 4.1: tcpi_bytes_received; SO_NWRITE of macOS).
_RECEIVED_OFFSET = 128
_SO_NWRITE = 0x1024
_NOTSENT_LOWAT = {"linux": 25, "darwin": 0x201}.get(sys.platform)


TELLS_PROGRESS = sys.platform == "linux"
"""Whether the system tells what has come of a message that is not whole yet."""


def num_received_bytes(sock: Any) -> int | None:
    """Bytes that have come, read by this program or not; None where the system does not tell."""
    if sys.platform != "linux":
        return None
    size = _RECEIVED_OFFSET + 8
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, size)
    except (OSError, ValueError):
        return None
    return int(struct.unpack_from("<Q", info, _RECEIVED_OFFSET)[0]) if len(info) == size else None


def num_unacknowledged_bytes(sock: Any) -> int:
    """Bytes that the system has taken and the far end has not; 0 where the system does not tell."""
    try:
        if sys.platform == "darwin":
            return int(sock.getsockopt(socket.SOL_SOCKET, _SO_NWRITE))
        if sys.platform == "linux":
            count = array.array("i", [0])
            fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, count)
            return count[0]
    except (OSError, ValueError):
        pass
    return 0


def keep_unsent_short(sock: Any, num_bytes: int) -> None:
    """Let the system hold little that is not yet sent, so that a late verification overtakes.

    A default send buffer of some MB is seconds of a thin uplink, behind which no priority helps.
    """
    if _NOTSENT_LOWAT is not None:
        sock.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, num_bytes)
