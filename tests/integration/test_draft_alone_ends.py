"""Answers of a draft model alone: how they begin and end, in virtual time, on integers."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from device_runtime.engines.engine import DraftLimits, DraftRequest, SequenceId
from device_runtime.generation.request import CloudUnavailableError, Emission
from tests.support.event_loop import until
from tests.support.fake_cloud import FakeCloud, fault
from tests.support.fake_model import FakeDeviceEngine, logits_of
from tests.support.fake_runtime import PROMPT, Bench, bench, expected, request, rest
from wire.errors import FaultCode

pytestmark = pytest.mark.event_loop("virtual")


class DraftingEngine(FakeDeviceEngine):
    """Its draft model says what follows from the sum of the tokens so far."""

    def __init__(self) -> None:
        super().__init__()
        self.draft_limits = DraftLimits(0.0, 6)

    def draft(self, sequence: SequenceId, request: DraftRequest) -> tuple[int, ...]:
        cache = self.inputs[sequence]
        if not request.is_alone:
            return ()
        assert request.position <= len(cache), "a gap in the text"
        cache[request.position :] = request.token_ids
        token = request.choose(logits_of(1 + sum(cache)), ())
        return () if token is None else (token,)


@asynccontextmanager
async def _device(cloud: FakeCloud | None = None, **settings: Any) -> AsyncIterator[Bench]:
    """A device that answers alone, connected."""
    chosen = {"when_cloud_gone": "draft", "drafter": "adapter", "reconnect_timeout_s": 3.0}
    async with bench(cloud, engine=DraftingEngine(), **(chosen | settings)) as it:
        yield it


async def _lose(it: Bench) -> None:
    await it.cloud.stop()
    await until(lambda: not it.link.status.is_connected)
    # Longer than a blink.
    await asyncio.sleep(5)


async def _emissions(it: Bench, wanted: Any) -> list[Emission]:
    return [each async for each in it.runtime.generate(wanted, "test")]


def _ids(emissions: Sequence[Emission]) -> list[int]:
    return [token.id for each in emissions for token in each.tokens]


async def test_without_a_cloud_the_draft_model_answers_at_once_and_with_one_the_model() -> None:
    async with _device() as it:
        wanted = request(PROMPT)
        assert await it.ids(wanted) == expected(wanted)
        await _lose(it)
        began_s = asyncio.get_running_loop().time()
        alone = await _emissions(it, wanted)
        assert asyncio.get_running_loop().time() - began_s < 1
        assert all(each.is_alone and len(each.tokens) == 1 for each in alone)
        assert [each.finish_reason for each in alone] == [None] * 19 + ["length"]
        assert _ids(alone) != expected(wanted)
        assert alone[0].origin(0) == "draft"
        await it.cloud.start()
        await it.link.connected()
        assert await it.ids(wanted) == expected(wanted)
        await it.freed()


async def test_a_link_that_was_just_lost_is_waited_for() -> None:
    async with _device() as it:
        it.cloud.vanish()
        wanted = request(PROMPT)
        assert await it.ids(wanted) == expected(wanted)


async def test_a_cloud_without_room_is_not_gone() -> None:
    cloud = FakeCloud(refuse_open=[fault(FaultCode.CAPACITY, 4.0)])
    async with _device(cloud) as it:
        with pytest.raises(CloudUnavailableError, match="CAPACITY"):
            await it.ids(request(PROMPT))


async def test_an_answer_that_has_begun_waits_and_fails_as_ever() -> None:
    async with _device() as it:
        stream = it.runtime.generate(request(PROMPT, 60), "test")
        assert not (await anext(stream)).is_alone
        await it.cloud.stop()
        with pytest.raises(CloudUnavailableError, match="waited 3 s"):
            await rest(stream)


async def test_a_prompt_that_has_no_token_yet_is_the_draft_models_after_the_patience() -> None:
    async with _device() as it:
        it.cloud.going.clear()
        answer = asyncio.ensure_future(_emissions(it, request(PROMPT)))
        await asyncio.sleep(0.5)
        assert not answer.done()
        await it.cloud.stop()
        began_s = asyncio.get_running_loop().time()
        assert all(each.is_alone for each in await answer)
        assert 3.0 <= asyncio.get_running_loop().time() - began_s < 6.0
        assert it.engine.num_open == 0


@pytest.mark.parametrize("num_calls", [0, 0.5, 1, 1.5, 2.5, 5, 8.5])
async def test_one_that_is_cancelled_at_any_moment_frees_its_place(num_calls: float) -> None:
    from tests.support.memory_link import CALL_S

    async with _device(max_num_seqs=1) as it:
        await _lose(it)
        task = asyncio.ensure_future(it.ids(request(PROMPT, 40)))
        await asyncio.sleep(num_calls * CALL_S)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await until(lambda: it.engine.num_open == 0)
        assert it.runtime.admission.num_running == 0
        assert len(await it.ids(request(PROMPT, 5))) == 5


async def test_what_is_said_alone_is_told_once_for_each_time_and_leaves_nothing_behind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with _device() as it:
        for num_told in (1, 2):
            await _lose(it)
            with caplog.at_level(logging.WARNING):
                for _ in range(3):
                    await it.ids(request(PROMPT))
            assert caplog.text.count("the draft model answers alone") == num_told
            assert it.num_kept == 0
            await it.cloud.start()
            await it.link.connected()
