"""What the system knows of a TCP connection: bytes that came, and bytes that are still to go."""

import array
import functools
import socket
import struct
import sys
from dataclasses import dataclass
from typing import Any

from process.sockets.congestion import (
    congestion_control,
    is_slow_after_pause,
    slow_start_after_idle,
)
from process.sockets.windows import UNKNOWN_BYTES, Window, after_pause

if sys.platform == "linux":
    import fcntl
    import termios

# Python 3.11 does not name them; offsets and numbers are those of the kernels' headers
# (`struct tcp_info` of Linux since 4.6: tcpi_rto, tcpi_snd_mss, tcpi_last_data_sent, tcpi_rtt,
# tcpi_snd_cwnd, tcpi_total_retrans, tcpi_bytes_received and tcpi_data_segs_out; SO_NWRITE of
# macOS).
_TIMEOUT_OFFSET = 8
_SEGMENT_OFFSET = 16
_PAUSE_OFFSET = 44
_ROUND_TRIP_OFFSET = 68
_WINDOW_OFFSET = 80
_SENT_AGAIN_OFFSET = 100
_RECEIVED_OFFSET = 128
_SENT_OFFSET = 156
_SO_NWRITE = 0x1024
_NOTSENT_LOWAT = {"linux": 25, "darwin": 0x201}.get(sys.platform)


TELLS_PROGRESS = sys.platform == "linux"
"""Whether the system tells what has come of a message that is not whole yet."""


def num_received_bytes(sock: Any) -> int | None:
    """Bytes that have come, read by this program or not; None where the system does not tell."""
    info = _tcp_info(sock, _RECEIVED_OFFSET + 8)
    return None if info is None else int(struct.unpack_from("<Q", info, _RECEIVED_OFFSET)[0])


@dataclass(frozen=True, slots=True)
class SentSegments:
    """The data segments that this end of a connection has sent."""

    num_sent: int
    """All of them."""
    num_again: int
    """Those that were sent before, and were taken for lost."""


def sent_segments(sock: Any) -> SentSegments | None:
    """What was sent and what was lost on the way out; None where the system does not tell."""
    info = _tcp_info(sock, _SENT_OFFSET + 4)
    if info is None:
        return None
    (num_sent,) = struct.unpack_from("<I", info, _SENT_OFFSET)
    (num_again,) = struct.unpack_from("<I", info, _SENT_AGAIN_OFFSET)
    return SentSegments(num_sent, num_again)


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


def send_window(sock: Any, num_waiting: int) -> Window:
    """What the connection lets go now; a guess where the system does not tell.

    `num_waiting` bytes were handed over and are still in this process.
    """
    num_under_way = num_waiting + num_unacknowledged_bytes(sock)
    info = _tcp_info(sock, _WINDOW_OFFSET + 4)
    if info is None:
        return Window(UNKNOWN_BYTES, num_under_way)
    timeout_us, pause_ms, segment_bytes, round_trip_us, num_segments = (
        struct.unpack_from("<I", info, offset)[0]
        for offset in (
            _TIMEOUT_OFFSET,
            _PAUSE_OFFSET,
            _SEGMENT_OFFSET,
            _ROUND_TRIP_OFFSET,
            _WINDOW_OFFSET,
        )
    )
    if num_under_way == 0 and _restarts_after_pause(sock):
        num_segments = after_pause(num_segments, pause_ms / 1e3, timeout_us / 1e6)
    return Window(num_segments * segment_bytes, num_under_way, round_trip_us / 1e6)


def _restarts_after_pause(sock: Any) -> bool:
    """Whether the system shrinks its window after a pause; true if it does not tell."""
    return is_slow_after_pause(congestion_control(sock), _slow_start_after_idle()) is not False


# Asked before every piece that is sent.
_slow_start_after_idle = functools.cache(slow_start_after_idle)


def keep_unsent_short(sock: Any, num_bytes: int) -> None:
    """Let the system hold little that is not yet sent, so that a late verification overtakes.

    A default send buffer of some MB is seconds of a thin uplink, behind which no priority helps.
    """
    if _NOTSENT_LOWAT is not None:
        sock.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, num_bytes)


def _tcp_info(sock: Any, size: int) -> bytes | None:
    """The beginning of Linux's `struct tcp_info`, so many bytes; None where there is none."""
    if sys.platform != "linux":
        return None
    try:
        info: bytes = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, size)
    except (OSError, ValueError):
        return None
    return info if len(info) == size else None
