"""Rows of one connection on their way out and in: coded where that is sooner, and plain again."""

import asyncio
from functools import partial
from typing import Final

from chunking.state_monitor import StateMonitor
from process.world import Aside, Clock
from wire.coding.lossy import NO_ROUNDING, Rounding
from wire.coding.row_codecs import ASIDE_BYTES, MakeCodecs, RowCodecs, row_codecs
from wire.limits import RowLimits
from wire.messages import Codec, Payload, Reply, Welcome

_TRY_EVERY = 64
"""Of so many frames that are not coded because that would take longer, one is all the same: what is
known of it may be old, or may have come from a moment when the machine was busy."""


class LinkCoding:
    """Codes frames in the agreed codec; `monitor` says which of them, and learns from each.

    Rows that `rounding` names are always rounded. `aside` makes a call that takes long, somewhere
    else.
    """

    def __init__(
        self,
        codecs: RowCodecs,
        monitor: StateMonitor,
        clock: Clock,
        aside: Aside = asyncio.to_thread,
        rounding: Rounding = NO_ROUNDING,
        make: MakeCodecs = row_codecs,
    ) -> None:
        self._codecs: Final = codecs
        self._make: Final = make
        agreed = (codec for codec in (Codec.PADDED, Codec.EXACT) if codec in codecs.up)
        self._codec = next(agreed, Codec.RAW)
        self.rounding: Final = rounding
        self._monitor = monitor
        self._clock = clock
        self._aside = aside
        self._num_plain = 0
        monitor.can_code = self._codec is not Codec.RAW or rounding.prompt is not None

    @property
    def codec(self) -> Codec:
        """What frames are in where that is sooner."""
        return self._codec

    def agreed(self, rows: RowLimits, welcome: Welcome) -> "LinkCoding":
        """The one for a connection whose cloud has said what it speaks and allows of `rounding`.

        Raises:
            RemoteProtocolError: BAD_FRAME for tables that are none.
        """
        codecs, allowed = self._make(rows, welcome.tables), self.rounding.agreed(welcome.codecs)
        return LinkCoding(codecs, self._monitor, self._clock, self._aside, allowed, self._make)

    async def coded(
        self, payload: Payload, num_rows: int, is_verify: bool
    ) -> tuple[Payload, Codec]:
        """A RAW payload as it should travel, and its codec."""
        rounded = self.rounding.up if is_verify else self.rounding.prompt
        codec = self._codec if rounded is None else rounded
        if codec is Codec.RAW:
            return payload, Codec.RAW
        if rounded is None and not self._may_code(len(payload), num_rows, is_verify):
            return payload, Codec.RAW
        work = partial(self._codecs.up[codec].encode, payload, num_rows)
        started_s = self._clock()
        coded = await self._aside(work) if len(payload) > ASIDE_BYTES else work()
        seconds = self._clock() - started_s
        share = 1.0 if coded is None else len(coded) / len(payload)
        if codec is (self.rounding.prompt or self._codec):
            # Chunks are planned by what is known of coding, so what codes prompts is what counts.
            self._monitor.on_coded(num_rows, seconds, share)
        return (payload, Codec.RAW) if coded is None else (coded, codec)

    async def plain(self, reply: Reply, num_taps: int | None) -> Reply:
        """A Reply with RAW rows; as it is where its session is over and nobody wants it.

        Raises:
            RemoteProtocolError: there are no rows in it.
        """
        if reply.codec in (Codec.RAW, Codec.TAPPED) or num_taps is None:
            return reply
        work = partial(self._codecs.raw_reply, reply, num_taps)
        is_long = reply.num_rows * (1 + num_taps) * self._codecs.row_bytes > ASIDE_BYTES
        return await self._aside(work) if is_long else work()

    def _may_code(self, num_bytes: int, num_rows: int, is_verify: bool) -> bool:
        if self._monitor.estimates(num_bytes // num_rows).codes(num_rows, is_verify):
            return True
        self._num_plain += 1
        return self._num_plain % _TRY_EVERY == 0
