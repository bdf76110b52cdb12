"""Greedy output through device and cloud equals the unsplit model's, id for id, in float32."""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from device_runtime.generation.request import GenerationRequest
from device_runtime.runtime.runtime import Runtime
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
Split = tuple[int, int]
SPLITS: tuple[Split, ...] = ((0, 0), (1, 0), (2, 0), (0, 1), (1, 2))
"""Input and output layers on the device."""

MAX_TOKENS = 40
AT_ONCE = 8
STOP_IDS = frozenset({1, 2})
DRAFTERS = ("none", "ngram")
CHUNKS: tuple[int | str, ...] = (1, 7, 64, 0, "adaptive", "paper")
"""Tokens of a fixed size, or how sizes are chosen."""
ENGINES = ("onnx", "torch")
SETTINGS = tuple(itertools.product(DRAFTERS, CHUNKS, ENGINES))
SHARE = 12
"""Prompts a setting gets of the 200 in the usual run; every setting starts at another one."""


@pytest.fixture(scope="module")
def stories() -> list[tuple[list[int], Greedy]]:
    """The 200 prompts and what the unsplit model makes of them."""
    model = load_reference(STORIES)
    return [(prompt, greedy(model, prompt, MAX_TOKENS)) for prompt in story_prompts()]


@pytest.fixture(scope="module")
def story_bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[Split, Path]:
    """The story model in every split."""
    out = tmp_path_factory.mktemp("stories")
    return {(m, k): split_for_serving(STORIES, out / f"m{m}k{k}", m, k) for m, k in SPLITS}


def _settings(drafter: str, chunks: int | str, engine: str) -> dict[str, object]:
    cut: dict[str, object] = {"chunking": chunks}
    if isinstance(chunks, int):
        cut = {"chunking": "fixed", "chunk_tokens": chunks}
    return {"drafter": drafter, "engine": engine, **cut}


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
    """One cloud, and a device of each setting (or of each third one) after another."""
    chosen = list(enumerate(SETTINGS))
    ties = 0
    async with serve_cloud(cloud_config(bundles)) as cloud:
        for index, setting in chosen if whole else chosen[first % 3 :: 3]:
            share = cases if whole else _share(cases, first * len(SETTINGS) + index)
            async with connected_device(bundles, cloud.url, _settings(*setting)) as device:
                ties += await _check(device.runtime, share, STOP_IDS)
    return ties


@pytest.mark.parametrize("split", SPLITS)
async def test_stories_are_the_unsplit_models_in_every_setting(
    stories: list[tuple[list[int], Greedy]],
    story_bundles: dict[Split, Path],
    split: Split,
    record_property: RecordProperty,
) -> None:
    """A third of the settings of drafter, chunks and engine, a share of the prompts each."""
    first = SPLITS.index(split)
    ties = await _check_settings(story_bundles[split], stories, first, whole=False)
    record_property("ties", ties)


async def test_all_200_stories_are_the_unsplit_models_as_shipped(
    stories: list[tuple[list[int], Greedy]],
    story_bundles: dict[Split, Path],
    record_property: RecordProperty,
) -> None:
    async with running_stack(story_bundles[1, 0]) as stack:
        record_property("ties", (await _check(stack.runtime, stories, STOP_IDS)))


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("split", SPLITS)
async def test_all_200_stories_are_the_unsplit_models_in_every_setting(
    stories: list[tuple[list[int], Greedy]],
    story_bundles: dict[Split, Path],
    split: Split,
    record_property: RecordProperty,
) -> None:
    ties = await _check_settings(story_bundles[split], stories, 0, whole=True)
    record_property("ties", ties)


@pytest.mark.parametrize("name", sorted(VARIANTS))
async def test_random_models_of_every_family_say_what_they_say_unsplit(
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

    ties = 0
    async with serve_cloud(cloud_config(bundles)) as cloud:
        for setting in SETTINGS[index % 6 :: 6]:
            async with connected_device(bundles, cloud.url, _settings(*setting)) as device:
                ties += await _check(device.runtime, cases, frozenset())
    record_property("ties", ties)
