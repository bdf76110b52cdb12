"""What a listener takes from peers that have shown nothing yet."""

from dataclasses import dataclass

_LEAST_RESERVE = 64
"""Files, the engine's libraries, pipes and the event loop's own descriptors."""

_WANTED_CONNECTIONS = 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a listener.

    `head_timeout_s` counts from accept (or a later request's first byte) to the end of the request
    head, the TLS handshake included, and bytes do not renew it. `idle_timeout_s` is for the time
    between two requests, `stall_timeout_s` for a peer that takes nothing of what is sent to it.
    `max_head_bytes` bounds the request line and, apart from it, all header fields together, and
    `max_path_bytes` the path, which aiohttp's router copies for each slash in it. Of a body that
    nobody read, `max_unread_bytes` are thrown away; then the connection is closed.
    """

    max_connections: int
    max_per_address: int
    head_timeout_s: float = 10.0
    idle_timeout_s: float = 75.0
    stall_timeout_s: float = 60.0
    unread_timeout_s: float = 2.0
    max_path_bytes: int = 8 << 10
    max_head_bytes: int = 32 << 10
    max_headers: int = 128
    max_unread_bytes: int = 256 << 10


def default_max_connections(num_files: int | None, wanted: int = _WANTED_CONNECTIONS) -> int:
    """How many connections fit a limit of `num_files` open files (None: no limit known).

    A quarter of the files stays free for everything else.
    """
    if num_files is None:
        return wanted
    reserve = max(_LEAST_RESERVE, num_files // 4)
    return max(1, min(wanted, num_files - reserve))


def default_max_per_address(max_connections: int) -> int:
    """One address may take half of the places, so that it never takes them all."""
    return max(1, max_connections // 2)
