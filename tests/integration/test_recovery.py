"""Streams go on after a lost socket or a lost cloud."""

import asyncio
import random
import socket
from dataclasses import replace
from functools import partial

import pytest

from device_runtime.generation.request import CloudUnavailableError, SamplingParams
from device_runtime.runtime.outage import MAX_RECOVERIES
from tests.support.broken_link import broken_link
from tests.support.event_loop import is_virtual, on_sockets_and_in_memory, settle, until
from tests.support.fake_cloud import IMPATIENT, FakeCloud, fault
from tests.support.fake_model import FakeDeviceEngine
from tests.support.fake_runtime import KEEP_SOME, PROMPT, bench, expected, request, rest
from wire.errors import FaultCode

pytestmark = pytest.mark.event_loop("virtual")

REPETITIVE = SamplingParams(seed=7, logit_bias={3: 30.0, 5: 31.0})
PATIENT_S = 60.0


def sometimes(seed):
    """Vanishes at a seeded share of the frames, as often in a row as a generation bears."""
    draws, num_left = random.Random(seed), MAX_RECOVERIES

    def vanishing(_):
        nonlocal num_left
        if num_left == 0 or draws.random() > 0.1:
            return None
        num_left -= 1
        return draws.choice(["unseen", "unanswered"])

    return vanishing


@pytest.mark.parametrize("num_output_layers", [0, 2])
@pytest.mark.parametrize("keep_tokens", [0, 11, 96])
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_streams_go_on_with_the_same_ids_however_often_the_cloud_is_lost(
    seed, keep_tokens, num_output_layers
):
    cloud = FakeCloud(vanish_on=sometimes(seed), keep_tokens=keep_tokens)
    engine = FakeDeviceEngine(num_output_layers)
    async with bench(cloud, engine, chunk_tokens=6, reconnect_timeout_s=PATIENT_S) as it:
        requests = [
            request(PROMPT[:length], 50, sampling=sampling)
            for length, sampling in ((20, REPETITIVE), (7, SamplingParams(seed=seed)))
        ]
        came = await asyncio.gather(*(it.ids(wanted) for wanted in requests))
        assert came == [expected(wanted, num_output_layers) for wanted in requests]
        assert it.cloud.opens[-1].session > 0
        assert len(it.cloud.opens) > len(requests), "the cloud was never lost"
        await it.freed()


@on_sockets_and_in_memory
async def test_a_cloud_that_kept_the_session_gets_nothing_twice_but_the_lost_frame():
    cloud = FakeCloud(keep_tokens=96)
    async with bench(cloud, drafter="none") as it:
        wanted = request(PROMPT, 10)
        stream = it.runtime.generate(wanted, "test")
        ids = [token.id for token in (await anext(stream)).tokens]
        it.cloud.vanish_after_frames = len(it.cloud.frames) + 3
        ids += [token.id async for emission in stream for token in emission.tokens]
        assert ids == expected(wanted)
        assert it.cloud.opens[0].key == it.cloud.opens[1].key
        # The prompt, nine rounds of one row, and the lost one again.
        assert sum(frame.num_rows for frame in it.cloud.frames) == len(PROMPT) + 9 + 1
        assert stream.stats.num_recoveries == 1
        assert 0 < stream.stats.recovery_s < stream.stats.total_s


@pytest.mark.parametrize(
    "refusal",
    [
        fault(FaultCode.UNKNOWN_SESSION),
        fault(FaultCode.POSITION_MISMATCH),
        fault(FaultCode.DEADLINE_EXCEEDED, 0.01),
        fault(FaultCode.INTERNAL, 0.01),
    ],
)
async def test_a_session_that_the_cloud_gave_up_is_replayed(refusal):
    async with bench(reconnect_timeout_s=PATIENT_S) as it:
        wanted = request(PROMPT, 10)
        stream = it.runtime.generate(wanted, "test")
        ids = [token.id for token in (await anext(stream)).tokens]
        num_opens = len(it.cloud.opens)
        it.cloud.refuse_states = refusal
        reading = asyncio.ensure_future(rest(stream))
        await until(lambda: len(it.cloud.opens) > num_opens)
        it.cloud.refuse_states = None
        assert ids + await reading == expected(wanted)
        await it.freed()


async def test_a_full_cloud_is_asked_again_until_it_takes_the_session():
    async with bench(reconnect_timeout_s=PATIENT_S) as it:
        wanted = request(PROMPT, 10)
        stream = it.runtime.generate(wanted, "test")
        ids = [token.id for token in (await anext(stream)).tokens]
        it.cloud.refuse_open = [
            fault(FaultCode.DRAINING, 0.01),
            fault(FaultCode.CAPACITY, 0.01),
        ]
        it.cloud.vanish()
        assert ids + await rest(stream) == expected(wanted)
        assert not it.cloud.refuse_open
        await it.freed()


async def test_a_session_that_never_fits_again_ends_its_stream_at_once():
    async with bench(reconnect_timeout_s=PATIENT_S) as it:
        stream = it.runtime.generate(request(PROMPT, 10), "test")
        await anext(stream)
        it.cloud.refuse_open = [fault(FaultCode.CAPACITY)]
        it.cloud.vanish()
        with pytest.raises(CloudUnavailableError, match="CAPACITY"):
            await rest(stream)
        await it.freed()


@on_sockets_and_in_memory
async def test_a_cloud_gone_for_longer_than_the_bound_ends_the_stream_with_the_reason():
    patience_s = 30.0 if is_virtual() else 0.05
    async with bench(reconnect_timeout_s=patience_s) as it:
        stream = it.runtime.generate(request(PROMPT, 60), "test")
        await anext(stream)
        await it.cloud.stop()
        with pytest.raises(CloudUnavailableError, match=f"waited {patience_s:g} s.*cannot reach"):
            await rest(stream)
        await it.cloud.start()
        await until(lambda: it.runtime.ready() is None)
        assert await it.ids(request(PROMPT)) == expected(request(PROMPT))
        await it.freed()


async def test_every_outage_after_an_answer_has_the_whole_patience():
    """Each takes two thirds of it."""
    async with bench(reconnect_timeout_s=PATIENT_S) as it:
        wanted = request(PROMPT, 20)
        stream = it.runtime.generate(wanted, "test")
        ids = [token.id for token in (await anext(stream)).tokens]
        for _ in range(4):
            await it.cloud.stop()
            reading = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(PATIENT_S * 2 / 3)
            await it.cloud.start()
            ids += [token.id for token in (await reading).tokens]
        assert ids + await rest(stream) == expected(wanted)
        assert stream.stats.num_recoveries == 4


@pytest.mark.event_loop("asyncio")
async def test_a_link_that_silently_swallows_everything_is_found_out_and_made_anew():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    async with broken_link(port) as link:
        cloud = FakeCloud(port=port, keep_tokens=96)
        patience = replace(IMPATIENT, heartbeat_s=0.5)
        cloud.config = partial(cloud.config, url=link.url, patience=patience)
        async with bench(cloud, reconnect_timeout_s=PATIENT_S) as it:
            wanted = request(PROMPT, 60)
            stream = it.runtime.generate(wanted, "test")
            ids = [token.id for token in (await anext(stream)).tokens]
            link.cut()
            reading = asyncio.ensure_future(rest(stream))
            await until(lambda: it.runtime.ready() is not None)
            link.reset()
            link.mend()
            assert ids + await reading == expected(wanted)
            await it.freed()


async def test_what_breaks_its_cloud_every_time_ends():
    async with bench(reconnect_timeout_s=PATIENT_S) as it:
        stream = it.runtime.generate(request(PROMPT, 60), "test")
        await anext(stream)
        it.cloud.vanish_on = lambda _: "unseen"
        with pytest.raises(CloudUnavailableError, match="lost the cloud"):
            await rest(stream)
        assert stream.stats.num_recoveries == MAX_RECOVERIES
        it.cloud.vanish_on = lambda _: None
        await until(lambda: it.runtime.ready() is None)
        assert await it.ids(request(PROMPT)) == expected(request(PROMPT))
        await it.freed()


async def test_a_stream_closed_while_the_cloud_is_away_frees_the_device():
    async with bench(reconnect_timeout_s=PATIENT_S) as it:
        task = asyncio.ensure_future(it.ids(request(PROMPT, 60)))
        await until(lambda: len(it.cloud.frames) >= 2)
        await it.cloud.stop()
        await until(lambda: it.runtime.ready() is not None)
        await settle()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await it.freed()


async def test_a_session_lost_while_it_is_being_opened_is_opened_again():
    async with bench(reconnect_timeout_s=PATIENT_S) as it:
        it.cloud.going.clear()
        reading = asyncio.ensure_future(it.ids(request(PROMPT)))
        await settle()
        it.cloud.vanish()
        await until(lambda: it.runtime.ready() is not None)
        it.cloud.going.set()
        assert await reading == expected(request(PROMPT))
        await it.freed()


@pytest.mark.parametrize("keep_tokens", [0, 96])
async def test_a_continued_conversation_survives_the_loss_of_its_first_frame(keep_tokens):
    cloud = FakeCloud(keep_tokens=keep_tokens)
    async with bench(cloud, kept=KEEP_SOME, reconnect_timeout_s=PATIENT_S) as it:
        first = request(PROMPT, 20)
        answer = await it.ids(first)
        # The next turn parts from the text before the cached end.
        again = replace(first, prompt_ids=[*PROMPT, *answer[:12], 9, 9, 9])
        it.cloud.vanish_on = once("unseen")
        assert await it.ids(again) == expected(again)


def once(vanishing):
    answers = iter([vanishing])
    return lambda _: next(answers, None)


async def test_a_cloud_that_takes_shorter_frames_after_its_return_gets_shorter_ones():
    async with bench(draft_tokens=6, reconnect_timeout_s=PATIENT_S) as it:
        wanted = request(PROMPT, 40, sampling=REPETITIVE)
        stream = it.runtime.generate(wanted, "test")
        ids = [token.id for token in (await anext(stream)).tokens]
        it.cloud.max_frame_tokens = 2
        it.cloud.vanish()
        assert ids + await rest(stream) == expected(wanted)
        await it.freed()
