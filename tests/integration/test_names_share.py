"""What a name that has reached a quota costs another: verifications, quiet and attacked.

Under virtual time, so that what is counted is the engine's time and nothing else: a step takes
25 ms and a little for each row, as on a GPU. `python -m bench.hostile --names` measures the same on
processes and sockets.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest

from bench.measures import percentile
from cloud_server.core.names.quota import NO_QUOTA, Quota
from cloud_server.core.names.tokens import Entry, Name, digest_of, tokens_of
from cloud_server.daemon.rhythm import NamesNow
from process.sockets.memory import MemorySocket
from tests.support.fake_cloud import FakeCloud
from tests.support.fake_model import shallow_rows
from tests.support.memory_cloud import MemoryCloud
from tests.support.memory_link import MemoryNetwork
from wire.codec import decode, encode
from wire.errors import FaultCode
from wire.messages import (
    Codec,
    Credit,
    Dtype,
    Fault,
    Message,
    Open,
    Opened,
    Reply,
    SessionId,
    States,
    Want,
    Welcome,
)

pytestmark = pytest.mark.event_loop("virtual")

FIXED_S, ROW_S, AWAY_S = 0.025, 0.0002, 0.02
PERIOD_S = 20.0
LEAD_IN_S = 2.0
NUM_CONNECTIONS = 50
MOST_DELAYED = 1.2
RATE = 200


class Peer:
    """A device that keeps to its credit."""

    def __init__(self, end: MemorySocket) -> None:
        self._end = end
        self._num_sent = 0
        self._limit = 0
        self.refusals: list[FaultCode] = []

    async def greet(self, name: str) -> None:
        hello = FakeCloud().config().hello()
        await self.send(replace(hello, credential=f"token of {name}".encode()))
        message = await self.receive()
        if not isinstance(message, Welcome):
            raise ConnectionError(str(message))
        self._limit = message.credit_limit_tokens

    async def send(self, message: Message) -> None:
        await self._end.send(encode(message))

    async def receive(self) -> Message:
        """The next message that is no Credit; refusals are noted."""
        while True:
            frame = await self._end.receive()
            if frame is None:
                raise ConnectionError
            message = decode(frame)
            if isinstance(message, Credit):
                self._limit = message.limit_tokens
                continue
            if isinstance(message, Fault):
                self.refusals.append(message.code)
            return message

    async def open(self, number: int, key: int) -> Message:
        await self.send(Open(SessionId(number), key.to_bytes(16, "little"), 32))
        return await self.receive()

    async def rows(self, number: int, num_rows: int, want: Want = Want.ALL) -> None:
        """Rows from the first position on."""
        while self._limit - self._num_sent < num_rows:
            await self.receive()
        self._num_sent += num_rows
        place = (SessionId(number), 0, 0, num_rows, Dtype.FP32, Codec.RAW, want)
        payload = shallow_rows([1] * num_rows, 0).astype("<f4").tobytes()
        await self.send(States(*place, payload))


@asynccontextmanager
async def peer_of(cloud: MemoryCloud, name: str) -> AsyncIterator[Peer]:
    async with MemoryNetwork(cloud).dial() as end:
        peer = Peer(end)
        await peer.greet(name)
        yield peer


async def verifications(cloud: MemoryCloud, name: str, seconds: float) -> list[float]:
    """How long each of a row of verifications takes, with pauses as of a link and a device."""
    clock, times_s = asyncio.get_running_loop().time, []
    async with peer_of(cloud, name) as peer:
        assert isinstance(await peer.open(1, 1_000_000), Opened)
        end_s = clock() + seconds
        while clock() < end_s:
            await asyncio.sleep(AWAY_S)
            begun_s = clock()
            await peer.rows(1, 4)
            assert isinstance(await peer.receive(), Reply)
            times_s.append(clock() - begun_s)
    return times_s


async def flood(cloud: MemoryCloud, key: int) -> None:
    """One connection that sends verifications and prompts as fast as it may."""
    async with peer_of(cloud, "hog") as peer:
        await peer.open(1, key)
        while True:
            await peer.rows(1, 4 if key % 2 else 8, Want.ALL if key % 2 else Want.NONE)


async def ask(cloud: MemoryCloud, key: int) -> None:
    """One connection that asks for sessions on and on, and runs rows where it has one."""
    async with peer_of(cloud, "hog") as peer:
        number = 0
        while True:
            number += 1
            if isinstance(await peer.open(number, key * 10_000 + number), Opened):
                await peer.rows(number, 8)
                await peer.receive()


async def crowd(cloud: MemoryCloud, key: int) -> None:
    """One that asks for a session until it has one, and floods that."""
    async with peer_of(cloud, "hog") as peer:
        number = 1
        while not isinstance(await peer.open(number, key), Opened):
            number += 1
        while True:
            await peer.rows(number, 4)


async def knock(cloud: MemoryCloud, key: int) -> None:
    """One that wants to come in on and on."""
    while True:
        with suppress(ConnectionError):
            async with peer_of(cloud, "hog"):
                await asyncio.Event().wait()


Attack = Callable[[MemoryCloud, int], Awaitable[None]]


def names_of(quota: Quota) -> Callable[[], NamesNow]:
    def entry(name: str, quota: Quota) -> Entry:
        return Entry(Name(name), digest_of(f"token of {name}"), 0.0, quota)

    tokens = tokens_of([entry("hog", quota), entry("guest", NO_QUOTA)])
    clock = asyncio.get_running_loop().time
    return lambda: NamesNow(tokens, 1e9 + clock())


async def p99_ratio(quota: Quota, attacks: Sequence[Attack]) -> tuple[float, MemoryCloud]:
    """The 99th percentile of the guest's verifications under attack, by that of a quiet cloud."""
    cloud = MemoryCloud(FIXED_S, ROW_S, names=names_of(quota), max_lanes=0)
    quiet_s = await verifications(cloud, "guest", PERIOD_S)
    attackers = [
        asyncio.create_task(attack(cloud, 1 + number))
        for attack in attacks
        for number in range(NUM_CONNECTIONS)
    ]
    await asyncio.sleep(LEAD_IN_S)
    attacked_s = await verifications(cloud, "guest", PERIOD_S)
    for task in attackers:
        task.cancel()
    ended = await asyncio.gather(*attackers, return_exceptions=True)
    assert all(isinstance(each, asyncio.CancelledError | ConnectionError) for each in ended)
    return percentile(attacked_s, 99) / percentile(quiet_s, 99), cloud


@pytest.mark.parametrize(
    ("quota", "attacks"),
    [
        (Quota(rows_per_s=RATE), [flood]),
        (Quota(tokens_per_day=64), [flood]),
        (Quota(tokens_per_day=64), [ask]),
        (Quota(kv_tokens=32, rows_per_s=RATE), [ask]),
        (Quota(connections=50, rows_per_s=RATE), [flood, knock]),
        (Quota(sessions=8), [crowd]),
        (Quota(kv_tokens=300), [crowd]),
        (Quota(connections=8), [flood, knock]),
    ],
    ids=[
        *("rows a second", "rows of a day", "sessions of a day", "sessions", "connections"),
        *("busy sessions", "busy positions", "busy connections"),
    ],
)
async def test_a_quota_that_one_name_reaches_hardly_delays_another(
    quota: Quota, attacks: list[Attack]
) -> None:
    ratio, cloud = await p99_ratio(quota, attacks)
    figures = cloud.daemon.name_figures()
    assert ratio <= MOST_DELAYED
    hog = figures[Name("hog")]
    if quota.tokens_per_day is not None:
        assert hog.num_rows <= quota.tokens_per_day
    elif quota.rows_per_s is None:
        assert hog.num_rows > 8 * PERIOD_S, "who insists is not shut out"
    else:
        assert hog.num_rows <= RATE * (PERIOD_S + LEAD_IN_S + 1) + 64, "its quota holds"
        is_busy = attacks[0] is flood
        assert hog.num_rows >= is_busy * RATE * PERIOD_S / 2, "and is had: nobody is shut out"
    await cloud.stop()


async def test_without_a_quota_the_same_attack_delays_more() -> None:
    ratio, cloud = await p99_ratio(NO_QUOTA, [flood])
    assert ratio > MOST_DELAYED
    await cloud.stop()


async def test_who_yields_has_his_rate_when_nobody_else_is_there() -> None:
    cloud = MemoryCloud(FIXED_S, ROW_S, names=names_of(Quota(rows_per_s=RATE)), max_lanes=0)
    flooding = [asyncio.create_task(flood(cloud, 1 + number)) for number in range(4)]
    await asyncio.sleep(PERIOD_S)
    num_rows = cloud.daemon.name_figures()[Name("hog")].num_rows
    assert 0.9 * RATE * PERIOD_S <= num_rows <= RATE * (PERIOD_S + 1) + 64
    for task in flooding:
        task.cancel()
    await asyncio.gather(*flooding, return_exceptions=True)
    await cloud.stop()
