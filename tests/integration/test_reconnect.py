"""Greedy output equals the unsplit model's while link, socket and cloud fail at random moments."""

import asyncio
import random
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from adapters.install import install_adapter
from device_runtime.generation.request import CloudUnavailableError, GenerationRequest
from device_runtime.runtime.runtime import Runtime
from tests.support.broken_link import BrokenLink, broken_link
from tests.support.cloud_process import CloudProcess, cloud_process
from tests.support.event_loop import until
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
    serve_cloud,
    split_for_serving,
)
from tests.support.stored_adapters import ADAPTER, install_early_adapter

Case = tuple[list[int], Greedy]
MAX_TOKENS = 40
AT_ONCE = 4
STOP_IDS = frozenset({1, 2})
CUT_S = 0.2
PATIENT = {"reconnect_timeout_s": 120.0}
SETTINGS = {
    "adapter": PATIENT | {"drafter": "adapter", "chunk_tokens": 8},
    "ngram": PATIENT | {"drafter": "ngram", "chunking": "adaptive"},
}


@pytest.fixture(scope="module")
def stories() -> list[Case]:
    """Some prompts and what the unsplit model makes of them."""
    model = load_reference(STORIES)
    return [(prompt, greedy(model, prompt, MAX_TOKENS)) for prompt in story_prompts(40)]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The story model with 0 and 1 output layers on the device, and adapters that draft."""
    out = tmp_path_factory.mktemp("stories")
    split = {k: split_for_serving(STORIES, out / f"k{k}", 1, k) for k in (0, 1)}
    install_adapter(split[0], ADAPTER)
    install_early_adapter(split[1], out / "early")
    return split


async def _check(runtime: Runtime, cases: Sequence[Case]) -> None:
    """All cases at once are the unsplit model's."""
    requests = [GenerationRequest(prompt, MAX_TOKENS, GREEDY, STOP_IDS) for prompt, _ in cases]
    came = await gather_bounded([partial(generate_ids, runtime, r) for r in requests], AT_ONCE)
    for (_, reference), ids in zip(cases, came, strict=True):
        difference = first_difference(reference, ids)
        assert difference is None or difference.is_tie, f"{difference}: {ids} not {reference.ids}"


def _cut_for_a_while(link: BrokenLink, is_forgotten: bool) -> None:
    """All bytes are held back; then they flow, or no hop knows the connections any more."""

    def mend() -> None:
        if is_forgotten:
            link.reset()
        link.mend()

    link.cut()
    asyncio.get_running_loop().call_later(CUT_S, mend)


@dataclass(frozen=True)
class Storm:
    """A device behind a link that fails, and the bytes that `AT_ONCE` stories take in calm."""

    runtime: Runtime
    link: BrokenLink
    stories: Sequence[Case]
    num_calm_bytes: int
    draws: random.Random

    async def run(self, strikes: Sequence[Callable[[], None]]) -> None:
        """Some stories at once, with the strikes at random moments; one hits for certain."""
        for index, strike in enumerate(strikes):
            share = self.draws.uniform(0.005, 0.9 if index else 0.4)
            self.link.strike_after(int(share * self.num_calm_bytes), strike)
        await _check(self.runtime, self.draws.sample(list(self.stories), AT_ONCE))
        assert self.link.num_strikes_left < len(strikes), "every strike came too late to matter"
        self.link.forget_strikes()


async def _storm(
    runtime: Runtime, link: BrokenLink, stories: Sequence[Case], draws: random.Random
) -> Storm:
    before = link.num_bytes
    await _check(runtime, stories[:AT_ONCE])
    return Storm(runtime, link, stories, link.num_bytes - before, draws)


def _gentle_strikes(link: BrokenLink) -> list[Callable[[], None]]:
    return [
        link.reset,
        partial(_cut_for_a_while, link, is_forgotten=False),
        partial(_cut_for_a_while, link, is_forgotten=True),
    ]


@pytest.mark.parametrize("drafter", ["adapter", "ngram"])
@pytest.mark.parametrize("num_output", [0, 1])
async def test_a_link_that_is_reset_and_cut_at_random_moments_changes_no_id(
    stories, bundles, num_output, drafter
):
    draws = random.Random(num_output)
    async with (
        serve_cloud(cloud_config(bundles[num_output])) as cloud,
        broken_link(int(cloud.url.rsplit(":", 1)[1])) as link,
        connected_device(bundles[num_output], link.url, SETTINGS[drafter]) as device,
    ):
        storm = await _storm(device.runtime, link, stories, draws)
        for _ in range(4):
            await storm.run(draws.sample(_gentle_strikes(link), 2))
        assert device.link.num_connections > 1


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


async def _run_killed(
    bundle: Path,
    stories: Sequence[Case],
    num_runs: int,
    draws: random.Random,
    kinds: Callable[[CloudProcess, BrokenLink], list[Callable[[], None]]],
    drafter: str = "adapter",
) -> int:
    """So many runs against a cloud process; how often it was killed."""
    port = _free_port()
    async with (
        cloud_process(bundle, port) as cloud,
        broken_link(port) as link,
        connected_device(bundle, link.url, SETTINGS[drafter]) as device,
    ):
        storm = await _storm(device.runtime, link, stories, draws)
        for _ in range(num_runs):
            await storm.run(draws.choices(kinds(cloud, link), k=draws.randint(1, 3)))
        return cloud.num_kills


async def test_a_cloud_killed_and_restarted_changes_no_id(stories, bundles):
    def kinds(cloud: CloudProcess, _: BrokenLink) -> list[Callable[[], None]]:
        return [cloud.kill_and_restart]

    draws = random.Random(11)
    assert await _run_killed(bundles[1], stories, 1, draws, kinds) >= 1


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("drafter", ["adapter", "ngram"])
@pytest.mark.parametrize("num_output", [0, 1])
async def test_fifty_runs_with_every_kind_of_failure_are_right(
    stories, bundles, num_output, drafter
):
    draws = random.Random(100 + num_output)

    def kinds(cloud: CloudProcess, link: BrokenLink) -> list[Callable[[], None]]:
        return [*_gentle_strikes(link), cloud.kill_and_restart]

    run = _run_killed(bundles[num_output], stories, 50, draws, kinds, drafter)
    assert await run >= 10


async def test_a_link_dead_for_longer_than_the_bound_is_told_in_the_stream_and_heals(
    stories, bundles
):
    prompt, _ = stories[0]
    request = GenerationRequest(prompt, 400, GREEDY)

    settings = {"reconnect_timeout_s": 0.3}
    async with (
        serve_cloud(cloud_config(bundles[0])) as cloud,
        broken_link(int(cloud.url.rsplit(":", 1)[1])) as link,
        connected_device(bundles[0], link.url, settings) as device,
    ):
        stream = device.runtime.generate(request, "test")
        await anext(stream)
        link.down()
        with pytest.raises(CloudUnavailableError, match=r"waited 0\.3 s.*cannot reach"):
            async for _ in stream:
                pass
        await link.up()
        await until(lambda: device.runtime.ready() is None)
        await _check(device.runtime, stories[:AT_ONCE])
