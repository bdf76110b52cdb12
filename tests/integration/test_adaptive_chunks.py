"""Prompts over a thin uplink: chunks follow its rate, and the answer is the unsplit model's."""

from contextlib import aclosing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from chunking.chooser import ChunkChoice
from device_runtime.generation.request import GenerationRequest
from device_runtime.runtime.runtime import Runtime
from tests.support.reference import STORIES, Greedy, first_difference, greedy, load_reference
from tests.support.split_models import random_tokens
from tests.support.stack import (
    GREEDY,
    cloud_config,
    connected_device,
    serve_cloud,
    split_for_serving,
)
from tests.support.thin_link import thin_link

pytestmark = pytest.mark.alone

NUM_PROMPT_TOKENS = 400
NUM_NEW_TOKENS = 6
TOKEN_BYTES = 64 * 4
SLOW_BYTES_PER_S = 50_000.0
FAST_BYTES_PER_S = 4_000_000.0

Case = tuple[list[int], Greedy]


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    """Prompts that share no beginning, and what the unsplit model says to them."""
    model = load_reference(STORIES)
    prompts = [list(random_tokens(NUM_PROMPT_TOKENS, 512, seed)) for seed in range(3)]
    return [(prompt, greedy(model, prompt, NUM_NEW_TOKENS, ignore_eos=True)) for prompt in prompts]


async def _chunks(runtime: Runtime, case: Case) -> list[ChunkChoice]:
    """Generate and compare; how the prompt was cut."""
    prompt, reference = case
    request = GenerationRequest(prompt, NUM_NEW_TOKENS, GREEDY)
    generation = runtime.generate(request, "test")
    ids: list[int] = []
    async with aclosing(generation) as emissions:
        async for emission in emissions:
            ids.extend(token.id for token in emission.tokens)
    difference = first_difference(reference, ids)
    assert difference is None or difference.is_tie
    chunks = list(generation.stats.chunks)
    assert sum(choice.num_tokens for choice in chunks) == NUM_PROMPT_TOKENS
    return chunks


def _rate(choice: ChunkChoice) -> float:
    assert choice.estimates.uplink_bytes_per_s is not None, "it was measured"
    return choice.estimates.uplink_bytes_per_s


@pytest.mark.parametrize("num_output", [0, 1])
async def test_chunks_follow_a_rate_change_in_the_middle_of_a_prompt(
    num_output: int, cases: list[Case], tmp_path: Path
) -> None:
    bundles = split_for_serving(STORIES, tmp_path, 1, num_output)

    async with serve_cloud(cloud_config(bundles)) as cloud:
        port = urlsplit(cloud.url).port
        assert port is not None
        async with (
            thin_link(port, SLOW_BYTES_PER_S) as link,
            connected_device(bundles, link.url, {"drafter": "none"}) as device,
        ):
            await _chunks(device.runtime, cases[0])
            steady = await _chunks(device.runtime, cases[1])
            link.change_after(60 * TOKEN_BYTES, FAST_BYTES_PER_S)
            changed = await _chunks(device.runtime, cases[2])
    for choice in (*steady, changed[0]):
        # A busy machine makes a link slower, never faster.
        assert SLOW_BYTES_PER_S / 4 < _rate(choice) < 2 * SLOW_BYTES_PER_S
    assert _rate(changed[-1]) > 2 * _rate(changed[0])
    assert max(c.num_tokens for c in changed) > 1.2 * max(c.num_tokens for c in steady)
