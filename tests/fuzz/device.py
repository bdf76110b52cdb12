"""The whole device but its engine, against a cloud that now and then says anything.

The real core answers, in memory and in time that jumps; bytes decide which of its frames are lost,
repeated, changed or followed by made-up ones, and when the connection is cut. A request may fail,
but only as one does whose cloud is gone; afterwards the cloud is honest, and an answer is right.
"""

import asyncio
from collections.abc import Sequence
from functools import partial

from device_runtime.generation.request import CloudUnavailableError
from device_runtime.link.link import Link
from process.virtual_loop import VirtualLoop
from tests.fuzz.draws import Draws
from tests.support.event_loop import DAY_S
from tests.support.fake_model import HIDDEN_SIZE
from tests.support.fake_runtime import KEEP_NONE, KEEP_SOME, PROMPT, bench, expected, request
from tests.support.memory_cloud import MemoryCloud
from wire.codec import decode, encode
from wire.coding.tables import no_centres
from wire.errors import FaultCode, LocalProtocolError
from wire.messages import (
    Codec,
    Credit,
    Dtype,
    Fault,
    Joined,
    Message,
    Opened,
    Reply,
    SessionId,
    Welcome,
)

MAX_FRAMES = 200
"""Of one life; what comes afterwards is as it was sent."""


class HostileWay:
    """What becomes of the frames that the cloud sends."""

    def __init__(self, draws: Draws) -> None:
        self._draws = draws
        self.is_over = False
        self.num_frames = 0

    def passes(self, is_up: bool, frame: bytes) -> Sequence[bytes]:
        """Which frames the device gets for one; those that it sends pass."""
        self.num_frames += 1
        draws = self._draws
        if is_up or self.is_over or draws.is_empty or self.num_frames > MAX_FRAMES:
            return [frame]
        match draws.number(0, 15):
            case 0:
                return []
            case 1:
                return [frame, frame]
            case 2:
                return [draws.mutated(frame)]
            case 3:
                return [*self._made_up(frame), frame]
            case 4:
                return [frame, *self._made_up(frame)]
            case 5:
                return self._with_other_rows(frame)
            case _:
                return [frame]

    def _made_up(self, frame: bytes) -> list[bytes]:
        """A frame that the cloud has no reason to send."""
        draws = self._draws
        if draws.one_in(8):
            return [draws.noise(60)]
        name = SessionId(draws.number(0, 4))
        message: Message = draws.pick(
            (
                Opened(name, draws.number(0, 90)),
                Credit(draws.pick((0, 1, 64, 300, 2**63))),
                Fault(draws.pick(list(FaultCode)), name, draws.pick((0.0, 0.5, 9.0, 1e9)), "why"),
                Welcome(1, draws.pick(list(Dtype)), draws.number(0, 2**11 - 1), 96, 64, 256, 60.0),
                Joined(),
                self._reply(name),
            )
        )
        try:
            return [encode(message)]
        except LocalProtocolError:
            return [frame]

    def _reply(self, name: SessionId) -> Reply:
        draws = self._draws
        num_rows = draws.number(0, 4)
        return Reply(
            session=name,
            epoch=draws.number(0, 3),
            position=draws.number(0, 40),
            num_rows=num_rows,
            dtype=Dtype.FP32,
            codec=draws.pick(list(Codec)),
            cached_tokens=draws.number(0, 96),
            queue_s=draws.pick((0.0, 0.1, 1e300)),
            compute_s=draws.pick((0.0, 0.1, 1e300)),
            batch_tokens=draws.pick((0, 4, 2**32 - 1)),
            payload=bytes(4 * HIDDEN_SIZE * num_rows),
        )

    def _with_other_rows(self, frame: bytes) -> list[bytes]:
        """A Reply whose rows are any numbers, NaN, infinities and the greatest among them."""
        message = decode(frame)
        if not isinstance(message, Reply) or not message.payload:
            return [frame]
        fills = (b"\xff", b"\0\0\x80\x7f", b"\xff\xff\x7f\x7f", b"\0", b"\0\0\x80\x3f")
        fill = self._draws.pick(fills)
        num_bytes = len(message.payload)
        rows = (fill * num_bytes)[:num_bytes]
        return [frame[: len(frame) - num_bytes] + rows]


class CodedCloud(MemoryCloud):
    """Rows go up and come down coded, exactly, where that is shorter."""

    def __init__(self, connections: int) -> None:
        tables = no_centres(HIDDEN_SIZE).tables
        codecs = 1 << Codec.RAW | 1 << Codec.EXACT
        super().__init__(connections=connections, codecs=codecs, tables=tables, takes_traces=True)

    def make_link(self, **changes: object) -> Link:
        """See `MemoryCloud`."""
        return super().make_link(codec=Codec.EXACT, **changes)


async def _live(draws: Draws) -> int:
    way = HostileWay(draws)
    drafter = draws.pick(("ngram", "none", "suffix"))
    kept = KEEP_SOME if draws.flag() else KEEP_NONE
    connections = draws.pick((1, 1, 3))
    wanted = request(PROMPT, 24, trace_id=b"t" * 16)
    cloud = CodedCloud(connections) if draws.flag() else MemoryCloud(connections=connections)
    async with bench(cloud, kept=kept, drafter=drafter, reconnect_timeout_s=600.0) as it:
        it.network.passes = way.passes
        for _ in range(2):
            try:
                await it.ids(wanted)
            except CloudUnavailableError:
                if draws.flag():
                    it.network.cut()
        way.is_over = True
        it.network.cut()
        await it.link.connected()
        assert await it.ids(wanted) == expected(wanted), "an honest cloud's answer is right"
        assert it.runtime.admission.num_running == 0
        num_kept = it.num_kept
        engine = it.engine
        assert engine.num_open <= num_kept + 1, "sequences are released"
    assert engine.num_open == 0, "and at the end all of them"
    return way.num_frames


def check(data: bytes) -> int:
    """A device's life beside such a cloud; the number of frames.

    Raises:
        Exception: something else than a lost cloud came to whoever asked, or a wait without end.
    """
    with asyncio.Runner(loop_factory=partial(VirtualLoop, DAY_S)) as runner:
        return runner.run(_live(Draws(bytes(data))))


def seeds() -> list[bytes]:
    """Bytes to begin with."""
    return [bytes((place * 29 + number) % 256 for place in range(300)) for number in range(8)]


def mutated(data: bytes) -> bytes:
    """As they are: every byte is a choice."""
    return data
