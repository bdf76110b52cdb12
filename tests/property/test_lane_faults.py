"""Prompts over several connections: whatever becomes of pieces and lanes, the ids are the same.

The whole device, the cloud's real core, and a network in memory between them, in jumping time.
"""

import asyncio
import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runtime.link.lanes import Lane
from process.sockets.memory import MemorySocket
from process.sockets.windows import Window
from tests.support.event_loop import settle, until
from tests.support.examples import at_most
from tests.support.fake_runtime import PROMPT, Bench, bench, expected, request
from tests.support.memory_cloud import MemoryCloud
from wire.codec import decode, encode
from wire.errors import FaultCode
from wire.messages import NO_SESSION, Ability, Fault, Hello, Join, Joined, Message, Piece, States

pytestmark = pytest.mark.event_loop("virtual")

LONG = list(itertools.islice(itertools.cycle(PROMPT), 80))
WANTED = request(LONG, 12)
DEVICE = {"chunking": "fixed", "chunk_tokens": 32, "reconnect_timeout_s": 600.0}
"""A chunk is a frame of 532 bytes."""


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a frame is in two pieces; and no lane is replaced for that."""
    monkeypatch.setattr(Lane, "is_worn", False)
    monkeypatch.setattr(MemorySocket, "window", lambda socket: Window(580, 0))


def sent(it: Bench, kind: type[Message]) -> list[Message]:
    """What went up of a kind."""
    return [m for m in map(decode, it.network.up) if isinstance(m, kind)]


async def lanes_up(it: Bench, num_lanes: int) -> None:
    await until(lambda: it.link.num_lanes == num_lanes)


async def test_prompts_go_in_pieces_and_verifications_do_not() -> None:  # W45, W46
    async with bench(MemoryCloud(connections=4), drafter="ngram", **DEVICE) as it:
        await lanes_up(it, 3)
        assert await it.ids(WANTED) == expected(WANTED)
        pieces = [m for m in sent(it, Piece) if isinstance(m, Piece)]
        assert {piece.sequence for piece in pieces} == set(range(3))
        assert len(pieces) == 5
        whole = [m for m in sent(it, States) if isinstance(m, States)]
        assert len(whole) > 1
        assert all(m.num_rows < 16 for m in whole)
        assert it.link.num_connections == 1


@settings(max_examples=at_most(12), deadline=None)
@given(
    delays_s=st.lists(st.floats(0.0, 0.5), min_size=4, max_size=4),
    twice=st.sets(st.integers(0, 12), max_size=6),
    chunk_tokens=st.integers(20, 32),
)
async def test_lanes_of_any_delays_and_pieces_that_come_twice_change_nothing(
    delays_s: list[float], twice: set[int], chunk_tokens: int
) -> None:
    device = DEVICE | {"chunk_tokens": chunk_tokens, "drafter": "ngram"}
    async with bench(MemoryCloud(connections=4), **device) as it:
        await lanes_up(it, 3)
        it.network.delay_s = lambda number: delays_s[number % 4]
        strike(it, twice=twice)
        assert await it.ids(WANTED) == expected(WANTED)
        assert await it.ids(request(LONG[7:], 5)) == expected(request(LONG[7:], 5))
        assert it.link.num_connections == 1


def strike(
    it: Bench, twice: set[int] = frozenset(), lost: set[int] = frozenset(), **cuts: Any
) -> None:
    """Do something at the n-th pieces; `cuts` says which connection is cut at which."""
    num_pieces = itertools.count()

    def passes(is_up: bool, frame: bytes) -> list[bytes]:
        if not isinstance(decode(frame), Piece):
            return [frame]
        number = next(num_pieces)
        for lane in [lane for lane, at in cuts.get("at", {}).items() if at == number]:
            it.network.cut_one(lane)
        return [] if number in lost else [frame] * (1 + (number in twice))

    it.network.passes = passes


@settings(max_examples=at_most(12), deadline=None)
@given(
    lost=st.sets(st.integers(0, 6), max_size=2),
    cuts=st.dictionaries(st.integers(0, 3), st.integers(0, 6), max_size=3),
)
async def test_lost_pieces_and_broken_lanes_change_nothing_but_the_time(  # W47
    lost: set[int], cuts: dict[int, int]
) -> None:
    async with bench(MemoryCloud(connections=4), drafter="ngram", **DEVICE) as it:
        await lanes_up(it, 3)
        strike(it, lost=lost, at=cuts)
        assert await it.ids(WANTED) == expected(WANTED)


async def test_a_lane_that_breaks_in_use_leaves_one_connection_for_a_while() -> None:  # W47
    async with bench(MemoryCloud(connections=3), **DEVICE) as it:
        await lanes_up(it, 2)
        strike(it, at={1: 0})
        assert await it.ids(WANTED) == expected(WANTED)
        assert it.link.num_connections == 2
        assert it.link.num_lanes == 0
        *_, hello = (m for m in sent(it, Hello) if isinstance(m, Hello))
        assert not hello.codecs >> Ability.LANES & 1
        num_pieces = len(sent(it, Piece))
        assert await it.ids(WANTED) == expected(WANTED)
        assert len(sent(it, Piece)) == num_pieces


async def test_a_lane_that_breaks_idle_is_made_again_and_nothing_else_happens() -> None:  # W47
    async with bench(MemoryCloud(connections=3), **DEVICE) as it:
        await lanes_up(it, 2)
        assert await it.ids(WANTED) == expected(WANTED)
        it.network.cut_one(1)
        await until(lambda: it.link.num_lanes == 1)
        assert await it.ids(WANTED) == expected(WANTED)
        await asyncio.sleep(60.0)
        await lanes_up(it, 2)
        assert it.link.num_connections == 1


@pytest.mark.parametrize("answer", [b"", encode(Joined()) + b"?", "fault", None])
async def test_refused_lanes_leave_the_connection_as_it_is(answer: Any) -> None:  # W44
    refusal = Fault(FaultCode.TOO_MANY_SESSIONS, NO_SESSION, 1.0, "no more")
    answer = encode(refusal) if answer == "fault" else answer

    def passes(is_up: bool, frame: bytes) -> list[bytes]:
        if not is_up and frame and isinstance(decode(frame), Joined):
            return [] if answer is None else [answer]
        return [frame]

    cloud = MemoryCloud(connections=3)
    cloud.network.passes = passes
    async with bench(cloud, **DEVICE) as it:
        await until(lambda: len(sent(it, Join)) == 2)
        assert await it.ids(WANTED) == expected(WANTED)
        assert it.link.num_lanes == 0
        assert it.link.num_connections == 1
        assert not sent(it, Piece)


async def test_who_is_always_refused_asks_more_and_more_seldom() -> None:  # W44
    refusal = encode(Fault(FaultCode.UNKNOWN_SESSION, NO_SESSION, 0.0, "another replica"))

    def passes(is_up: bool, frame: bytes) -> list[bytes]:
        is_joined = not is_up and bool(frame) and isinstance(decode(frame), Joined)
        return [refusal if is_joined else frame]

    cloud = MemoryCloud(connections=3)
    cloud.network.passes = passes
    async with bench(cloud, **DEVICE) as it:
        await asyncio.sleep(20.0)
        assert len(sent(it, Join)) == 2
        await asyncio.sleep(3600.0)
        assert 8 <= len(sent(it, Join)) <= 18
        assert it.link.num_connections == 1


async def test_a_cloud_of_sixteen_lanes_is_hardly_asked_for_more(  # W44
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As those were that knew no more."""
    monkeypatch.setattr("cloud_server.core.lanes.MAX_LANES", 16)
    async with bench(MemoryCloud(connections=65, max_lanes=200), **DEVICE) as it:
        await lanes_up(it, 16)
        assert await it.ids(WANTED) == expected(WANTED)
        await asyncio.sleep(20.0)
        assert len(sent(it, Join)) <= 16 + 8
        it.network.cut_one(3)
        await until(lambda: it.link.num_lanes == 15)
        await asyncio.sleep(3600.0)
        assert it.link.num_lanes == 16
        assert len(sent(it, Join)) <= 16 + 8 + 12
        assert await it.ids(WANTED) == expected(WANTED)
        assert it.link.num_connections == 1


async def test_lanes_that_are_wanted_no_more_are_closed_when_they_carried_nothing_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = 20
    monkeypatch.setattr("device_runtime.link.lanes.useful_lanes", lambda *_: wanted)
    async with bench(MemoryCloud(connections=None, max_lanes=100), **DEVICE) as it:
        await lanes_up(it, 20)
        wanted = 5
        await asyncio.sleep(500.0)
        assert it.link.num_lanes == 20
        assert await it.ids(WANTED) == expected(WANTED)
        await asyncio.sleep(300.0)
        # What the prompt used is kept for as long again.
        assert 5 <= it.link.num_lanes < 20
        await asyncio.sleep(700.0)
        assert it.link.num_lanes == 5
        num_joins = len(sent(it, Join))
        assert await it.ids(WANTED) == expected(WANTED)
        await asyncio.sleep(700.0)
        assert (it.link.num_lanes, len(sent(it, Join))) == (5, num_joins)
        assert it.link.num_connections == 1


async def test_a_cloud_without_lanes_is_asked_once_and_used_with_one_connection() -> None:  # W44
    async with bench(MemoryCloud(connections=5, max_lanes=0), **DEVICE) as it:
        assert await it.ids(WANTED) == expected(WANTED)
        await settle()
        assert it.network.num_dials == 1


async def test_on_a_short_way_there_are_no_lanes_unless_they_are_asked_for() -> None:  # W48
    async with bench(MemoryCloud(connections=None), **DEVICE) as it:
        assert await it.ids(WANTED) == expected(WANTED)
        assert it.network.num_dials == 1
        it.network.delay_s = lambda number: 0.02
        for _ in range(20):
            assert await it.ids(WANTED) == expected(WANTED)
        assert it.link.num_lanes == it.network.num_dials - 1 > 0
