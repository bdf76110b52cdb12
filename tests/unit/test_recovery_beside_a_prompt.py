"""An answer that recovers while another prompt has the credit, over the cloud's real core."""

import asyncio
from typing import Any

import pytest

from cloud_server.core.actions import Refusal, StepWork
from device_runtime.generation.request import SamplingParams
from tests.support.fake_runtime import PROMPT, bench, expected, request, rest
from tests.support.memory_cloud import MemoryCloud
from wire.errors import FaultCode
from wire.messages import Want

pytestmark = pytest.mark.event_loop("virtual")

SHORT = request(PROMPT, 40, sampling=SamplingParams(seed=3))
LONG = request([(5 * i + 1) % 16 for i in range(88)], 4)

SLOW = {"fixed_s": 0.05, "row_s": 0.25, "credit_window_tokens": 32, "max_frame_tokens": 16}
"""A prompt takes half a minute, and all the credit there is."""


ROUNDS_PER_LOSS = 3


@pytest.mark.parametrize("code", [FaultCode.INTERNAL, FaultCode.DEADLINE_EXCEEDED])
async def test_an_answer_that_recovers_beside_long_prompts_ends_with_all_its_tokens(
    code: FaultCode,
) -> None:
    """Its replay waits for credit, and the interrupted round must not go before it."""

    cloud = MemoryCloud(**SLOW)
    device: dict[str, Any] = {"chunking": "fixed", "chunk_tokens": 16, "drafter": "none"}
    num_rounds = 0

    def refuses(item: StepWork) -> Refusal | None:
        nonlocal num_rounds
        is_round = item.num_rows == 1 and item.want is Want.ALL
        num_rounds += is_round
        is_lost = is_round and num_rounds % ROUNDS_PER_LOSS == 0
        return Refusal(code, "lost") if is_lost else None

    async with bench(cloud, **device) as it:
        short = it.runtime.generate(SHORT, "short")
        ids = [token.id for token in (await anext(short)).tokens]
        cloud.steps.refuses = refuses
        prompts = [asyncio.ensure_future(it.ids(LONG)) for _ in range(3)]
        await asyncio.sleep(1.0)
        assert ids + await rest(short) == expected(SHORT)
        assert await asyncio.gather(*prompts) == [expected(LONG)] * 3
        assert short.stats.num_recoveries >= 10


@pytest.mark.parametrize("step_s", [70.0, 300.0])
async def test_a_cloud_whose_steps_take_minutes_is_waited_for(step_s: float) -> None:
    """All credit is under way and nothing comes: as if everything had been lost."""

    cloud = MemoryCloud(**(SLOW | {"fixed_s": step_s, "row_s": 0.0}), queue_deadline_s=3600.0)
    device: dict[str, Any] = {"chunking": "fixed", "chunk_tokens": 16, "drafter": "none"}
    async with bench(cloud, **device) as it:
        answers = [asyncio.ensure_future(it.ids(LONG)) for _ in range(6)]
        assert await asyncio.gather(*answers) == [expected(LONG)] * 6
