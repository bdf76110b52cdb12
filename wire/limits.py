"""How long a frame may be, before and after both sides know the shape of the rows."""

from dataclasses import dataclass

from wire.errors import FaultCode, RemoteProtocolError
from wire.messages import Codec, Dtype, Reply, States

ITEM_BYTES = {Dtype.FP32: 4, Dtype.FP16: 2, Dtype.BF16: 2}

FINGERPRINT_BYTES = 32
KEY_BYTES = 16

MAX_CREDENTIAL_BYTES = 1024
"""Room for a bearer token; a shared secret is far shorter."""

MAX_FAULT_MESSAGE_BYTES = 1024

MAX_HEADER_BYTES = 64
"""No States or Reply header is longer."""

MAX_HANDSHAKE_BYTES = 2048
"""The longest frame a side accepts before the handshake is over."""


@dataclass(frozen=True, slots=True)
class RowLimits:
    """What a connection's rows look like once the handshake has fixed it.

    `codecs` is the bit set of codecs that both sides speak.
    """

    hidden_size: int
    dtype: Dtype
    max_frame_tokens: int
    codecs: int = 1 << Codec.RAW

    @property
    def row_bytes(self) -> int:
        """Bytes of one RAW row."""
        return self.hidden_size * ITEM_BYTES[self.dtype]

    @property
    def max_frame_bytes(self) -> int:
        """The longest frame of this connection, for the WebSocket's own limit."""
        rows_bytes = self.max_frame_tokens * self.row_bytes
        return max(MAX_HANDSHAKE_BYTES, MAX_HEADER_BYTES + rows_bytes)

    def check(self, frame: States | Reply) -> None:
        """Accept a frame whose rows have the agreed number format, count and length (rule W7).

        Raises:
            RemoteProtocolError: SHAPE_MISMATCH when the frame is of another shape, BAD_FRAME when
                it is longer than agreed or in a codec that was not agreed.
        """
        if frame.dtype is not self.dtype:
            expected, got = self.dtype.name, frame.dtype.name
            raise _mismatch(f"expected rows in {expected}, got {got}")
        if not self.codecs >> frame.codec & 1:
            reason = f"expected a codec of the set {self.codecs:#b}, got {frame.codec.name}"
            raise RemoteProtocolError(FaultCode.BAD_FRAME, reason)
        if frame.num_rows > self.max_frame_tokens:
            reason = f"expected at most {self.max_frame_tokens} rows, got {frame.num_rows}"
            raise RemoteProtocolError(FaultCode.BAD_FRAME, reason)
        expected_bytes = frame.num_rows * self.row_bytes
        if len(frame.payload) != expected_bytes:
            raise _mismatch(f"expected {expected_bytes} payload bytes, got {len(frame.payload)}")


def _mismatch(reason: str) -> RemoteProtocolError:
    return RemoteProtocolError(FaultCode.SHAPE_MISMATCH, reason)
