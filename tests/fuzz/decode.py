"""Every byte string as a frame: it is refused by name, or is the one form of what it means.

Coded rows of an accepted frame are undone as well, tables are read, and pieces are joined.
"""

from tests.fuzz.draws import Draws
from wire.codec import decode, encode
from wire.coding.lossy import Kept
from wire.coding.row_codecs import RowCodecs, row_codecs
from wire.coding.tables import no_centres, write_sections
from wire.errors import FaultCode, RemoteProtocolError
from wire.lanes import Joiner
from wire.limits import RowLimits
from wire.messages import (
    Ability,
    Close,
    Codec,
    Credit,
    Dtype,
    Fault,
    Hello,
    Join,
    Joined,
    Message,
    Open,
    Opened,
    Piece,
    Reply,
    SessionId,
    States,
    Trace,
    Want,
    Welcome,
)

HIDDEN = 8
MAX_ROWS = 16
CODECS = sum(1 << codec for codec in Codec) | sum(1 << ability for ability in Ability)
TABLES = no_centres(HIDDEN).tables + write_sections(Kept((1, 5), (0, 7)).sections)
ROWS = {dtype: RowLimits(HIDDEN, dtype, MAX_ROWS, CODECS) for dtype in Dtype}
CODERS = {dtype: row_codecs(rows, TABLES) for dtype, rows in ROWS.items()}


def check(data: bytes) -> int:
    """Decode a frame and what is in it; the number of frames.

    Raises:
        Exception: something else than RemoteProtocolError escaped, or a frame had two forms.
    """
    frame = bytes(data)
    try:
        message = decode(frame)
    except RemoteProtocolError:
        return 1
    assert encode(message) == frame, "a frame has one form"
    try:
        _look_into(message)
    except RemoteProtocolError:
        return 1
    return 1


def _look_into(message: Message) -> None:
    match message:
        case States():
            ROWS[message.dtype].check(message)
            raw = CODERS[message.dtype].raw_states(message)
            assert len(raw) == message.num_rows * ROWS[message.dtype].row_bytes
        case Reply():
            num_taps = message.cached_tokens % 4
            ROWS[message.dtype].check(message, num_taps)
            raw = CODERS[message.dtype].raw_reply(message, num_taps).payload
            assert len(raw) == message.num_rows * (1 + num_taps) * ROWS[message.dtype].row_bytes
        case Welcome():
            row_codecs(ROWS[message.dtype], message.tables)
        case Piece():
            _join(message)


def _join(piece: Piece) -> None:
    """A piece beside others of its frame: never more is held than credit allows."""
    joiner = Joiner(64, 8, 512)
    for _ in range(2):
        joiner.put(piece)
        assert joiner.num_held_bytes <= 64 * (8 + 64)
        if joiner.next_frame is not None:
            assert len(joiner.next_frame) == piece.length
            joiner.take()


def seeds() -> list[bytes]:
    """A frame of every kind, and of every codec that rows may be in."""
    key = b"k" * 16
    name = SessionId(1)
    messages: list[Message] = [
        Hello(1, 1, b"\1" * 32, 1, 3, HIDDEN, 0b111, CODECS, b"secret"),
        Welcome(1, Dtype.FP32, CODECS, 10, 10, 20, 60.0, TABLES, key),
        Open(name, key, 10),
        Open(SessionId(2), key, 10, name, 4, 1 << 3 | 1 << 5),
        Opened(name, 0),
        Close(name),
        Credit(50),
        Fault(FaultCode.CAPACITY, name, 0.5, "words"),
        Join(1, key, b"secret"),
        Joined(),
        Trace(name, key),
        Piece(0, 8, 0, b"12345678"),
        Piece(1, 2048, 512, bytes(512)),
    ]
    for dtype, rows in ROWS.items():
        messages += _with_rows(dtype, rows, CODERS[dtype])
    return [encode(message) for message in messages]


def _with_rows(dtype: Dtype, rows: RowLimits, coders: RowCodecs) -> list[Message]:
    raw = bytes(range(rows.row_bytes)) * 3
    made: list[Message] = [
        States(SessionId(1), 0, 0, 3, dtype, Codec.RAW, Want.ALL, raw),
        Reply(SessionId(1), 0, 0, 3, dtype, Codec.RAW, 4, 0.1, 0.2, 2, raw),
        Reply(SessionId(1), 0, 0, 1, dtype, Codec.TAPPED, 6, 0.1, 0.2, 2, raw),
    ]
    # Rows alike, so that each of the codecs is shorter than RAW.
    alike = bytes(rows.row_bytes) * MAX_ROWS
    for codec, coder in coders.up.items():
        coded = coder.encode(alike, MAX_ROWS)
        if coded is not None:
            made.append(States(SessionId(1), 1, 2, MAX_ROWS, dtype, codec, Want.LAST, coded))
    for codec, coder in coders.down.items():
        coded = coder.encode(alike, MAX_ROWS)
        if coded is not None:
            made.append(Reply(SessionId(1), 1, 2, MAX_ROWS, dtype, codec, 4, 0.1, 0.2, 2, coded))
    return made


def mutated(data: bytes) -> bytes:
    """A frame near a valid one, for those who draw bytes without looking at coverage."""
    draws = Draws(data)
    frame = draws.pick(_SEEDS)
    return frame if draws.one_in(32) else draws.mutated(frame)


_SEEDS = seeds()
