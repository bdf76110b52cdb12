"""How long a generation waits for its cloud, under a clock that the test moves."""

import asyncio
import random
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import pytest

from device_runtime.generation.request import CloudUnavailableError
from device_runtime.link.config import Patience
from device_runtime.link.link import Link
from device_runtime.link.session import LinkLostError, SessionRefusedError
from device_runtime.runtime.outage import MAX_RECOVERIES, Outage
from process.virtual_loop import VirtualLoop
from tests.support.fake_cloud import fault
from wire.errors import FaultCode

pytestmark = pytest.mark.event_loop("virtual")

LOST = LinkLostError("lost the cloud")
PATIENCE_S = 10.0


class Bench:
    """An outage over a link that is up again when the test says so."""

    def __init__(self, timeout_s: float = PATIENCE_S) -> None:
        self._clock = asyncio.get_running_loop().time
        self._up_s = 0.0
        link: Any = SimpleNamespace(
            connected=self._connected,
            status=SimpleNamespace(reason="cannot reach the cloud"),
            patience=Patience(),
        )
        self.outage = Outage(cast(Link, link), timeout_s, self._clock, random.Random(0))

    async def _connected(self) -> None:
        await asyncio.sleep(max(0.0, self._up_s - self._clock()))

    async def over(self, down_s: float, failure: CloudUnavailableError = LOST) -> float:
        """Seconds until the generation goes on, when the link is down for `down_s` from now."""
        began_s = self._clock()
        self._up_s = began_s + down_s

        async def attempt() -> float:
            return self._clock() - began_s

        return await self.outage.over(failure, attempt)


async def test_an_answer_begins_the_patience_anew() -> None:
    bench = Bench()
    for _ in range(5):
        assert await bench.over(0.6 * PATIENCE_S) == pytest.approx(0.6 * PATIENCE_S, abs=1.0)
        bench.outage.answered()
        bench.outage.advanced()
        await asyncio.sleep(PATIENCE_S)


async def test_outages_without_an_answer_between_them_share_one_patience() -> None:
    bench = Bench()
    await bench.over(0.6 * PATIENCE_S)
    bench.outage.advanced()
    with pytest.raises(CloudUnavailableError, match=r"waited 10 s.*cannot reach the cloud"):
        await bench.over(0.6 * PATIENCE_S)


@pytest.mark.parametrize(("down_s", "is_over"), [(9.0, False), (11.0, True)])
async def test_a_lost_link_is_waited_for_as_long_as_the_setting_says(
    down_s: float, is_over: bool
) -> None:
    bench, loop = Bench(), asyncio.get_running_loop()
    if not is_over:
        assert await bench.over(down_s) == pytest.approx(down_s, abs=0.5)
        return
    with pytest.raises(CloudUnavailableError, match="waited 10 s"):
        await bench.over(down_s)
    assert loop.time() == pytest.approx(PATIENCE_S)


@pytest.mark.parametrize(
    ("announced_s", "down_s", "is_over"),
    [(40.0, 49.0, False), (40.0, 51.0, True), (1e6, 909.0, False), (1e6, 911.0, True)],
)
async def test_a_cloud_that_says_how_long_is_waited_for_that_much_longer(
    announced_s: float, down_s: float, is_over: bool
) -> None:
    bench = Bench()
    refusal = SessionRefusedError(fault(FaultCode.DRAINING, announced_s))
    if not is_over:
        assert await bench.over(down_s, refusal) == pytest.approx(down_s, abs=0.5)
        return
    with pytest.raises(CloudUnavailableError, match="waited"):
        await bench.over(down_s, refusal)


async def test_without_patience_nothing_is_waited_for() -> None:
    bench = Bench(timeout_s=0.0)
    refusal = SessionRefusedError(fault(FaultCode.INTERNAL, 30.0))
    with pytest.raises(CloudUnavailableError) as caught:
        await bench.over(0.0, refusal)
    assert caught.value is refusal
    assert asyncio.get_running_loop().time() == 0.0


async def test_recoveries_in_a_row_are_counted_until_the_generation_gets_on() -> None:
    bench = Bench(timeout_s=1000.0)
    for _ in range(2):
        for _ in range(MAX_RECOVERIES):
            await bench.over(0.1)
            bench.outage.answered()
        bench.outage.advanced()
    for _ in range(MAX_RECOVERIES):
        await bench.over(0.1)
    with pytest.raises(LinkLostError):
        await bench.over(0.1)


@pytest.mark.parametrize("code", [FaultCode.POSITION_MISMATCH, FaultCode.UNKNOWN_SESSION])
async def test_recoveries_without_progress_back_off(code: FaultCode) -> None:
    bench = Bench(timeout_s=1000.0)
    refusal = SessionRefusedError(fault(code))
    took_s = [await bench.over(0.0, refusal) for _ in range(MAX_RECOVERIES)]
    assert took_s[0] == 0.0, "what heals by a replay is replayed at once"
    assert sum(took_s) > 5.0, "never eight of them in a second"
    assert max(took_s[:3]) < 2.0
    bench.outage.advanced()
    assert await bench.over(0.0, refusal) == 0.0


async def test_a_cloud_that_is_too_busy_is_waited_for_and_asked_ever_more_seldom() -> None:
    """It ends a session whose rows waited for too long, and again when that was replayed."""

    bench = Bench()
    busy = SessionRefusedError(fault(FaultCode.DEADLINE_EXCEEDED, 0.5))
    num_asked = 0
    while asyncio.get_running_loop().time() < 300.0:
        await bench.over(0.0, busy)
        num_asked += 1
        await asyncio.sleep(4.0)
    assert 300.0 / 10.0 < num_asked < 300.0 / 6.0
    bench.outage.answered()
    bench.outage.advanced()
    assert await bench.over(0.0, LOST) == 0.0


async def test_a_cloud_that_is_too_busy_for_ever_ends_the_answer() -> None:
    bench = Bench()

    async def try_for_ever() -> None:
        while True:
            await bench.over(0.0, SessionRefusedError(fault(FaultCode.DEADLINE_EXCEEDED, 0.5)))
            await asyncio.sleep(4.0)

    with pytest.raises(CloudUnavailableError, match="waited"):
        await try_for_ever()
    assert 900.0 < asyncio.get_running_loop().time() < 960.0


async def test_a_machine_that_slept_has_not_waited() -> None:
    bench = Bench()
    waiting = asyncio.ensure_future(bench.over(0.8 * PATIENCE_S + 75.0))
    await asyncio.sleep(0.2 * PATIENCE_S)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.skip(75.0)
    assert await waiting == pytest.approx(0.8 * PATIENCE_S + 75.0)


async def test_what_an_attempt_takes_is_no_wait_for_a_link() -> None:
    bench = Bench()
    failures = iter([LOST, LOST])

    async def attempt() -> str:
        await asyncio.sleep(2 * PATIENCE_S)
        for failure in failures:
            raise failure
        return "done"

    assert await bench.outage.over(LOST, attempt) == "done"


class Attempts:
    """Fails as often as told, and remembers when it was tried."""

    def __init__(self, failures: list[CloudUnavailableError]) -> None:
        self._failures = failures
        self.tried_s: list[float] = []

    async def __call__(self) -> None:
        self.tried_s.append(asyncio.get_running_loop().time())
        if self._failures:
            raise self._failures.pop(0)


def refusal(code: FaultCode, retry_after_s: float = 0.0) -> SessionRefusedError:
    return SessionRefusedError(fault(code, retry_after_s))


@pytest.mark.parametrize("code", [FaultCode.UNKNOWN_SESSION, FaultCode.POSITION_MISMATCH])
async def test_a_session_that_is_gone_is_opened_again_at_once_and_then_ever_more_seldom(
    code: FaultCode,
) -> None:
    bench, attempts = Bench(timeout_s=60.0), Attempts([refusal(code) for _ in range(5)])
    await bench.outage.over(refusal(code), attempts)
    pauses = [after - before for before, after in pairwise([0.0, *attempts.tried_s])]
    assert len(pauses) == 6
    assert pauses[0] == 0.0
    assert all(0.1 < pause <= 5.0 for pause in pauses[1:])
    # Half of each is by chance.
    assert pauses[-1] > pauses[1]


async def test_an_attempt_waits_as_long_as_the_cloud_says() -> None:
    bench = Bench(timeout_s=60.0)
    attempts = Attempts([refusal(FaultCode.CAPACITY, 9.0)])
    await bench.outage.over(refusal(FaultCode.CAPACITY, 7.0), attempts)
    first_s, second_s = attempts.tried_s
    assert 7.0 <= first_s < 12.0
    assert 9.0 <= second_s - first_s < 14.0


@pytest.mark.parametrize(
    ("failure", "heals"),
    [
        (LOST, True),
        (refusal(FaultCode.DRAINING), True),
        (refusal(FaultCode.UNKNOWN_SESSION), True),
        (refusal(FaultCode.CAPACITY, 1.0), True),
        (refusal(FaultCode.CAPACITY), False),
        (refusal(FaultCode.CONTEXT_EXCEEDED), False),
        (CloudUnavailableError("no"), False),
    ],
)
async def test_only_what_may_heal_is_tried_again(
    failure: CloudUnavailableError, heals: bool
) -> None:
    bench, attempts = Bench(), Attempts([])
    if heals:
        await bench.outage.over(failure, attempts)
        assert len(attempts.tried_s) == 1
        return
    with pytest.raises(CloudUnavailableError) as caught:
        await bench.outage.over(failure, attempts)
    assert caught.value is failure
    assert attempts.tried_s == []
