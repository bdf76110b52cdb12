"""How long a frame may be, before and after both sides know the shape of the rows."""

from dataclasses import dataclass

from wire.errors import FaultCode, RemoteProtocolError
from wire.messages import Codec, Dtype, Reply, States

ITEM_BYTES = {Dtype.FP32: 4, Dtype.FP16: 2, Dtype.BF16: 2}

FINGERPRINT_BYTES = 32
KEY_BYTES = 16
TRACE_BYTES = 16

MAX_CREDENTIAL_BYTES = 1024
"""Room for a bearer token; a shared secret is far shorter."""

MAX_FAULT_MESSAGE_BYTES = 1024

MAX_TAPS = 4
"""Depths that one session may ask for."""

TAPS_BYTES = 16
"""The bit set of depths in an Open, so a depth is below 128."""

MAX_HEADER_BYTES = 64
"""No States or Reply header is longer."""

MAX_HANDSHAKE_BYTES = 2048
"""The longest Hello, and the longest Fault in answer to one."""

MAX_LANES = 64
"""Further sockets of one connection; a cloud may take fewer (rule W44)."""

MAX_PIECE_BYTES = 65_536
"""The longest part of a frame that a Piece carries."""

MAX_LANE_MESSAGE_BYTES = 64 + MAX_PIECE_BYTES
"""No message of a lane is longer: the part of a frame, and the header before it."""

MIN_PIECE_BYTES = 512
"""And the shortest, but for the last part of a frame: a frame is in so many pieces at most."""

MAX_EXTENSION_BYTES = 1 << 18
"""The longest extension of a Welcome: some bytes for each channel of the widest rows."""

MAX_WELCOME_BYTES = MAX_EXTENSION_BYTES + 2048
"""The longest Welcome, so the longest frame that a device accepts before the handshake is over."""


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
        """The longest States frame of this connection, for the WebSocket's own limit."""
        rows_bytes = self.max_frame_tokens * self.row_bytes
        return max(MAX_HANDSHAKE_BYTES, MAX_HEADER_BYTES + rows_bytes)

    def check(self, frame: States | Reply, num_taps: int | None = 0) -> None:
        """Accept a frame whose rows have the agreed number format, count and length (rule W7).

        `num_taps` is how many rows stand behind each of them (rule W38), None where the session is
        over and what it had asked for is forgotten.

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
        self._check_length(frame, num_taps)

    def _check_length(self, frame: States | Reply, num_taps: int | None) -> None:
        rows_bytes, num_bytes = frame.num_rows * self.row_bytes, len(frame.payload)
        if frame.codec not in (Codec.RAW, Codec.TAPPED):
            most_bytes = rows_bytes * (1 + (MAX_TAPS if num_taps is None else num_taps))
            if num_bytes > most_bytes:
                raise _mismatch(f"expected at most {most_bytes} payload bytes, got {num_bytes}")
            return
        is_tapped = frame.codec is Codec.TAPPED
        if num_taps is not None and is_tapped is not bool(num_taps):
            expected = Codec.TAPPED if num_taps else Codec.RAW
            reason = f"expected codec {expected.name}, got {frame.codec.name}"
            raise RemoteProtocolError(FaultCode.BAD_FRAME, reason)
        if num_taps is None:
            most = MAX_TAPS if is_tapped else 0
            num_taps = min(most, num_bytes // rows_bytes - 1) if rows_bytes else 0
        expected_bytes = rows_bytes * (1 + num_taps)
        if num_bytes != expected_bytes:
            raise _mismatch(f"expected {expected_bytes} payload bytes, got {num_bytes}")


def _mismatch(reason: str) -> RemoteProtocolError:
    return RemoteProtocolError(FaultCode.SHAPE_MISMATCH, reason)
