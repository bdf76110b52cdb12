"""Frames in pieces: whole again in their order, however the pieces came; and what is refused."""

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.examples import at_most
from wire.codec import decode, encode
from wire.errors import FaultCode, RemoteProtocolError
from wire.lanes import Cutter, Joiner
from wire.limits import MAX_HEADER_BYTES, MAX_PIECE_BYTES, MIN_PIECE_BYTES
from wire.messages import Piece

ROW_BYTES = 1000
MAX_FRAME_BYTES = 8 * ROW_BYTES + MAX_HEADER_BYTES
WINDOW_TOKENS = 16

frames = st.lists(st.integers(1, MAX_FRAME_BYTES), max_size=8).map(
    lambda lengths: [bytes(7 * i + j & 255 for j in range(n)) for i, n in enumerate(lengths)]
)


def joiner():
    return Joiner(WINDOW_TOKENS, ROW_BYTES, MAX_FRAME_BYTES)


def pieces_of(data, sequence, frame):
    cutter = Cutter(sequence, frame)
    pieces = []
    while cutter.num_left:
        pieces.append(cutter.cut(data.draw(st.integers(1, 3000))))
    return pieces


def refusal(joiner, piece):
    try:
        joiner.put(piece)
    except RemoteProtocolError as error:
        return error.code
    return None


def taken(joiner):
    found = []
    while (frame := joiner.next_frame) is not None:
        found.append(bytes(frame))
        joiner.take()
    return found


@settings(deadline=None, max_examples=at_most(200))
@given(data=st.data(), sent=frames, num_lanes=st.integers(1, 5))
def test_frames_come_whole_and_in_order_over_any_lanes(data, sent, num_lanes):  # W45, W46
    total = sum(map(len, sent))
    room = -(-total // ROW_BYTES) + len(sent)
    receiver = Joiner(max(1, room), ROW_BYTES, MAX_FRAME_BYTES)
    lanes = [deque() for _ in range(num_lanes)]
    for sequence, frame in enumerate(sent):
        for piece in pieces_of(data, sequence, frame):
            lanes[data.draw(st.integers(0, num_lanes - 1))].append(encode(piece))
    found = []
    while busy := [lane for lane in lanes if lane]:
        lane = data.draw(st.sampled_from(busy))
        # A proxy that sends a piece twice does no harm.
        piece = lane[0] if data.draw(st.booleans()) else lane.popleft()
        receiver.put(decode(piece))
        if data.draw(st.booleans()):
            found += taken(receiver)
        assert receiver.num_held_bytes <= total
    assert found + taken(receiver) == sent
    assert receiver.num_held_bytes == 0


@settings(deadline=None, max_examples=at_most(300))
@given(data=st.data())
def test_whatever_pieces_come_no_more_is_held_than_credit_allows(data):  # W45
    receiver = joiner()
    for _ in range(data.draw(st.integers(1, 40))):
        length = data.draw(st.integers(1, 2 * MAX_FRAME_BYTES) | st.just(2**32 - 1))
        offset = data.draw(st.integers(0, length - 1))
        num_bytes = min(length - offset, data.draw(st.integers(MIN_PIECE_BYTES, 4000)))
        sequence = data.draw(st.integers(0, 20) | st.just(2**32 - 1))
        before = receiver.num_held_bytes
        code = refusal(receiver, Piece(sequence, length, offset, bytes(num_bytes)))
        assert code in (None, FaultCode.BAD_FRAME, FaultCode.CREDIT_EXCEEDED)
        assert code is None or receiver.num_held_bytes == before
        assert receiver.num_held_bytes <= WINDOW_TOKENS * (ROW_BYTES + MAX_HEADER_BYTES)
        if data.draw(st.booleans()):
            taken(receiver)


def test_a_lost_piece_holds_back_what_is_behind_it_and_no_more_than_the_window():  # W46
    receiver = joiner()
    receiver.put(Piece(0, 2000, 0, bytes(1000)))
    receiver.put(Piece(1, 1000, 0, bytes(1000)))
    assert receiver.next_frame is None
    with pytest.raises(RemoteProtocolError, match="at most 16 rows that were not taken"):
        receiver.put(Piece(WINDOW_TOKENS, 1000, 0, bytes(1000)))
    receiver.put(Piece(0, 2000, 1000, bytes(1000)))
    assert [len(frame) for frame in taken(receiver)] == [2000, 1000]


@pytest.mark.parametrize(
    ("piece", "reason"),
    [
        (Piece(0, 3000, 500, bytes(1000)), "do not overlap, got one at 500"),
        (Piece(0, 3000, 1000, bytes(2000)), "do not overlap, got one at 1000"),
        (Piece(0, 3000, 1500, bytes(1500)), "do not overlap, got one at 1500"),
        (Piece(0, 2999, 0, bytes(1000)), "a frame of 3000, got 2999"),
        (Piece(1, MAX_FRAME_BYTES + 1, 0, bytes(1000)), "a frame of at most 8064, got 8065"),
    ],
)
def test_pieces_that_contradict_each_other_are_refused(piece, reason):  # W45
    receiver = joiner()
    receiver.put(Piece(0, 3000, 1000, bytes(1000)))
    with pytest.raises(RemoteProtocolError, match=reason) as caught:
        receiver.put(piece)
    assert caught.value.code is FaultCode.BAD_FRAME


def test_no_part_is_shorter_than_allowed_but_the_last_nor_longer():  # W45
    cutter = Cutter(0, bytes(MAX_PIECE_BYTES + MIN_PIECE_BYTES + 1))
    lengths = []
    for most_bytes in (1 << 20, 1, 1):
        piece = cutter.cut(most_bytes)
        assert decode(encode(piece)) == piece
        lengths.append(len(piece.part))
    assert lengths == [MAX_PIECE_BYTES, MIN_PIECE_BYTES, 1]
    with pytest.raises(ValueError, match="not cut whole yet"):
        cutter.cut(1)
