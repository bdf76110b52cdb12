"""What the soak says of what it saw."""

import asyncio
import contextlib
from collections import Counter

import aiohttp
import pytest
from aiohttp import web

from bench.soak.__main__ import report
from bench.soak.clients import Answered, Clients, Tally, Wanted, ask, undisturbed, wanted
from bench.soak.faults import QUICK, Faults, Scene
from bench.soak.programs import Footprint
from bench.soak.relay import Relay
from bench.soak.running import Outcome
from bench.soak.watching import slope_kib

ONE = Wanted("Once", 4, 0.0, 7)


def test_a_slope_is_that_of_the_last_two_thirds() -> None:
    grown = [(60.0 * n, Footprint(1000 if n < 3 else 100 + 5 * n, 1, 1)) for n in range(9)]
    assert slope_kib(grown) == pytest.approx(5.0)
    assert slope_kib(grown[:1]) == 0.0


def test_the_same_seed_asks_the_same() -> None:
    assert wanted(3, 40) == wanted(3, 40) != wanted(4, 40)
    assert {one.temperature for one in wanted(3, 40)} == {0.0, 1.0}


def test_a_receipt_names_what_is_wrong() -> None:
    outcome = Outcome(Tally(num_right=2), Counter({"cut": 3}), wrong=["a wrong text: x"])
    text = "\n".join(report(outcome))
    assert "3 x cut" in text
    assert "WRONG: a wrong text: x" in text
    assert "as it should be" in report(Outcome(Tally(), Counter()))[-1]


class Endpoint:
    """Answers with scripted lines of events."""

    def __init__(self, lines: list[bytes]) -> None:
        self.lines = lines

    async def answer(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for line in self.lines:
            await response.write(line)
        return response


@pytest.fixture
async def endpoint():
    it = Endpoint([])
    app = web.Application()
    app.router.add_post("/v1/completions", it.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    it.url = "http://{}:{}".format(*runner.addresses[0])
    yield it
    await runner.cleanup()


def event(text: str) -> bytes:
    return b'data: {"choices": [{"text": "%s"}]}\n\n' % text.encode()


DONE = b"data: [DONE]\n\n"
FAILED = b'data: {"error": {"message": "waited 3 s", "code": "cloud_unavailable"}}\n\n'


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([event("a"), event("b"), DONE], {"num_right": 1}),
        ([event("a"), event("x"), DONE], {"wrong": 1}),
        ([event("a"), DONE], {"wrong": 1}),
        ([event("x"), FAILED], {"wrong": 1}),
        ([event("a"), FAILED], {"failures": 1}),
        ([event("a")], {"failures": 1}),
    ],
)
async def test_texts_are_compared_with_the_right_ones(endpoint, lines, expected) -> None:
    endpoint.lines = lines
    tally = Tally()
    clients = Clients(endpoint.url, {ONE: "ab"}, tally, lambda: 0)
    async with aiohttp.ClientSession() as http:
        await clients._one(http, ONE, None)
    found = {
        "num_right": tally.num_right,
        "wrong": len(tally.wrong),
        "failures": tally.failures.total(),
    }
    assert {name: number for name, number in found.items() if number} == expected


async def test_an_answer_that_its_client_leaves_is_no_failure(endpoint) -> None:
    endpoint.lines = [event("a"), event("b"), DONE]
    async with aiohttp.ClientSession() as http:
        assert await ask(http, endpoint.url, ONE, leaves_after=1) == Answered("a", "left")
    assert await undisturbed(endpoint.url, [ONE]) == {ONE: "ab"}


async def test_a_relay_carries_cuts_and_swallows() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(100):
                writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    relay = Relay(server.sockets[0].getsockname()[1])
    await relay.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
    writer.write(b"one")
    assert await reader.readexactly(3) == b"one"
    relay.is_hole = True
    writer.write(b"two")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await reader.read(3)
    assert relay.cut() == 2
    with pytest.raises(ConnectionError):
        await reader.readexactly(1)
    writer.close()
    await relay.close()
    server.close()


def test_hostile_neighbours_are_one_kind_of_fault_among_others(tmp_path) -> None:
    names = ("cut", "hole", *(f"hostile: {number}" for number in range(20)))
    faults = Faults(Scene(None, None, None, tmp_path, tmp_path, QUICK), seed=1)
    found = Counter(faults._next(names).partition(":")[0] for _ in range(3000))
    assert set(found) == {"cut", "hole", "hostile"}
    assert all(900 < number < 1100 for number in found.values())
