"""A kept session as a file: what a later run of the program needs to take it up, and a checksum."""

import math
from collections.abc import Sequence
from hashlib import sha256
from typing import NewType

import msgspec
import numpy as np
from numpy.typing import NDArray

from wire.limits import KEY_BYTES

Identity = NewType("Identity", tuple[str, ...])
"""What rows were made with and where they went: only under the same one is a session as it was."""

_MAGIC = b"hatkept1"
_HEAD_BYTES = len(_MAGIC) + 32

MAX_FILE_BYTES = 8 << 20
"""Of a longer file nothing is read: two million tokens fit."""


class DamagedFileError(Exception):
    """These bytes are no kept session."""


class KeptText(msgspec.Struct, frozen=True, kw_only=True):
    """A session that was kept: its name in the cloud, and the text that is cached there.

    Times are seconds since 1970.
    """

    identity: tuple[str, ...]
    key: bytes
    """By which it is taken up."""
    max_tokens: int
    """Positions it has reserved."""
    token_ids: bytes
    """The text `[N]`, as little-endian int32."""
    used_unix_s: float
    expires_unix_s: float
    """From then on the cloud need not have it any more."""

    @property
    def ids(self) -> NDArray[np.int64]:
        """The text's token ids `[N]`."""
        return np.frombuffer(self.token_ids, np.dtype("<i4")).astype(np.int64)

    def is_usable(self, identity: Identity, unix_s: float) -> bool:
        """Whether the cloud may hold it, and holds what this program would have sent.

        One from the future was written by another clock.
        """
        return self.identity == identity and self.used_unix_s <= unix_s < self.expires_unix_s


def packed_ids(ids: Sequence[int] | NDArray[np.int64]) -> bytes:
    """Token ids as they lie in a file."""
    return np.asarray(ids, np.dtype("<i4")).tobytes()


def encode(kept: KeptText) -> bytes:
    """The file's bytes."""
    body = msgspec.msgpack.encode(kept)
    return _MAGIC + sha256(body).digest() + body


def decode(data: bytes) -> KeptText:
    """A file's session.

    Raises:
        DamagedFileError: it is none, or not whole.
    """
    head, body = data[:_HEAD_BYTES], data[_HEAD_BYTES:]
    if head != _MAGIC + sha256(body).digest():
        raise DamagedFileError("its checksum is wrong")
    try:
        kept = msgspec.msgpack.decode(body, type=KeptText)
    except msgspec.MsgspecError as error:
        raise DamagedFileError(f"its fields are wrong: {error}") from error
    if not _is_sound(kept):
        raise DamagedFileError("its values are wrong")
    return kept


def _is_sound(kept: KeptText) -> bool:
    num_tokens, rest = divmod(len(kept.token_ids), 4)
    is_text = rest == 0 and 0 < num_tokens <= kept.max_tokens and bool((kept.ids >= 0).all())
    are_times = math.isfinite(kept.used_unix_s) and math.isfinite(kept.expires_unix_s)
    return is_text and are_times and len(kept.key) == KEY_BYTES
