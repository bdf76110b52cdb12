"""How long an answer waits for what, in jumping time: the whole device on a network in memory."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable

import aiohttp
import pytest

from device_runtime.generation.request import CloudUnavailableError
from device_runtime.link.tunnel import TunnelError
from process.sockets.memory import MemorySocket
from process.virtual_loop import VirtualLoop
from tests.support.fake_cloud import FakeCloud
from tests.support.fake_runtime import PROMPT, Bench, bench, expected, request, rest
from tests.support.link_errors import connection_key, handshake_error
from tests.support.memory_link import MemoryNetwork
from wire.messages import Fault, Message, Open, Opened, Reply, States

pytestmark = pytest.mark.event_loop("virtual")

Trouble = Callable[[Bench, MemoryNetwork], Awaitable[None]]

WANTED = request(PROMPT, 30)


def skip(seconds: float) -> None:
    """The device sleeps."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.skip(seconds)


async def run_through(trouble: Trouble, **settings: object) -> float:
    """An answer with trouble after its first tokens has the undisturbed ids; seconds it took."""

    cloud = FakeCloud(keep_tokens=96)
    async with bench(cloud, drafter="none", **settings) as it:
        stream = it.runtime.generate(WANTED, "test")
        ids = [token.id for token in (await anext(stream)).tokens]
        began_s = asyncio.get_running_loop().time()
        reading = asyncio.ensure_future(rest(stream))
        await trouble(it, it.network)
        assert ids + await reading == expected(WANTED)
        return asyncio.get_running_loop().time() - began_s


@pytest.mark.parametrize("seconds", [59.0, 75.0, 600.0])
async def test_a_cloud_that_computes_for_minutes_is_waited_for(seconds: float) -> None:
    async def compute(it: Bench, network: MemoryNetwork) -> None:
        it.cloud.going.clear()
        await asyncio.sleep(seconds)
        it.cloud.going.set()

    assert await run_through(compute) == pytest.approx(seconds, abs=2.0)


@pytest.mark.parametrize(("is_known", "num_recoveries"), [(True, 0), (False, 1)])
async def test_a_cloud_that_is_known_to_be_slow_is_asked_nothing_again(
    is_known: bool, num_recoveries: int
) -> None:
    """To open a session again costs a busy cloud what it had queued of it."""

    async with bench(FakeCloud(keep_tokens=96), drafter="none") as it:
        stream = it.runtime.generate(WANTED, "test")
        ids = [token.id for token in (await anext(stream)).tokens]
        for seconds in (40.0, 100.0) if is_known else (100.0,):
            it.cloud.going.clear()
            reading = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(seconds)
            it.cloud.going.set()
            ids += [token.id for token in (await reading).tokens]
        assert ids + await rest(stream) == expected(WANTED)
        assert stream.stats.num_recoveries == num_recoveries


@pytest.mark.parametrize("seconds", [8.0, 12.0, 25.0])
async def test_a_network_that_loses_everything_for_a_while_costs_that_while(seconds: float) -> None:
    async def swallow(it: Bench, network: MemoryNetwork) -> None:
        network.is_silent = True
        await asyncio.sleep(seconds)
        network.is_silent = False

    assert await run_through(swallow) < seconds + 11.0


async def test_a_silent_link_is_noticed_within_the_setting() -> None:
    async with bench() as it:
        network = it.network
        await asyncio.sleep(100.0)
        assert network.num_pings >= 10, "an idle link is asked for a sign of life"
        assert network.num_dials == 1
        network.is_silent = True
        await asyncio.sleep(10.0)
        assert not it.link.status.is_connected
        assert "nothing came from it for 10 s" in (it.link.status.reason or "")


@pytest.mark.parametrize("kind", [States, Reply, Open, Opened, Fault])
async def test_a_frame_that_is_lost_in_a_living_link_ends_no_answer(kind: type[Message]) -> None:
    """No TCP loses a frame, but a broken proxy may."""

    async def lose(it: Bench, network: MemoryNetwork) -> None:
        lost: list[Message] = []

        def swallows(message: Message) -> bool:
            if lost or not isinstance(message, kind):
                return False
            lost.append(message)
            return True

        network.swallow(swallows)
        if kind in (Open, Opened, Fault):
            # Only a session that is lost is opened again.
            network.cut()
        await asyncio.sleep(0)

    assert await run_through(lose) < 100.0


async def test_a_prompt_whose_chunks_are_all_lost_is_sent_again_on_another_connection() -> None:
    """All credit was lost with them, so that connection carries no rows any more."""

    cloud = FakeCloud(window_tokens=16, max_frame_tokens=4)
    async with bench(cloud, chunk_tokens=4, chunking="fixed") as it:
        network = it.network
        network.swallow(lambda message: isinstance(message, States) and network.num_dials < 2)
        assert await it.ids(WANTED) == expected(WANTED)
        assert network.num_dials == 2


@pytest.mark.parametrize("has_clock_run", [True, False])
async def test_a_device_that_slept_goes_on(has_clock_run: bool) -> None:
    async def sleep(it: Bench, network: MemoryNetwork) -> None:
        it.cloud.going.clear()
        await asyncio.sleep(0.1)
        # The cloud has given the socket up, and the goodbye was lost.
        network.is_silent = True
        if has_clock_run:
            skip(75.0)
        it.cloud.going.set()
        await asyncio.sleep(0.5)
        network.cut()
        network.is_silent = False

    assert await run_through(sleep) < 75.0 * has_clock_run + 15.0


async def test_a_device_that_slept_while_its_cloud_was_away_goes_on() -> None:
    async def sleep(it: Bench, network: MemoryNetwork) -> None:
        network.fails = ConnectionRefusedError()
        network.cut()
        await asyncio.sleep(5.0)
        skip(75.0)
        await asyncio.sleep(1.0)
        network.fails = None

    await run_through(sleep)


async def test_a_cloud_that_never_answers_an_opening_is_tried_again() -> None:
    async def hang(it: Bench, network: MemoryNetwork) -> None:
        network.hangs = True
        network.cut()
        await asyncio.sleep(22.0)
        assert network.num_dials >= 3
        assert "does not answer" in (it.link.status.reason or "")
        network.hangs = False

    assert await run_through(hang, reconnect_timeout_s=60.0) < 22.0 + 12.0


PASSING = [
    *(
        handshake_error(status)
        for status in (200, 302, 400, 401, 403, 404, 426, 429, 500, 502, 503)
    ),
    aiohttp.ClientConnectorCertificateError(connection_key(), ssl.SSLCertVerificationError("no")),
    aiohttp.ClientConnectorSSLError(connection_key(), ssl.SSLError("wrong version")),
    aiohttp.ClientConnectorDNSError(connection_key(), socket.gaierror(-2, "not known")),
    TunnelError("the proxy gave no tunnel"),
]


@pytest.mark.parametrize("seconds", [6.0, 20.0])
@pytest.mark.parametrize("failure", PASSING, ids=lambda error: type(error).__name__)
async def test_what_passes_on_a_link_that_has_worked_ends_no_answer(
    failure: Exception, seconds: float
) -> None:
    """A balancer without its backend, a captive portal, a name that is not known for a while."""

    async def fail(it: Bench, network: MemoryNetwork) -> None:
        network.fails = failure
        network.cut()
        await asyncio.sleep(seconds)
        network.fails = None

    assert await run_through(fail) < seconds + 6.0


@pytest.mark.parametrize("has_worked", [True, False])
async def test_what_has_lasted_or_was_so_from_the_start_is_tried_seldom(has_worked: bool) -> None:
    cloud = FakeCloud()
    await cloud.start()
    network = cloud.network
    assert network is not None
    network.fails = None if has_worked else handshake_error(404)
    link = cloud.make_link()
    link.start()
    await asyncio.sleep(1.0)
    network.fails = handshake_error(404)
    network.cut()
    num_dials = network.num_dials
    await asyncio.sleep(30.0)
    assert (network.num_dials - num_dials > 5) is has_worked
    await asyncio.sleep(10.0)
    num_dials = network.num_dials
    await asyncio.sleep(300.0)
    assert 9 <= network.num_dials - num_dials <= 10
    network.fails = None
    await asyncio.sleep(31.0)
    assert link.status.is_connected
    await link.close()


async def test_a_goodbye_that_nobody_takes_holds_nothing_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def hang(self: MemorySocket) -> None:
        await asyncio.Event().wait()

    async with bench() as it:
        monkeypatch.setattr(MemorySocket, "close", hang)
        began_s = asyncio.get_running_loop().time()
        await it.link.close()
        assert asyncio.get_running_loop().time() - began_s < 4.0


async def test_a_cloud_that_is_really_gone_ends_the_answer_with_the_reason() -> None:
    async def go(it: Bench, network: MemoryNetwork) -> None:
        network.fails = ConnectionRefusedError(111, "refused")
        network.cut()

    with pytest.raises(CloudUnavailableError, match="waited 30 s for the cloud to come back"):
        await run_through(go)
