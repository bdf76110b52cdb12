"""Codecs under virtual time: rows come through, bytes and times are those of the codec."""

import asyncio

import pytest

from bench.sim.run import simulate
from bench.sim.settings import codecs
from bench.sim.settings.codecs import EXACT, RAW, Crowd
from bench.sim.world.coding import EXACT_BF16, NO_SIM_CODING, CodecTimes, SimCoding
from process.virtual_loop import run_virtual
from wire.limits import RowLimits
from wire.messages import Codec, Dtype

BOTH = 1 << Codec.RAW | 1 << Codec.EXACT


def rows(codecs: int) -> RowLimits:
    return RowLimits(8, Dtype.FP16, 512, codecs)


def test_rows_hold_their_numbers_and_take_the_codecs_share() -> None:
    coder = SimCoding(CodecTimes(0.5, 1.0, 1.0)).make(rows(BOTH), b"").up[Codec.EXACT]
    raw = b"".join(number.to_bytes(2, "little") + bytes(14) for number in (7, 300, 9))
    coded = coder.encode(raw, 3)
    assert coded is not None
    assert len(coded) == len(raw) // 2
    assert bytes(coder.decode(coded, 3)) == raw


def test_what_is_coded_aside_takes_its_time() -> None:
    async def run() -> float:
        coding = SimCoding(CodecTimes(0.5, 0.25, 1.0))
        coder = coding.make(rows(BOTH), b"").up[Codec.EXACT]
        await coding.aside(lambda: coder.encode(bytes(16), 1))
        return asyncio.get_running_loop().time()

    assert run_virtual(run) == pytest.approx(16 * 0.25)


def test_a_program_that_codes_nothing_has_no_codec() -> None:
    assert not NO_SIM_CODING.make(rows(NO_SIM_CODING.codecs), b"").up


def test_coded_rows_bring_the_same_answers_in_fewer_bytes_and_sooner() -> None:
    crowd = Crowd(num_devices=3, num_clouds=1, num_requests=6, requests_per_s=1.0)
    cells = {}
    for scenario in codecs.scenarios(0, [crowd]):
        if scenario.setting.endswith(" 5 Mbit/s"):
            cells[scenario.arm.name] = simulate(scenario)
    raw, exact = cells[RAW], cells[EXACT]
    assert all(request.error is None for cell in cells.values() for request in cell.requests)
    bytes_up = [sum(request.bytes_up for request in cell.requests) for cell in (raw, exact)]
    assert bytes_up[1] == pytest.approx(EXACT_BF16.share * bytes_up[0], rel=0.03)
    firsts = [[request.emissions[0][0] for request in cell.requests] for cell in (raw, exact)]
    assert all(after < before for before, after in zip(*firsts, strict=True))
    assert "| 3 | 5 Mbit/s |" in codecs.table([raw, exact], "hat bench sim --codecs")
