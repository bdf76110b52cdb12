"""Frames in pieces over several sockets: cut on one side, put together on the other (W44 to W48).

Sockets do not wait for each other, so pieces come in any order. Frames leave the joiner in the
order in which they were cut.
"""

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Final, NoReturn

from wire.errors import FaultCode, RemoteProtocolError
from wire.limits import MAX_HEADER_BYTES, MAX_PIECE_BYTES, MIN_PIECE_BYTES
from wire.messages import Payload, Piece

PIECE_OVERHEAD_BYTES: Final = 64
"""What a piece adds to its part, at most: its header, the WebSocket's, and TLS's."""


class Cutter:
    """A frame that goes in pieces, each as long as whoever carries it says."""

    def __init__(self, sequence: int, frame: Payload) -> None:
        self._sequence = sequence
        self._frame = memoryview(frame)
        self._num_cut = 0

    @property
    def num_left(self) -> int:
        """Bytes that are in no piece yet."""
        return len(self._frame) - self._num_cut

    def cut(self, most_bytes: int) -> Piece:
        """The next piece, with a part of at most so many bytes or of the fewest allowed.

        Raises:
            ValueError: nothing is left.
        """
        if not self.num_left:
            raise ValueError("expected a frame that is not cut whole yet")
        begin = self._num_cut
        num_bytes = min(self.num_left, MAX_PIECE_BYTES, max(MIN_PIECE_BYTES, most_bytes))
        self._num_cut += num_bytes
        part = self._frame[begin : self._num_cut]
        return Piece(self._sequence, len(self._frame), begin, part)


@dataclass(slots=True)
class _Partial:
    """A frame of which some pieces have come."""

    frame: bytearray
    num_missing: int
    offsets: list[int] = field(default_factory=list)
    """Where the parts that have come begin, ascending."""
    lengths: dict[int, int] = field(default_factory=dict)
    """Of those parts, by where they begin."""

    def end_before(self, index: int) -> int:
        """Where the part ends that is before the place `index` of `offsets`; 0 if there is none."""
        if index == 0:
            return 0
        begin = self.offsets[index - 1]
        return begin + self.lengths[begin]

    def begin_after(self, index: int) -> int:
        """Where the part at the place `index` begins, or the frame ends."""
        return self.offsets[index] if index < len(self.offsets) else len(self.frame)


class Joiner:
    """Puts the frames of one connection together again; holds no more than credit allows.

    A device that keeps to its credit of `window_tokens` rows has no more rows in pieces here, and
    no more frames than rows. A repeated piece changes nothing.

    Args:
        window_tokens: Rows that the device may have outstanding.
        row_bytes: Of one row.
        max_frame_bytes: Of one frame.
    """

    def __init__(self, window_tokens: int, row_bytes: int, max_frame_bytes: int) -> None:
        self._max_frames = window_tokens
        self._max_frame_bytes = max_frame_bytes
        self._max_bytes = window_tokens * (row_bytes + MAX_HEADER_BYTES)
        self._next_sequence = 0
        self._num_bytes = 0
        self._partials: dict[int, _Partial] = {}

    @property
    def num_held_bytes(self) -> int:
        """The lengths of all frames that have begun to come and were not taken."""
        return self._num_bytes

    def put(self, piece: Piece) -> None:
        """Take a piece, in any order.

        Raises:
            RemoteProtocolError: BAD_FRAME when it contradicts another or its frame is longer than
                allowed, CREDIT_EXCEEDED when no credit covers its frame. Nothing is held then.
        """
        if piece.sequence < self._next_sequence:
            return
        partial = self._partials.get(piece.sequence)
        if partial is None:
            partial = self._begin(piece)
        if len(partial.frame) != piece.length:
            _refuse(f"expected a piece of a frame of {len(partial.frame)}, got {piece.length}")
        index = bisect_left(partial.offsets, piece.offset)
        if partial.lengths.get(piece.offset) == len(piece.part):
            return
        end = piece.offset + len(piece.part)
        if partial.end_before(index) > piece.offset or end > partial.begin_after(index):
            _refuse(f"expected pieces that do not overlap, got one at {piece.offset}")
        partial.frame[piece.offset : end] = piece.part
        partial.offsets.insert(index, piece.offset)
        partial.lengths[piece.offset] = len(piece.part)
        partial.num_missing -= len(piece.part)

    @property
    def next_frame(self) -> bytearray | None:
        """The next frame in order once it is whole; it stays the next until `take`."""
        partial = self._partials.get(self._next_sequence)
        return None if partial is None or partial.num_missing else partial.frame

    def take(self) -> None:
        """The next frame, which is whole, is dealt with; the one behind it is the next."""
        partial = self._partials.pop(self._next_sequence)
        self._num_bytes -= len(partial.frame)
        self._next_sequence += 1

    def _begin(self, piece: Piece) -> _Partial:
        if piece.length > self._max_frame_bytes:
            _refuse(f"expected a frame of at most {self._max_frame_bytes}, got {piece.length}")
        is_far = piece.sequence >= self._next_sequence + self._max_frames
        if is_far or self._num_bytes + piece.length > self._max_bytes:
            reason = f"expected pieces of at most {self._max_frames} rows that were not taken"
            raise RemoteProtocolError(FaultCode.CREDIT_EXCEEDED, reason)
        partial = _Partial(bytearray(piece.length), piece.length)
        self._partials[piece.sequence] = partial
        self._num_bytes += piece.length
        return partial


def _refuse(reason: str) -> NoReturn:
    raise RemoteProtocolError(FaultCode.BAD_FRAME, reason)
