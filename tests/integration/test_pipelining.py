"""Text whose drafts are sent on behind undecided ones is the text of plain decoding."""

import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bench.link.opening import open_link
from bench.link.shaped_link import LinkKind
from bench.link.spec import LinkSpec
from cloud_server.server import CloudServer
from device_runtime.generation.request import GenerationRequest, SamplingParams
from device_runtime.runtime.runtime import Runtime
from device_runtime.server import DeviceServer
from device_runtime.session.pipelining import FixedPipelining
from tests.support.broken_link import BrokenLink, broken_link
from tests.support.eager_drafts import eager_drafts
from tests.support.reference import (
    STORIES,
    Greedy,
    first_difference,
    greedy,
    load_reference,
    story_prompts,
)
from tests.support.stack import (
    GREEDY,
    cloud_config,
    connected_device,
    gather_bounded,
    generate_ids,
    generate_with_stats,
    running_stack,
    serve_cloud,
)
from tests.support.stored_adapters import ADAPTER, install_early_adapter, split_with_adapter

LONG = LinkSpec(delay_s=0.008)
MAX_TOKENS = 32
STOP_IDS = frozenset({1, 2})
SETTINGS: Mapping[str, Any] = {"drafter": "adapter", "reconnect_timeout_s": 120.0}


@pytest.fixture(scope="module")
def stories() -> list[tuple[list[int], Greedy]]:
    """Prompts and what the unsplit model makes of them."""
    model = load_reference(STORIES)
    return [(prompt, greedy(model, prompt, MAX_TOKENS)) for prompt in story_prompts(4)]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return split_with_adapter(STORIES, tmp_path_factory.mktemp("p") / "split", ADAPTER)


@dataclass(frozen=True, slots=True)
class FarCloud:
    """A cloud, a link that breaks when told, and a device that always sends two rounds on."""

    cloud: CloudServer
    link: BrokenLink
    device: DeviceServer

    @property
    def runtime(self) -> Runtime:
        return self.device.runtime


@asynccontextmanager
async def far_cloud(
    bundles: Path, settings: Mapping[str, Any] = SETTINGS
) -> AsyncIterator[FarCloud]:
    with open_link(LONG, kind=LinkKind.TCP) as long, eager_drafts():
        async with (
            serve_cloud(cloud_config(bundles)) as cloud,
            broken_link(long.forward(int(cloud.url.rsplit(":", 1)[1]))) as link,
            connected_device(bundles, link.url, settings) as device,
        ):
            device.runtime._pipelining = lambda: FixedPipelining(2)  # type: ignore[method-assign]
            yield FarCloud(cloud, link, device)


@pytest.mark.parametrize("drafter", ["adapter", "ngram"])
async def test_greedy_stories_are_the_unsplit_models(
    stories: Sequence[tuple[list[int], Greedy]], bundles: Path, drafter: str
) -> None:
    """Several at once, so that frames of several sequences share the cloud's steps."""
    async with far_cloud(bundles, {**SETTINGS, "drafter": drafter}) as it:
        requests = [GenerationRequest(p, MAX_TOKENS, GREEDY, STOP_IDS) for p, _ in stories]
        calls = [partial(generate_with_stats, it.runtime, request) for request in requests]
        came = await gather_bounded(calls, 4)
    for (_, reference), (ids, _) in zip(stories, came, strict=True):
        difference = first_difference(reference, ids)
        assert difference is None or difference.is_tie, f"{difference}: {ids}"
    num_behind = sum(stats.num_behind_rows for _, stats in came)
    num_stale = sum(stats.num_stale_rows for _, stats in came)
    assert 0 < num_stale <= num_behind
    if drafter == "adapter":
        assert num_stale < num_behind, "no guess was right"


async def test_sampled_text_is_that_of_plain_decoding(
    stories: Sequence[tuple[list[int], Greedy]], bundles: Path
) -> None:
    requests = [
        GenerationRequest(
            prompt,
            MAX_TOKENS,
            SamplingParams(temperature=0.6, seed=seed, frequency_penalty=0.3),
            STOP_IDS,
        )
        for seed, (prompt, _) in enumerate(stories)
    ]
    async with running_stack(bundles, {"drafter": "none"}) as stack:
        plain = [await generate_ids(stack.runtime, request) for request in requests]
    async with far_cloud(bundles) as it:
        calls = [partial(generate_with_stats, it.runtime, request) for request in requests]
        came = await gather_bounded(calls, 4)
    assert [ids for ids, _ in came] == plain
    num_behind = sum(stats.num_behind_rows for _, stats in came)
    assert sum(stats.num_stale_rows for _, stats in came) < num_behind


async def test_a_socket_lost_with_several_rounds_under_way_changes_no_token(
    stories: Sequence[tuple[list[int], Greedy]], bundles: Path
) -> None:
    draws = random.Random(3)
    async with far_cloud(bundles) as it:
        num_recoveries = num_behind = 0
        for prompt, reference in stories:
            it.link.strike_after(draws.randrange(15_000, 60_000), it.link.reset)
            await it.device.link.connected()
            request = GenerationRequest(prompt, MAX_TOKENS, GREEDY, STOP_IDS)
            ids, stats = await generate_with_stats(it.runtime, request)
            it.link.forget_strikes()
            difference = first_difference(reference, ids)
            assert difference is None or difference.is_tie, f"{difference}: {ids}"
            num_recoveries += stats.num_recoveries
            num_behind += stats.num_behind_rows
        assert num_recoveries > 0
        assert num_behind > 0


async def test_a_next_turn_continues_what_stale_rounds_left_in_the_caches(
    stories: Sequence[tuple[list[int], Greedy]], bundles: Path
) -> None:
    model = load_reference(STORIES)
    async with far_cloud(bundles) as it:
        for prompt, _ in stories[:4]:
            text = [*prompt]
            text += await generate_ids(it.runtime, GenerationRequest(prompt, 17, GREEDY))
            again = GenerationRequest([*text, 365], 20, GREEDY)
            ids, stats = await generate_with_stats(it.runtime, again)
            assert stats.num_reused_tokens >= len(prompt)
            reference = greedy(model, [*text, 365], 20, ignore_eos=True)
            difference = first_difference(reference, ids)
            assert difference is None or difference.is_tie, f"{difference}: {ids}"


async def test_with_output_layers_on_the_device_every_round_waits(
    stories: Sequence[tuple[list[int], Greedy]], tmp_path: Path
) -> None:
    bundles = split_with_adapter(STORIES, tmp_path / "split", None, 1, 1)
    install_early_adapter(bundles, tmp_path / "adapter")
    async with far_cloud(bundles) as it:
        for prompt, reference in stories[:2]:
            request = GenerationRequest(prompt, MAX_TOKENS, GREEDY, STOP_IDS)
            ids, stats = await generate_with_stats(it.runtime, request)
            difference = first_difference(reference, ids)
            assert difference is None or difference.is_tie, f"{difference}: {ids}"
            assert stats.num_drafted_tokens > 0
            assert stats.num_behind_rows == 0
