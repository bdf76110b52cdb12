"""The codecs of one connection beside RAW, in both directions: RAW payloads in and out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol

from wire.coding.exact import ExactCoder
from wire.coding.lossy import lossy_coders
from wire.coding.padded import PaddedCoder
from wire.coding.tables import read_centres
from wire.errors import FaultCode, RemoteProtocolError
from wire.limits import RowLimits
from wire.messages import Codec, Dtype, Payload, Reply, States

ASIDE_BYTES: Final = 1 << 17
"""RAW rows of which no more than this are coded in some half a millisecond: an event loop does it
at once. More are better left to a thread."""

LEAST_ASIDE_BYTES: Final = ASIDE_BYTES // 2
"""And coded ones, which stand for about twice as many RAW bytes at the most."""

PADDED_SHARES: Final = {Dtype.BF16: (23, 32), Dtype.FP16: (29, 32), Dtype.FP32: (55, 64)}
"""Of RAW, which next to no row of a real model exceeds: in BF16 and FP16 single rows took at most
0.706 and 0.882, and FP32 has the exponents of BF16."""


Unpacked = Payload | RemoteProtocolError
"""What came of making rows RAW."""


class RowCodec(Protocol):
    """Codes RAW payloads of one direction; may be called from several threads at once."""

    def encode(self, raw: Payload, num_rows: int) -> bytes | None:
        """A shorter payload of a RAW one, at least one row; None where there is none."""
        ...

    def decode(self, payload: Payload, num_rows: int) -> memoryview:
        """The RAW payload again.

        Raises:
            RemoteProtocolError: BAD_FRAME for every byte string that is not so many rows.
        """
        ...


@dataclass(frozen=True, slots=True)
class RowCodecs:
    """Those that both sides speak. RAW and TAPPED frames pass unchanged."""

    up: Mapping[Codec, RowCodec]
    down: Mapping[Codec, RowCodec]
    row_bytes: int
    """Of a RAW row."""

    def raw_states(self, states: States) -> Payload:
        """The RAW payload of a frame whose shape was checked.

        Raises:
            RemoteProtocolError: BAD_FRAME where its payload is none.
        """
        if states.codec is Codec.RAW:
            return states.payload
        return _known(self.up, states.codec).decode(states.payload, states.num_rows)

    def raw_reply(self, reply: Reply, num_taps: int) -> Reply:
        """A Reply whose shape was checked, in RAW, or in TAPPED where it has taps.

        Raises:
            RemoteProtocolError: BAD_FRAME where its payload is none.
        """
        if reply.codec in (Codec.RAW, Codec.TAPPED):
            return reply
        codec = _known(self.down, reply.codec)
        payload = codec.decode(reply.payload, reply.num_rows * (1 + num_taps))
        return replace(reply, codec=Codec.TAPPED if num_taps else Codec.RAW, payload=payload)

    def coded_reply(self, reply: Reply, codec: Codec) -> Reply:
        """A RAW or TAPPED Reply in the codec of the frame that it answers, if that is shorter."""
        coder = self.down.get(codec)
        num_rows = len(reply.payload) // self.row_bytes
        payload = coder.encode(reply.payload, num_rows) if coder and num_rows else None
        return reply if payload is None else replace(reply, codec=codec, payload=payload)


MakeCodecs = Callable[[RowLimits, bytes], RowCodecs]
"""What codes the rows of a connection, by their shape and a Welcome's tables: `row_codecs`."""

NO_CODECS: Final = RowCodecs({}, {}, 1)
"""Of a connection on which rows are RAW."""


def with_raw(states: States, payload: Payload) -> States:
    """A frame with its RAW payload."""
    if states.codec is Codec.RAW:
        return states
    return replace(states, codec=Codec.RAW, payload=payload)


def row_codecs(rows: RowLimits, tables: bytes) -> RowCodecs:
    """What codes the rows of a connection.

    Raises:
        RemoteProtocolError: BAD_FRAME for tables that are none, or of other rows.
    """
    up: dict[Codec, RowCodec] = {}
    down: dict[Codec, RowCodec] = {}
    if rows.codecs & EXACT_CODECS:
        centres = read_centres(tables, rows.hidden_size)
        for coders, each in ((up, centres.up), (down, centres.down)):
            coders.update(_agreed(ExactCoder(rows.dtype, each), rows))
    lossy_up, lossy_down = lossy_coders(rows, tables)
    return RowCodecs(up | lossy_up, down | lossy_down, rows.row_bytes)


EXACT_CODECS: Final = 1 << Codec.EXACT | 1 << Codec.PADDED
"""As Hello and Welcome have them."""


def _agreed(exact: ExactCoder, rows: RowLimits) -> dict[Codec, RowCodec]:
    padded = PaddedCoder(exact, PADDED_SHARES[rows.dtype])
    both: dict[Codec, RowCodec] = {Codec.EXACT: exact, Codec.PADDED: padded}
    return {codec: coder for codec, coder in both.items() if rows.codecs >> codec & 1}


def _known(codecs: Mapping[Codec, RowCodec], codec: Codec) -> RowCodec:
    if codec not in codecs:
        reason = f"expected rows that can be decoded, got {codec.name}"
        raise RemoteProtocolError(FaultCode.BAD_FRAME, reason)
    return codecs[codec]
