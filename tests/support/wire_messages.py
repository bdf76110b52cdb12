"""Hypothesis strategies for every message of the protocol."""

from collections.abc import Sequence

from hypothesis import strategies as st

from wire.errors import FaultCode
from wire.limits import (
    ITEM_BYTES,
    MAX_CREDENTIAL_BYTES,
    MAX_FAULT_MESSAGE_BYTES,
    MAX_TAPS,
    MIN_PIECE_BYTES,
)
from wire.messages import (
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

u16 = st.integers(0, 2**16 - 1)
u32 = st.integers(0, 2**32 - 1)
sessions = st.integers(1, 2**32 - 1).map(SessionId)
positive_u32 = st.integers(1, 2**32 - 1)
seconds = st.floats(0, 1e9)
dtypes = st.sampled_from(Dtype)
coded_rows = st.binary(min_size=1, max_size=40)
"""How many bytes they are at the most, only a connection's shape of rows tells."""


@st.composite
def hellos(draw: st.DrawFn) -> Hello:
    low, high = sorted((draw(st.integers(1, 2**16 - 1)), draw(st.integers(1, 2**16 - 1))))
    credential = draw(st.binary(max_size=40) | st.binary(min_size=MAX_CREDENTIAL_BYTES).map(_cut))
    shape = (draw(u32), draw(u32), draw(positive_u32))
    fingerprint = draw(st.binary(min_size=32, max_size=32))
    return Hello(low, high, fingerprint, *shape, draw(u16), draw(u16), credential)


@st.composite
def opens(draw: st.DrawFn) -> Open:
    session, max_tokens = draw(sessions), draw(positive_u32)
    key = draw(st.binary(min_size=16, max_size=16))
    fork_of = draw(sessions.filter(lambda other: other != session) | st.just(SessionId(0)))
    fork_tokens = draw(st.integers(0, max_tokens)) if fork_of else 0
    depths = draw(st.sets(st.integers(0, 127), max_size=MAX_TAPS))
    return Open(session, key, max_tokens, fork_of, fork_tokens, sum(1 << d for d in depths))


CODED = (Codec.EXACT, Codec.PADDED, Codec.INT8, Codec.INT6)


@st.composite
def states(draw: st.DrawFn, codecs: Sequence[Codec] = (Codec.RAW, *CODED)) -> States:
    dtype, num_rows = draw(dtypes), draw(st.integers(1, 6))
    codec = draw(st.sampled_from(codecs))
    payload = draw(coded_rows if codec in CODED else _rows(num_rows, dtype))
    position = draw(st.integers(0, 2**32 - 1 - num_rows))
    place = (draw(sessions), draw(u32), position, num_rows)
    return States(*place, dtype, codec, draw(st.sampled_from(Want)), payload)


@st.composite
def replies(draw: st.DrawFn) -> Reply:
    dtype, num_rows = draw(dtypes), draw(st.integers(0, 6))
    codec = draw(st.sampled_from(Codec if num_rows else (Codec.RAW, Codec.TAPPED)))
    rows = coded_rows if codec in CODED else _rows(num_rows, dtype)
    payload = draw(rows) if num_rows else b""
    position = draw(st.integers(0, 2**32 - 1 - num_rows))
    place = (draw(sessions), draw(u32), position, num_rows)
    measured = (draw(u32), draw(seconds), draw(seconds), draw(u32))
    return Reply(*place, dtype, codec, *measured, payload)


@st.composite
def pieces(draw: st.DrawFn) -> Piece:
    """The first, a middle or the last part of a frame."""
    offset = draw(st.integers(0, 2**31))
    left = draw(st.integers(0, 2**30))
    part = draw(st.binary(min_size=MIN_PIECE_BYTES if left else 1, max_size=MIN_PIECE_BYTES + 8))
    return Piece(draw(u32), offset + len(part) + left, offset, part)


welcomes = st.builds(
    Welcome,
    version=st.integers(1, 2**16 - 1),
    dtype=dtypes,
    codecs=u16,
    max_context_tokens=positive_u32,
    max_frame_tokens=positive_u32,
    credit_limit_tokens=st.integers(0, 2**64 - 1),
    session_ttl_s=seconds,
    tables=st.binary(max_size=40),
    lane_key=st.sampled_from((b"", bytes(range(16)))),
)
faults = st.builds(
    Fault,
    code=st.sampled_from(FaultCode),
    session=u32.map(SessionId),
    retry_after_s=seconds,
    message=st.text(max_size=MAX_FAULT_MESSAGE_BYTES // 4),
)
messages: st.SearchStrategy[Message] = st.one_of(
    hellos(),
    welcomes,
    opens(),
    st.builds(Opened, session=sessions, cached_tokens=u32),
    states(),
    replies(),
    st.builds(Close, session=sessions),
    st.builds(Credit, limit_tokens=st.integers(0, 2**64 - 1)),
    faults,
    st.builds(
        Join,
        version=st.integers(1, 2**16 - 1),
        lane_key=st.binary(min_size=16, max_size=16),
        credential=st.binary(max_size=40),
    ),
    st.just(Joined()),
    st.builds(Trace, session=sessions, trace_id=st.binary(min_size=16, max_size=16).filter(any)),
    pieces(),
)


def _rows(num_rows: int, dtype: Dtype) -> st.SearchStrategy[bytes]:
    """The payload of rows of 1 to 4 numbers."""
    row_bytes = st.integers(1, 4).map(lambda hidden_size: hidden_size * ITEM_BYTES[dtype])
    return row_bytes.flatmap(lambda n: st.binary(min_size=n * num_rows, max_size=n * num_rows))


def _cut(credential: bytes) -> bytes:
    return credential[:MAX_CREDENTIAL_BYTES]
