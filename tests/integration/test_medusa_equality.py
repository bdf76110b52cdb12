"""Text drafted by Medusa heads, one guess of each in turn, equals the unsplit model's."""

import random
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from adapters.medusa_heads import MedusaError, install_heads
from device_runtime.generation.request import GenerationRequest, SamplingParams
from hat.splitting import SplitRequest, split_model
from process.errors import StartError
from submodels.bundle.bundle import load_bundle
from tests.support.broken_link import broken_link
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
    split_for_serving,
)

HEADS = STORIES.parent / "stories260k-medusa"
MEDUSA = {"drafter": "medusa"}
MAX_TOKENS = 40
NUM_PROMPTS = 24
STOP_IDS = frozenset({1, 2})


@pytest.fixture(autouse=True)
def whole_drafts() -> Iterator[None]:
    """On loopback a round costs little more than a draft, and drafts would be short."""
    with eager_drafts():
        yield


@pytest.fixture(scope="module")
def stories() -> list[tuple[list[int], Greedy]]:
    """Prompts and what the unsplit model makes of them."""
    model = load_reference(STORIES)
    return [(prompt, greedy(model, prompt, MAX_TOKENS)) for prompt in story_prompts(NUM_PROMPTS)]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Bundles by the number of input layers."""
    folder = tmp_path_factory.mktemp("medusa")
    split = {m: split_for_serving(STORIES, folder / f"m{m}", m) for m in (0, 1, 2)}
    for out in split.values():
        install_heads(out / "device", HEADS)
    return split


@pytest.mark.parametrize(("num_input", "engine"), [(0, "onnx"), (1, "onnx"), (2, "torch")])
async def test_greedy_stories_are_the_unsplit_models(
    stories: Sequence[tuple[list[int], Greedy]],
    bundles: dict[int, Path],
    num_input: int,
    engine: str,
) -> None:
    """Several at once, so that drafts of several sequences share the cloud's steps."""

    async with running_stack(bundles[num_input], MEDUSA | {"engine": engine}) as stack:
        requests = [GenerationRequest(p, MAX_TOKENS, GREEDY, STOP_IDS) for p, _ in stories]
        calls = [partial(generate_with_stats, stack.runtime, request) for request in requests]
        came = await gather_bounded(calls, 8)
    for (_, reference), (ids, _) in zip(stories, came, strict=True):
        difference = first_difference(reference, ids)
        assert difference is None or difference.is_tie, f"{difference}: {ids}"
    num_rounds = sum(stats.num_rounds for _, stats in came)
    num_accepted = sum(stats.num_accepted_tokens for _, stats in came)
    assert num_accepted > num_rounds / 3


async def test_sampled_text_is_that_of_plain_decoding(
    stories: Sequence[tuple[list[int], Greedy]], bundles: dict[int, Path]
) -> None:
    """The position's noise decides, so drafts are accepted without changing a token."""
    requests = [
        GenerationRequest(
            prompt,
            MAX_TOKENS,
            SamplingParams(temperature=0.8, seed=seed, frequency_penalty=0.3),
            STOP_IDS,
        )
        for seed, (prompt, _) in enumerate(stories[:10])
    ]

    async def run(settings: dict[str, object]) -> tuple[list[list[int]], int]:
        async with running_stack(bundles[1], settings) as stack:
            calls = [partial(generate_with_stats, stack.runtime, request) for request in requests]
            came = await gather_bounded(calls, 4)
        return [ids for ids, _ in came], sum(stats.num_accepted_tokens for _, stats in came)

    plain, _ = await run({"drafter": "none"})
    drafted, num_accepted = await run(MEDUSA)
    assert drafted == plain
    assert num_accepted > 0


async def test_a_next_turn_continues_what_drafts_left_in_the_caches(
    stories: Sequence[tuple[list[int], Greedy]], bundles: dict[int, Path]
) -> None:
    """The kept session's caches hold the text, whatever its last round rejected."""
    model = load_reference(STORIES)

    async with running_stack(bundles[1], MEDUSA) as stack:
        for prompt, _ in stories[:6]:
            first = GenerationRequest(prompt, MAX_TOKENS, GREEDY)
            text = [*prompt, *await generate_ids(stack.runtime, first)]
            again = GenerationRequest([*text, 365], MAX_TOKENS, GREEDY)
            ids, stats = await generate_with_stats(stack.runtime, again)
            assert stats.num_reused_tokens >= len(prompt)
            reference = greedy(model, [*text, 365], MAX_TOKENS, ignore_eos=True)
            difference = first_difference(reference, ids)
            assert difference is None or difference.is_tie, f"{difference}: {ids}"


async def test_a_socket_lost_in_the_middle_of_a_round_changes_no_token(
    stories: Sequence[tuple[list[int], Greedy]], bundles: dict[int, Path]
) -> None:
    """What the cloud keeps of a session is taken up again, and so is the draft."""
    draws = random.Random(3)

    settings = MEDUSA | {"reconnect_timeout_s": 120.0}
    async with (
        serve_cloud(cloud_config(bundles[1])) as cloud,
        broken_link(int(cloud.url.rsplit(":", 1)[1])) as link,
        connected_device(bundles[1], link.url, settings) as device,
    ):
        num_recoveries = 0
        for prompt, reference in stories[:8]:
            link.strike_after(draws.randrange(20_000, 90_000), link.reset)
            request = GenerationRequest(prompt, MAX_TOKENS, GREEDY, STOP_IDS)
            await device.link.connected()
            ids, stats = await generate_with_stats(device.runtime, request)
            link.forget_strikes()
            difference = first_difference(reference, ids)
            assert difference is None or difference.is_tie, f"{difference}: {ids}"
            num_recoveries += stats.num_recoveries
        assert num_recoveries > 0


@pytest.mark.parametrize(("setting", "most"), [(1, 1), (9, 4)])
async def test_drafts_are_as_long_as_the_heads_and_the_setting_allow(
    stories: Sequence[tuple[list[int], Greedy]], bundles: dict[int, Path], setting: int, most: int
) -> None:
    async with running_stack(bundles[1], MEDUSA | {"draft_tokens": setting}) as stack:
        request = GenerationRequest(stories[0][0], MAX_TOKENS, GREEDY, STOP_IDS)
        _, stats = await generate_with_stats(stack.runtime, request)
        assert len(stats.drafted_by_position) == most


async def test_heads_that_are_missing_are_named(tmp_path: Path) -> None:
    bundles = split_for_serving(STORIES, tmp_path / "split", 1)

    with pytest.raises(StartError, match=r"drafter medusa: .* holds no heads"):
        async with connected_device(bundles, "ws://127.0.0.1:9", MEDUSA):
            pass


def test_a_device_with_output_layers_gets_no_heads(tmp_path: Path) -> None:
    bundles = split_for_serving(STORIES, tmp_path / "split", 1, 1)
    with pytest.raises(MedusaError, match="without output layers, got 1"):
        install_heads(bundles / "device", HEADS)


def test_hat_split_puts_heads_into_the_bundles_they_are_made_for(tmp_path: Path) -> None:
    request = SplitRequest(1, 0, "keep", ())
    split_model("stories", STORIES, tmp_path / "stories", request, overwrite=False)
    assert "medusa.json" in load_bundle(tmp_path / "stories/device", "device").manifest.files
    with_output_layers = SplitRequest(1, 1, "keep", ())
    split_model("stories", STORIES, tmp_path / "k1", with_output_layers, overwrite=False)
    assert not (tmp_path / "k1/device/medusa.json").exists()
