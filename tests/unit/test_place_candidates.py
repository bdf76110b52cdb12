"""Places to begin in come one after the other, the best first; of a refused one nothing stays."""

from collections.abc import Sequence
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import pytest

from device_runtime.link.carried import Carried
from device_runtime.link.session import SessionName, SessionRefusedError
from device_runtime.runtime.place import Place
from device_runtime.runtime.places import Places
from device_runtime.session.prefix_cache import PrefixCacheLimits
from tests.support.drafts import AtOnce
from tests.support.fake_model import FakeDeviceEngine
from wire.errors import FaultCode, RemoteProtocolError
from wire.messages import Fault, SessionId

pytestmark = pytest.mark.event_loop("virtual")

ROOM = PrefixCacheLimits(max_sessions=4, max_tokens=1000, min_shared_tokens=1)
TEXT = [1, 2, 3, 4, 5, 6]


class Stream:
    """A session in the cloud that was asked for, perhaps as a copy of another."""

    is_live = True
    is_lost = False
    carried = Carried()

    def __init__(self, max_tokens: int, fork_tokens: int) -> None:
        self.name = SessionName(bytes(16), max_tokens)
        self.num_cached_tokens = fork_tokens
        self.is_closed = False

    async def opened(self) -> int:
        return self.num_cached_tokens

    def close(self) -> None:
        self.is_closed = True


class Cloud:
    """Gives whatever is asked for; as a link it is always up."""

    is_leaving = False
    limits = SimpleNamespace(session_ttl_s=60.0)

    def __init__(self) -> None:
        self.streams: list[Stream] = []

    def open(self, max_tokens: int, fork_of: Any = None, fork_tokens: int = 0) -> Stream:
        self.streams.append(Stream(max_tokens, fork_tokens))
        return self.streams[-1]


class Bench:
    """Places on the integer model's engine, and what was kept there."""

    def __init__(self) -> None:
        self.engine = FakeDeviceEngine()
        self.cloud: Any = Cloud()
        self.places = Places(AtOnce(self.engine), self.cloud, ROOM, lambda: 0.0)

    async def keep(self, text: Sequence[int], num_reserved: int = 20) -> Place:
        """A finished generation's place."""
        async with aclosing(self.places.candidates(text, num_reserved)) as found:
            place = await anext(found)
        self.engine.input_rows(place.sequence, text, 0)
        self.places.keep(place, text, 2)
        return place

    async def tried(self, text: Sequence[int], code: FaultCode) -> list[Place]:
        """All candidates, each refused in turn."""
        tried = []
        async with aclosing(self.places.candidates(text, 20)) as places:
            async for place in places:
                tried.append(place)
                place.refused(SessionRefusedError(Fault(code, SessionId(1), 0.0, "")))
        return tried


async def test_behind_a_refused_session_that_the_prompt_continues_comes_an_empty_one() -> None:
    bench = Bench()
    kept = await bench.keep(TEXT)
    place, empty = await bench.tried([*TEXT, 9], FaultCode.CAPACITY)
    assert place is kept
    assert (place.num_cached_tokens, empty.num_cached_tokens) == (len(TEXT), 0)
    assert bench.engine.num_open == len(bench.places._kept) == 0


async def test_behind_a_refused_copy_comes_an_empty_place_and_the_origin_stays() -> None:
    bench = Bench()
    await bench.keep(TEXT)
    copy, empty = await bench.tried([1, 2, 9], FaultCode.UNKNOWN_SESSION)
    assert (copy.num_cached_tokens, empty.num_cached_tokens) == (2, 0)
    assert bench.engine.num_open == len(bench.places._kept) == 1


async def test_what_is_kept_is_given_up_for_the_last_candidate_of_a_full_cloud() -> None:
    bench = Bench()
    kept = await bench.keep(TEXT)
    empty, last = await bench.tried([9, 9, 9], FaultCode.CAPACITY)
    assert kept.stream.is_closed  # type: ignore[attr-defined]
    assert empty is not last
    assert bench.engine.num_open == len(bench.places._kept) == 0
    assert len(await bench.tried([9, 9, 9], FaultCode.CAPACITY)) == 1, "nothing is left to give up"


async def test_a_copy_that_takes_over_ends_its_origin_once_the_cloud_has_it() -> None:
    bench = Bench()
    kept = await bench.keep(TEXT, num_reserved=6)
    async with aclosing(bench.places.candidates([*TEXT, 9], 40)) as found:
        copy = await anext(found)
    assert copy.num_cached_tokens == len(TEXT)
    assert bench.engine.num_open == 2
    await bench.places.confirm(copy)
    assert kept.stream.is_closed  # type: ignore[attr-defined]
    assert bench.engine.num_open == 1


async def test_a_session_that_begins_elsewhere_than_was_asked_is_the_clouds_fault() -> None:
    bench = Bench()
    async with aclosing(bench.places.candidates(TEXT, 20)) as found:
        place = await anext(found)
    bench.cloud.streams[-1].num_cached_tokens = 3
    with pytest.raises(RemoteProtocolError, match="expected 0 cached tokens, got 3"):
        await bench.places.confirm(place)


async def test_a_place_whose_sequence_cannot_be_made_is_closed_in_the_cloud() -> None:
    bench = Bench()
    bench.engine.open = lambda: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    with pytest.raises(ZeroDivisionError):
        await bench.keep(TEXT)
    assert bench.cloud.streams[-1].is_closed
