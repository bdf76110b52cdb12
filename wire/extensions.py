"""What may follow a Welcome: bytes that the abilities of both sides call for (rule W39).

Each extension is its kind (u8), its length (u32, at least 1) and so many bytes; kinds ascend. A
cloud sends one only to a device whose Hello offered what it belongs to, so none is unknown.
"""

from struct import Struct
from typing import Final

from wire.limits import KEY_BYTES, MAX_EXTENSION_BYTES

TABLES: Final = 1
"""What the agreed codecs need besides a frame's own bytes."""

LANE_KEY: Final = 2
"""The key under which further sockets join this one."""

_HEAD: Final = Struct("<BI")
_KINDS: Final = (TABLES, LANE_KEY)


def encode_extensions(tables: bytes, lane_key: bytes) -> bytes:
    """The bytes behind a Welcome's header; nothing for what is empty."""
    given = ((TABLES, tables), (LANE_KEY, lane_key))
    return b"".join(_HEAD.pack(kind, len(data)) + data for kind, data in given if data)


def decode_extensions(tail: memoryview) -> tuple[bytes, bytes]:
    """Tables and lane key; empty bytes for what is not there.

    Raises:
        ValueError: the bytes are no extensions, or none of these.
    """
    found: dict[int, bytes] = {}
    while tail:
        if len(tail) < _HEAD.size:
            raise ValueError(f"expected an extension's {_HEAD.size} bytes, got {len(tail)}")
        kind, num_bytes = _HEAD.unpack_from(tail)
        if kind not in _KINDS or kind <= max(found, default=0):
            raise ValueError(f"expected ascending extensions of {_KINDS}, got kind {kind}")
        if not 1 <= num_bytes <= len(tail) - _HEAD.size:
            left = len(tail) - _HEAD.size
            raise ValueError(f"expected 1 to {left} bytes of extension {kind}, got {num_bytes}")
        end = _HEAD.size + num_bytes
        found[kind] = bytes(tail[_HEAD.size : end])
        tail = tail[end:]
    return found.get(TABLES, b""), found.get(LANE_KEY, b"")


def broken_extension(tables: bytes, lane_key: bytes) -> str | None:
    """What is wrong with a Welcome's extensions; None when nothing is."""
    if len(tables) > MAX_EXTENSION_BYTES:
        return f"expected tables of at most {MAX_EXTENSION_BYTES} bytes, got {len(tables)}"
    if len(lane_key) not in (0, KEY_BYTES):
        return f"expected a lane key of {KEY_BYTES} bytes, got {len(lane_key)}"
    return None
