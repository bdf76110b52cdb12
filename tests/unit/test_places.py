"""Kept sessions are given up in time, under a clock that the test moves."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from device_runtime.engines.engine import Workers
from device_runtime.link.carried import Carried
from device_runtime.link.link import Link
from device_runtime.link.session import LinkSession, SessionName
from device_runtime.runtime.place import Place
from device_runtime.runtime.places import Places
from device_runtime.session.prefix_cache import PrefixCacheLimits

pytestmark = pytest.mark.event_loop("virtual")

ROOM = PrefixCacheLimits(max_sessions=4, max_tokens=1000, min_shared_tokens=1)


class Stream:
    """A session's end of the link that remembers when it was closed."""

    is_live = True
    is_lost = False
    name = SessionName(bytes(16), 20)
    carried = Carried()

    def __init__(self) -> None:
        self.closed_s: float | None = None

    def close(self) -> None:
        self.closed_s = asyncio.get_running_loop().time()


class Bench:
    """Places whose link and engine are stand-ins."""

    def __init__(self, session_ttl_s: float) -> None:
        self.link: Any = SimpleNamespace(
            is_leaving=False, limits=SimpleNamespace(session_ttl_s=session_ttl_s)
        )
        self._engine: Any = SimpleNamespace(run_later=lambda call: None)
        self.places = Places(
            cast(Workers, self._engine),
            cast(Link, self.link),
            ROOM,
            asyncio.get_running_loop().time,
        )

    def keep(self) -> Stream:
        stream = Stream()
        place = Place(
            cast(Workers, self._engine),
            cast(Link, self.link),
            cast(LinkSession, cast(Any, stream)),
        )
        self.places.keep(place, [1, 2, 3], 1)
        return stream


@pytest.mark.parametrize("session_ttl_s", [0.5, 60.0, 3600.0])
async def test_a_kept_session_is_closed_before_the_cloud_forgets_it(session_ttl_s: float) -> None:
    bench = Bench(session_ttl_s)
    first = bench.keep()
    await asyncio.sleep(session_ttl_s / 4)
    second = bench.keep()
    await asyncio.sleep(10 * session_ttl_s)
    assert len(bench.places._kept) == 0
    assert first.closed_s is not None
    assert second.closed_s is not None
    kept_s = (first.closed_s, second.closed_s - session_ttl_s / 4)
    # Long enough for a reader's next question, and a tenth earlier than the cloud at least.
    assert all(session_ttl_s / 2 < seconds < 0.9 * session_ttl_s for seconds in kept_s)


async def test_a_session_of_a_cloud_that_stops_is_not_kept() -> None:
    bench = Bench(60.0)
    bench.link.is_leaving = True
    assert bench.keep().closed_s == 0.0
    assert len(bench.places._kept) == 0


async def test_a_session_that_the_cloud_has_ended_is_given_up_at_the_next_look() -> None:
    bench = Bench(60.0)
    lost, alive = bench.keep(), bench.keep()
    lost.is_live = False
    bench.places.expire()
    assert lost.closed_s == 0.0
    assert alive.closed_s is None
    assert len(bench.places._kept) == 1


async def test_a_session_whose_socket_is_gone_is_kept_as_long_as_the_cloud_keeps_it() -> None:
    bench = Bench(60.0)
    lost = bench.keep()
    lost.is_live, lost.is_lost = False, True
    await asyncio.sleep(40.0)
    bench.places.expire()
    assert lost.closed_s is None
    await asyncio.sleep(14.0)
    assert lost.closed_s is not None
