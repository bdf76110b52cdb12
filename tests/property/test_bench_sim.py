"""The simulation: nobody loses a token, time only goes on, and a link carries what it may."""

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench.link.luck import Luck
from bench.link.shaper import Shaper, directions
from bench.link.spec import LinkSpec
from bench.measures import ttft_s
from bench.sim.run import simulate
from bench.sim.world.acceptance import from_counts, geometric
from bench.sim.world.link import PlainWay, legs, websocket_bytes, wire_bytes
from bench.sim.world.tcp import TcpWay
from process.sockets.memory import Way, way_bytes
from process.virtual_loop import run_virtual
from tests.support.bench_sim_scenarios import scenario, with_replicas
from tests.support.examples import at_most

SPLIT_ARMS = (
    "u-shape",
    "u-sarathi",
    "u-medusa",
    "hat",
    "hat-paper",
    "hat-no-chunking",
    "hat-no-speculation",
    "hat-no-ahead",
)
requests = st.lists(
    st.tuples(st.floats(0, 2), st.integers(1, 700), st.integers(1, 20)), min_size=1, max_size=6
)
links = st.builds(
    LinkSpec,
    uplink_bytes_per_s=st.floats(1e5, 1e8),
    downlink_bytes_per_s=st.floats(1e5, 1e8),
    delay_s=st.floats(0, 0.1),
    jitter_s=st.sampled_from([0.0, 0.01]),
    loss=st.sampled_from([0.0, 0.02]),
)
sizes = st.lists(st.integers(1, 100_000), min_size=1, max_size=12)


def arrivals_of(make: Callable[[asyncio.AbstractEventLoop], Way], frames: list[int]) -> list[float]:
    """When frames, all handed over at once, have come."""

    async def run() -> list[float]:
        loop = asyncio.get_running_loop()
        way, came = make(loop), list[float]()
        over = asyncio.Event()

        def arrive(frame: bytes) -> None:
            assert len(frame) == frames[len(came)]
            came.append(loop.time())
            if len(came) == len(frames):
                over.set()

        for num_bytes in frames:
            way.carry(bytes(num_bytes), arrive)
        await over.wait()
        assert way.num_unsent_bytes() == 0
        assert way.num_arrived_bytes() == sum(way_bytes(bytes(size)) for size in frames)
        return came

    return run_virtual(run)


def plain(spec: LinkSpec, frames: list[int]) -> list[float]:
    return arrivals_of(lambda loop: PlainWay(loop, legs(spec)[0], Random("0")), frames)


def segmented(spec: LinkSpec, frames: list[int]) -> list[float]:
    shaper = Shaper(directions(spec)[0], Luck.seeded("0"))
    return arrivals_of(lambda loop: TcpWay(loop, legs(spec)[0], shaper), frames)


@given(spec=links, messages=sizes)
@example(LinkSpec(34946215.122149624, 100000.0, 0.0, 0.0, 0.0), [1, 1, 609, 8679])
def test_a_link_never_carries_more_than_its_rate(spec: LinkSpec, messages: list[int]) -> None:
    rate = spec.uplink_bytes_per_s
    assert rate is not None
    for came in (plain(spec, messages), segmented(spec, messages)):
        assert came == sorted(came)
        for last, came_s in enumerate(came):
            num_bytes = sum(messages[: last + 1])
            least_s = num_bytes / rate + spec.delay_s
            assert came_s >= least_s * (1 - 1e-9)


@given(spec=links, messages=sizes, factor=st.floats(1, 10))
def test_a_faster_link_is_never_later(spec: LinkSpec, messages: list[int], factor: float) -> None:
    spec = replace(spec, loss=0.0)
    assert spec.uplink_bytes_per_s is not None
    faster = replace(spec, uplink_bytes_per_s=spec.uplink_bytes_per_s * factor)
    for slow_s, fast_s in zip(plain(spec, messages), plain(faster, messages), strict=True):
        assert fast_s <= slow_s * (1 + 1e-9)


@given(num_bytes=st.integers(1, 200_000), rate=st.floats(1e4, 1e8), delay_s=st.floats(0, 1))
def test_one_message_takes_its_bytes_with_headers_and_the_way(
    num_bytes: int, rate: float, delay_s: float
) -> None:
    (came_s,) = plain(LinkSpec(rate, None, delay_s), [num_bytes])
    on_wire = wire_bytes(websocket_bytes(num_bytes, is_masked=True))
    assert came_s == pytest.approx(on_wire / rate + delay_s)


@pytest.mark.parametrize(("is_slow", "num_round_trips"), [(True, 2), (False, 0)])
def test_after_a_pause_a_window_begins_anew_unless_the_device_knows_none(
    is_slow: bool, num_round_trips: int
) -> None:
    spec, num_bytes = LinkSpec(1e9, None, delay_s=0.05), 14_480 * 5

    async def run() -> list[float]:
        loop = asyncio.get_running_loop()
        leg = replace(legs(spec)[0], is_slow_after_pause=is_slow)
        way = TcpWay(loop, leg, Shaper(directions(spec)[0], Luck.seeded("0")))
        trips_s = []
        for _ in range(4):
            came = asyncio.Event()
            begin_s = loop.time()
            way.carry(bytes(num_bytes), lambda _, came=came: came.set())
            await came.wait()
            trips_s.append(loop.time() - begin_s)
            await asyncio.sleep(10.0)
        return trips_s

    first_s, _, *later_s = run_virtual(run)
    assert first_s == pytest.approx(0.05 + 2 * 0.1, abs=2e-3)
    expected_s = 0.05 + num_round_trips * 0.1
    assert later_s == pytest.approx([expected_s] * 2, abs=2e-3)


def test_a_window_begins_with_ten_segments_and_doubles() -> None:
    spec = LinkSpec(1e9, None, delay_s=0.05)
    header = websocket_bytes(14_480, is_masked=True) - 14_480
    ten, twenty, seventy = (
        segmented(spec, [14_480 - header])[0],
        *segmented(spec, [14_480 - header, 14_480 - header])[1:],
        (segmented(spec, [14_480 * 7 - 14])[0]),
    )
    assert ten == pytest.approx(0.05, abs=0.001)
    assert twenty == pytest.approx(0.15, abs=0.001)
    assert seventy == pytest.approx(0.25, abs=0.001)


@settings(max_examples=at_most(40))
@given(
    arm=st.sampled_from(SPLIT_ARMS),
    asked=requests,
    link=links,
    num_devices=st.integers(1, 3),
    clouds=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    seed=st.integers(0, 5),
)
def test_every_request_gets_just_the_tokens_it_asked_for(
    arm: str,
    asked: list[tuple[float, int, int]],
    link: LinkSpec,
    num_devices: int,
    clouds: tuple[int, int],
    seed: int,
) -> None:
    one = scenario(arm, tuple(asked), num_devices, link, seed)
    cell = simulate(with_replicas(one, *clouds))
    assert [record.number for record in cell.requests] == list(range(len(asked)))
    for record, (arrival_s, prompt_tokens, output_tokens) in zip(cell.requests, asked, strict=True):
        assert record.error is None
        assert record.output_tokens == output_tokens
        assert record.arrival_s == pytest.approx(arrival_s, abs=1e-8)
        assert sum(record.chunk_tokens) == prompt_tokens
        times = [time_s for time_s, _ in record.emissions]
        assert all(early <= late for early, late in itertools.pairwise(times))
        # Every round brings its accepted drafts and one token more; the prompt brings the first.
        assert 1 + record.rounds + sum(record.accepted_by_position) == output_tokens


@settings(max_examples=25)
@given(arm=st.sampled_from(["cloud-only", "device-only"]), asked=requests)
def test_a_whole_model_gives_one_token_at_a_time(
    arm: str, asked: list[tuple[float, int, int]]
) -> None:
    cell = simulate(scenario(arm, tuple(asked)))
    for record, (_, _, output_tokens) in zip(cell.requests, asked, strict=True):
        assert [count for _, count in record.emissions] == [1] * output_tokens


@settings(max_examples=25)
@given(prompt_tokens=st.integers(1, 1500), factor=st.floats(1, 20))
def test_a_faster_uplink_never_delays_the_first_token_of_a_whole_prompt(
    prompt_tokens: int, factor: float
) -> None:
    asked = ((0.0, prompt_tokens, 1),)
    slow = LinkSpec(2e5, 1e6, delay_s=0.02)
    fast = LinkSpec(2e5 * factor, 1e6, delay_s=0.02)
    first_s = [
        ttft_s(simulate(scenario("u-shape", asked, link=link)).requests[0]) for link in (fast, slow)
    ]
    assert first_s[0] is not None
    assert first_s[1] is not None
    assert first_s[0] <= first_s[1] * (1 + 1e-9)


@given(accept_length=st.floats(1.0, 2.5), sure=st.floats(0.7, 1.0))
def test_a_calibrated_table_brings_the_accept_length(accept_length: float, sure: float) -> None:
    table = geometric(accept_length, sure, 6, "test")
    chance = table.right[0] * sure
    assert 1 + sum(chance ** (i + 1) for i in range(6)) == pytest.approx(accept_length, abs=1e-6)


@given(data=st.data(), num_rounds=st.integers(20, 1000))
def test_a_table_from_counts_gives_those_counts_back(data: st.DataObject, num_rounds: int) -> None:
    drafted, accepted = [], []
    before, kept = num_rounds, num_rounds
    for _ in range(data.draw(st.integers(1, 4))):
        before = data.draw(st.integers(max(1, before // 2), before))
        kept = data.draw(st.integers(0, min(kept, before)))
        drafted.append(before)
        accepted.append(kept)
    table = from_counts(num_rounds, drafted, accepted, "test")
    on_path, off_path = float(num_rounds), 0.0
    for index, (num_drafted, num_accepted) in enumerate(zip(drafted, accepted, strict=True)):
        if on_path < 1:
            break
        sure, astray = table.sure_at(index, False), table.sure_at(index, True)
        kept_mean = on_path * sure * table.right_at(index)
        assert kept_mean == pytest.approx(num_accepted, rel=1e-6, abs=1e-6)
        assert on_path * sure + off_path * astray == pytest.approx(num_drafted, rel=1e-6)
        on_path, off_path = kept_mean, on_path * sure + off_path * astray - kept_mean
