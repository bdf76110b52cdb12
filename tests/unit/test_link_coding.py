"""Rows on their way out and in: coded inline or aside, as the monitor says, and tried again."""

import ml_dtypes
import numpy as np
import pytest

from chunking.state_monitor import AnsweredFrame, StateMonitor
from device_runtime.link.coding import LinkCoding
from wire.coding.lossy import NO_ROUNDING, Rounding
from wire.coding.row_codecs import NO_CODECS, RowCodecs, row_codecs
from wire.errors import RemoteProtocolError
from wire.limits import RowLimits
from wire.messages import Codec, Dtype, Reply, SessionId

HIDDEN = 512
ROW_BYTES = 2 * HIDDEN


def rows(num_rows: int) -> bytes:
    numbers = np.random.default_rng(num_rows).standard_normal((num_rows, HIDDEN))
    return numbers.astype(ml_dtypes.bfloat16).tobytes()


def codecs(*agreed: Codec) -> RowCodecs:
    bits = sum(1 << codec for codec in (Codec.RAW, *agreed))
    return row_codecs(RowLimits(HIDDEN, Dtype.BF16, 512, bits), b"")


class Coding:
    """A coding whose clock moves by a second with each look, and what it did aside."""

    def __init__(
        self, row_codecs: RowCodecs, always: bool = False, rounding: Rounding = NO_ROUNDING
    ) -> None:
        self.monitor = StateMonitor(always_codes=always)
        self.now = 0.0
        self.num_aside = 0
        self.coding = LinkCoding(row_codecs, self.monitor, self._clock, self._aside, rounding)

    def _clock(self) -> float:
        self.now += 1.0
        return self.now

    async def _aside(self, call):
        self.num_aside += 1
        return call()

    def know(self, bytes_per_s: float) -> None:
        """What else the cost model needs, on a link of such a rate without any delay."""
        self.monitor.on_prefill(64, 0.01)
        link = self.monitor.link
        link.on_round_trip(0.0)
        for start in range(3):
            link.on_sent(start, 1_000_000, float(start))
            self.monitor.on_reply(start, _answered(), start + 1_000_000 / bytes_per_s)


def _answered():
    return AnsweredFrame(64, 100, 0.0, 1e-9, 64)


def reply(payload: bytes, num_rows: int, codec: Codec) -> Reply:
    place = (SessionId(1), 0, 0, num_rows, Dtype.BF16, codec)
    return Reply(*place, num_rows, 0.0, 0.0, num_rows, payload)


@pytest.mark.parametrize("codec", [Codec.EXACT, Codec.PADDED])
async def test_what_is_not_known_is_found_out_by_coding(codec):
    one = Coding(codecs(codec))
    payload, came_in = await one.coding.coded(rows(5), 5, True)
    assert came_in is codec is one.coding.codec
    assert bytes(codecs(codec).up[codec].decode(payload, 5)) == rows(5)
    known = one.monitor.estimates(ROW_BYTES).coding
    assert known is not None
    assert known.share == len(payload) / len(rows(5))
    assert one.num_aside == 0


async def test_long_frames_are_coded_aside():
    one = Coding(codecs(Codec.EXACT))
    await one.coding.coded(rows(200), 200, False)
    assert one.num_aside == 1


async def test_a_link_faster_than_the_coder_gets_rows_as_they_are_and_is_tried_now_and_then():
    one = Coding(codecs(Codec.EXACT))
    await one.coding.coded(rows(5), 5, True)  # took a second, by the clock
    one.know(bytes_per_s=1e9)
    found = [(await one.coding.coded(rows(5), 5, True))[1] for _ in range(128)]
    assert found.count(Codec.EXACT) == 2
    assert found[0] is Codec.RAW


async def test_what_is_always_coded_is_coded_on_any_link():
    one = Coding(codecs(Codec.EXACT), always=True)
    await one.coding.coded(rows(5), 5, True)
    one.know(bytes_per_s=1e9)
    assert (await one.coding.coded(rows(5), 5, True))[1] is Codec.EXACT


async def test_rows_that_would_be_no_shorter_are_sent_as_they_are():
    one = Coding(codecs(Codec.EXACT))
    raw = np.random.default_rng(0).bytes(5 * ROW_BYTES)
    assert await one.coding.coded(raw, 5, True) == (raw, Codec.RAW)
    known = one.monitor.estimates(ROW_BYTES).coding
    assert known is not None
    assert known.share == 1.0


async def test_without_an_agreed_codec_nothing_is_coded():
    one = Coding(NO_CODECS)
    assert await one.coding.coded(rows(5), 5, True) == (rows(5), Codec.RAW)
    assert one.coding.codec is Codec.RAW
    assert not one.monitor.can_code


@pytest.mark.parametrize(("num_rows", "num_aside"), [(3, 0), (300, 1)])
async def test_replies_are_made_plain(num_rows, num_aside):
    one, both = Coding(codecs(Codec.EXACT)), codecs(Codec.EXACT)
    coded = both.down[Codec.EXACT].encode(rows(num_rows), num_rows)
    assert coded is not None
    plain = await one.coding.plain(reply(coded, num_rows, Codec.EXACT), 0)
    assert (plain.codec, bytes(plain.payload)) == (Codec.RAW, rows(num_rows))
    assert one.num_aside == num_aside


async def test_replies_with_taps_are_made_plain_with_them():
    one, both = Coding(codecs(Codec.EXACT)), codecs(Codec.EXACT)
    coded = both.down[Codec.EXACT].encode(rows(6), 6)
    assert coded is not None
    plain = await one.coding.plain(reply(coded, 2, Codec.EXACT), 2)
    assert (plain.codec, bytes(plain.payload)) == (Codec.TAPPED, rows(6))


async def test_a_reply_to_a_session_that_is_over_is_left_alone():
    one = Coding(codecs(Codec.EXACT))
    broken = reply(b"\7" * 40, 1, Codec.EXACT)
    assert await one.coding.plain(broken, None) is broken
    with pytest.raises(RemoteProtocolError):
        await one.coding.plain(broken, 0)


async def test_rows_that_are_to_be_rounded_are_however_fast_the_link_is():
    both = codecs(Codec.EXACT, Codec.INT8, Codec.INT6)
    one = Coding(both, rounding=Rounding(prompt=Codec.INT6, up=Codec.INT8))
    one.know(bytes_per_s=1e9)
    for _ in range(3):
        assert (await one.coding.coded(rows(5), 5, False))[1] is Codec.INT6
        assert (await one.coding.coded(rows(5), 5, True))[1] is Codec.INT8


async def test_chunks_are_planned_by_what_codes_prompts():
    one = Coding(codecs(Codec.EXACT, Codec.INT6), rounding=Rounding(prompt=Codec.INT6))
    await one.coding.coded(rows(5), 5, True)
    assert one.monitor.estimates(ROW_BYTES).coding is None, "EXACT, as verifications are"
    payload, _ = await one.coding.coded(rows(5), 5, False)
    known = one.monitor.estimates(ROW_BYTES).coding
    assert known is not None
    assert known.share == len(payload) / len(rows(5)) == 6.5 / 16


async def test_prompts_alone_may_be_rounded_where_nothing_else_is_coded():
    one = Coding(codecs(Codec.INT8), rounding=Rounding(prompt=Codec.INT8))
    assert one.coding.codec is Codec.RAW
    assert one.monitor.can_code
    assert (await one.coding.coded(rows(5), 5, True))[1] is Codec.RAW
    assert (await one.coding.coded(rows(5), 5, False))[1] is Codec.INT8
