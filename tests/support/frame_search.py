"""Looking for texts and token ids in frames."""

import struct
from collections.abc import Iterable, Sequence

from tests.support.frame_relay import FrameRelay

_ID_FORMATS = ("<H", ">H", "<I", ">I", "<Q", ">Q", "<B")
_RUN = 3
"""So many token ids in a row are no accident, in any of the formats."""


def long_words(texts: Iterable[str]) -> set[str]:
    """The words of some texts that are too long to be found by accident."""
    words = {word.strip(".,!?\"'") for text in texts for word in text.split()}
    return {word for word in words if len(word) >= 4}


def assert_no_words(relay: FrameRelay, texts: Iterable[str]) -> None:
    """No long word of the texts is in a frame, in an encoding of Unicode."""
    seen = _all_bytes(relay)
    for word in long_words(texts):
        for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
            assert word.encode(encoding) not in seen, word


def assert_no_ids(relay: FrameRelay, ids: Sequence[int]) -> None:
    """No run of these ids is in a frame, whatever numbers they may have been written as."""
    seen = _all_bytes(relay)
    for start in range(len(ids) - _RUN + 1):
        run = ids[start : start + _RUN]
        for format_ in _ID_FORMATS:
            if format_ == "<B" and max(run) > 255:
                continue
            packed = b"".join(struct.pack(format_, token) for token in run)
            # Three zero-padded small numbers are too common among floats to mean anything.
            if len(set(packed)) > _RUN:
                assert packed not in seen, (format_, run)


def _all_bytes(relay: FrameRelay) -> bytes:
    return b"\0".join([*relay.up, *relay.down])
