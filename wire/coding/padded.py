"""EXACT rows whose length says nothing of their content (rule W40)."""

from typing import Final

from wire.coding.exact import ExactCoder
from wire.errors import FaultCode, RemoteProtocolError
from wire.messages import Payload


class PaddedCoder:
    """EXACT with zeros behind it, up to a fixed share of RAW's length."""

    def __init__(self, exact: ExactCoder, share: tuple[int, int]) -> None:
        self._exact = exact
        self._share: Final = share

    def encode(self, raw: Payload, num_rows: int) -> bytes | None:
        """The PADDED payload of a RAW one; None where its content takes more than the share."""
        coded = self._exact.encode(raw, num_rows)
        num_bytes = padded_bytes(len(raw), self._share)
        if coded is None or len(coded) > num_bytes:
            return None
        return coded.ljust(num_bytes, b"\0")

    def decode(self, payload: Payload, num_rows: int) -> memoryview:
        """As `ExactCoder.decode`.

        Raises:
            RemoteProtocolError: BAD_FRAME for every byte string that is not so many rows.
        """
        raw = self._exact.decode(payload, num_rows)
        expected_bytes = padded_bytes(len(raw), self._share)
        if len(payload) != expected_bytes:
            reason = f"expected {expected_bytes} bytes of {num_rows} PADDED rows"
            raise RemoteProtocolError(FaultCode.BAD_FRAME, f"{reason}, got {len(payload)}")
        return raw


def padded_bytes(raw_bytes: int, share: tuple[int, int]) -> int:
    """The length of a PADDED payload."""
    numerator, denominator = share
    return -(-raw_bytes * numerator // denominator)
