"""A cloud that stops takes no new sessions: the device leaves it, and what is to begin waits."""

import asyncio

import pytest

from device_runtime.generation.request import CloudUnavailableError
from device_runtime.runtime.runtime import BLINK_S
from tests.support.event_loop import on_sockets_and_in_memory, settle, until
from tests.support.fake_runtime import KEEP_SOME, PROMPT, bench, expected, request, rest

pytestmark = pytest.mark.event_loop("virtual")

PATIENT_S = 60.0


@on_sockets_and_in_memory
async def test_an_idle_device_leaves_at_once_and_its_next_answer_comes_from_the_next_connection():
    async with bench(kept=KEEP_SOME, reconnect_timeout_s=PATIENT_S) as it:
        first = request(PROMPT, 4)
        await it.ids(first)
        assert it.num_kept == 1
        it.cloud.is_draining = True
        # Its beginning is kept in the cloud that stops, where it cannot be forked any more.
        wanted = request([*PROMPT[:18], 1, 2], 6)
        generation = it.runtime.generate(wanted, "test")
        reading = asyncio.ensure_future(rest(generation))
        await until(lambda: it.link.num_connections > 1)
        it.cloud.is_draining = False
        assert await reading == expected(wanted)
        assert generation.stats.num_reused_tokens == 0
        await it.freed(num_kept=1)


async def test_running_answers_end_where_they_are_before_the_device_leaves():
    async with bench(kept=KEEP_SOME, reconnect_timeout_s=PATIENT_S) as it:
        old, new = request(PROMPT, 30), request(PROMPT[:7], 8)
        running = it.runtime.generate(old, "old")
        ids = [token.id for token in (await anext(running)).tokens]
        it.cloud.is_draining = True
        waiting = asyncio.ensure_future(it.ids(new))
        await until(lambda: it.link.is_leaving)
        late = asyncio.ensure_future(it.ids(new))
        await settle()
        num_asked = len(it.cloud.opens)
        assert it.link.num_connections == 1
        assert not waiting.done()
        assert ids + await rest(running) == expected(old)
        assert running.stats.num_recoveries == 0
        assert it.num_kept == 0, "nothing is kept there"
        await until(lambda: it.link.num_connections > 1)
        it.cloud.is_draining = False
        assert await asyncio.gather(waiting, late) == [expected(new)] * 2
        assert num_asked == 2, "a cloud that is left is not asked again"
        await it.freed(it.num_kept)


async def test_a_recovering_answer_waits_for_the_next_connection_too():
    async with bench(reconnect_timeout_s=PATIENT_S) as it:
        wanted = request(PROMPT, 20)
        stream = it.runtime.generate(wanted, "test")
        ids = [token.id for token in (await anext(stream)).tokens]
        it.cloud.is_draining = True
        it.cloud.vanish()
        reading = asyncio.ensure_future(rest(stream))
        await until(lambda: it.link.num_connections > 2)
        it.cloud.is_draining = False
        assert ids + await reading == expected(wanted)
        await it.freed()


async def test_a_request_that_meets_a_link_just_lost_waits_a_moment_for_the_next_one():
    async with bench(reconnect_timeout_s=PATIENT_S) as it:
        it.cloud.vanish()
        await until(lambda: not it.link.status.is_connected)
        wanted = request(PROMPT, 4)
        assert await it.ids(wanted) == expected(wanted)
        await it.freed()


@pytest.mark.parametrize("patience_s", [0.0, 10.0])
async def test_a_link_that_stays_down_is_an_error_soon_and_later_at_once(patience_s):
    async with bench(reconnect_timeout_s=patience_s) as it:
        await it.cloud.stop()
        await until(lambda: not it.link.status.is_connected)
        clock = asyncio.get_running_loop().time
        for waits_s in (min(BLINK_S, patience_s), 0.0):
            asked_s = clock()
            with pytest.raises(CloudUnavailableError, match="cloud at"):
                await it.ids(request(PROMPT, 4))
            assert clock() - asked_s == pytest.approx(waits_s)
            await asyncio.sleep(patience_s)
        assert not it.link.was_up_within(patience_s)
        assert it.runtime.admission.num_waiting == it.runtime.admission.num_running == 0


# The time may end while the link is left, or while the next connection refuses the session.
@pytest.mark.parametrize(
    ("patience_s", "reason"),
    [
        (0.0, "^the cloud is shutting down"),
        (30.0, "waited 30 s for the cloud to come back: the cloud .*is shutting down"),
        (31.5, "waited 31.5 s for the cloud to come back: the cloud .*is shutting down"),
    ],
)
async def test_a_cloud_that_drains_for_too_long_is_an_error_that_says_so(patience_s, reason):
    async with bench(reconnect_timeout_s=patience_s) as it:
        it.cloud.is_draining = True
        with pytest.raises(CloudUnavailableError, match=reason):
            await it.ids(request(PROMPT, 4))
        await it.freed()


async def test_a_cloud_that_drains_is_not_connected_to_in_a_hurry():
    async with bench(reconnect_timeout_s=60.0) as it:
        it.cloud.is_draining = True
        with pytest.raises(CloudUnavailableError):
            await it.ids(request(PROMPT, 4))
        assert it.link.num_connections < 30, "the pause doubles up to five seconds"
