"""Scores of a prompt are all there, once each, however often the cloud is lost on the way."""

from collections.abc import Callable
from typing import Any

import pytest

from device_runtime.generation.request import RankedToken, SamplingParams
from tests.integration.test_recovery import PATIENT_S, sometimes
from tests.support.fake_cloud import FakeCloud
from tests.support.fake_model import FakeDeviceEngine
from tests.support.fake_runtime import PROMPT, bench, expected, request

pytestmark = pytest.mark.event_loop("virtual")


async def scores(
    vanish_on: Callable[[Any], Any] | None, keep_tokens: int, num_output_layers: int
) -> tuple[tuple[RankedToken, ...], int]:
    """What is told of a prompt, and how often a session was opened for it."""
    cloud = FakeCloud(keep_tokens=keep_tokens)
    if vanish_on is not None:
        cloud.vanish_on = vanish_on
    engine = FakeDeviceEngine(num_output_layers)
    async with bench(cloud, engine, chunk_tokens=3, reconnect_timeout_s=PATIENT_S) as it:
        wanted = request(PROMPT[:20], 12, sampling=SamplingParams(seed=5), num_prompt_logprobs=2)
        emissions = [emission async for emission in it.runtime.generate(wanted, "test")]
        ids = [token.id for emission in emissions for token in emission.tokens]
        assert ids == expected(wanted, num_output_layers)
        assert [each.prompt is None for each in emissions] == [False, *[True] * len(emissions[1:])]
        assert emissions[0].prompt is not None
        return emissions[0].prompt, len(it.cloud.opens)


@pytest.mark.parametrize("num_output_layers", [0, 2])
@pytest.mark.parametrize("keep_tokens", [0, 11, 96])
async def test_nothing_is_scored_twice_or_left_out(
    keep_tokens: int, num_output_layers: int
) -> None:
    whole, _ = await scores(None, 0, num_output_layers)
    assert [each.token.id for each in whole] == list(PROMPT[1:20])
    num_opens = 0
    for seed in range(1, 7):
        lost, num = await scores(sometimes(seed), keep_tokens, num_output_layers)
        assert lost == whole
        num_opens += num
    assert num_opens > 6, "the cloud was never lost"
