"""Greedy output through device and cloud equals the unsplit model's, id for id, in float32."""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from device_runtime.generation import GenerationRequest
from device_runtime.runtime import Runtime
from submodels.random_models import make_random_model
from tests.support.reference import (
    STORIES,
    Greedy,
    first_difference,
    greedy,
    load_reference,
    story_prompts,
)
from tests.support.split_models import VARIANTS, random_tokens
from tests.support.stack import (
    GREEDY,
    cloud_config,
    connected_device,
    gather_bounded,
    generate_ids,
    running_stack,
    serve_cloud,
    split_for_serving,
)

RecordProperty = Callable[[str, object], None]
MAX_TOKENS = 40
AT_ONCE = 8
STOP_IDS = frozenset({1, 2})
DRAFTERS = ("none", "ngram")
CHUNKS = (1, 7, 64, 0)
ENGINES = ("onnx", "torch")
SETTINGS = tuple(itertools.product(DRAFTERS, CHUNKS, ENGINES))
SHARE = 16
"""Prompts a setting gets of the 200 in the usual run; every setting starts at another one."""


@pytest.fixture(scope="module")
def stories() -> list[tuple[list[int], Greedy]]:
    """The 200 prompts and what the unsplit model makes of them."""
    model = load_reference(STORIES)
    return [(prompt, greedy(model, prompt, MAX_TOKENS)) for prompt in story_prompts()]


@pytest.fixture(scope="module")
def story_bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The story model split after 0, 1 and 2 layers."""
    out = tmp_path_factory.mktemp("stories")
    return {m: split_for_serving(STORIES, out / f"m{m}", m) for m in (0, 1, 2)}


async def _check(
    runtime: Runtime, cases: Sequence[tuple[list[int], Greedy]], stop: frozenset[int]
) -> int:
    """Generate all cases, several at once; the number of ties among first differences."""
    requests = [
        GenerationRequest(prompt, MAX_TOKENS if stop else len(reference.ids), GREEDY, stop)
        for prompt, reference in cases
    ]
    came = await gather_bounded([partial(generate_ids, runtime, r) for r in requests], AT_ONCE)
    ties = 0
    for (_, reference), ids in zip(cases, came, strict=True):
        difference = first_difference(reference, ids)
        assert difference is None or difference.is_tie, f"{difference}: {ids} not {reference.ids}"
        ties += difference is not None
    return ties


def _share(cases: Sequence[tuple[list[int], Greedy]], index: int) -> list[tuple[list[int], Greedy]]:
    start = index * SHARE
    return [cases[(start + offset) % len(cases)] for offset in range(SHARE)]


async def _check_settings(
    bundles: Path, cases: Sequence[tuple[list[int], Greedy]], first: int, whole: bool
) -> int:
    """One cloud, and a device of each setting after another."""
    ties = 0
    async with serve_cloud(cloud_config(bundles)) as cloud:
        for index, (drafter, chunk_tokens, engine) in enumerate(SETTINGS):
            settings = {"drafter": drafter, "chunk_tokens": chunk_tokens, "engine": engine}
            share = cases if whole else _share(cases, first + index)
            async with connected_device(bundles, cloud.url, settings) as device:
                ties += await _check(device.runtime, share, STOP_IDS)
    return ties


@pytest.mark.parametrize("num_input", [0, 1, 2])
def test_stories_are_the_unsplit_models_in_every_setting(
    stories: list[tuple[list[int], Greedy]],
    story_bundles: dict[int, Path],
    num_input: int,
    record_property: RecordProperty,
) -> None:
    """16 settings of drafter, chunk size and engine, a share of the prompts each."""
    first = num_input * len(SETTINGS)
    ties = asyncio.run(_check_settings(story_bundles[num_input], stories, first, whole=False))
    record_property("ties", ties)


def test_all_200_stories_are_the_unsplit_models_as_shipped(
    stories: list[tuple[list[int], Greedy]],
    story_bundles: dict[int, Path],
    record_property: RecordProperty,
) -> None:
    async def run() -> int:
        async with running_stack(story_bundles[1]) as stack:
            return await _check(stack.runtime, stories, STOP_IDS)

    record_property("ties", asyncio.run(run()))


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("num_input", [0, 1, 2])
def test_all_200_stories_are_the_unsplit_models_in_every_setting(
    stories: list[tuple[list[int], Greedy]],
    story_bundles: dict[int, Path],
    num_input: int,
    record_property: RecordProperty,
) -> None:
    ties = asyncio.run(_check_settings(story_bundles[num_input], stories, 0, whole=True))
    record_property("ties", ties)


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_random_models_of_every_family_say_what_they_say_unsplit(
    name: str, tmp_path: Path, record_property: RecordProperty
) -> None:
    """Each variant runs in several settings, so that every family meets every setting."""
    settings = VARIANTS[name]
    model_path = tmp_path / "model"
    make_random_model(settings, model_path)
    index = sorted(VARIANTS).index(name)
    num_input, num_output = index % 3, (index // 3) % 2
    bundles = split_for_serving(model_path, tmp_path / "split", num_input, num_output)
    model = load_reference(model_path)
    prompts = [list(random_tokens(3 + 5 * n, model.config.vocab_size, n)) for n in range(AT_ONCE)]
    cases = [(prompt, greedy(model, prompt, 16, ignore_eos=True)) for prompt in prompts]

    async def run() -> int:
        ties = 0
        async with serve_cloud(cloud_config(bundles)) as cloud:
            for drafter, chunk_tokens, engine in SETTINGS[index % 4 :: 4]:
                chosen = {"drafter": drafter, "chunk_tokens": chunk_tokens, "engine": engine}
                async with connected_device(bundles, cloud.url, chosen) as device:
                    ties += await _check(device.runtime, cases, frozenset())
        return ties

    record_property("ties", asyncio.run(run()))
