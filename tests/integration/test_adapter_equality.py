"""Greedy output drafted by an adapter equals the unsplit model's, in every weights format."""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from adapters.data.whole_model import load_whole_model
from device_runtime.engines.engine import Rows, SequenceId
from device_runtime.engines.submodel_engine import SubmodelEngine
from device_runtime.generation.request import GenerationRequest
from device_runtime.generation.stats import GenerationStats
from device_runtime.runtime.runtime import Runtime
from process.errors import StartError
from submodels.bundle.layer_weights import Placed
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
    generate_with_stats,
    running_stack,
    serve_cloud,
    split_for_serving,
)
from tests.support.stored_adapters import (
    ADAPTER,
    install_block_adapter,
    install_early_adapter,
    install_fed_adapter,
    split_with_adapter,
)

RecordProperty = Callable[[str, object], None]
MAX_TOKENS = 40
AT_ONCE = 8
SHARE = 12
STOP_IDS = frozenset({1, 2})
ENGINES = (("onnx", "float32"), ("onnx", "int8"), ("onnx", "int4"), ("torch", "float32"))
AHEAD = ("off", "auto")
SETTINGS = tuple(itertools.product(ENGINES, AHEAD))


@pytest.fixture(scope="module")
def stories() -> list[tuple[list[int], Greedy]]:
    """Prompts and what the unsplit model makes of them."""
    model = load_reference(STORIES)
    prompts = story_prompts(SHARE * len(SETTINGS))
    return [(prompt, greedy(model, prompt, MAX_TOKENS)) for prompt in prompts]


@pytest.fixture(
    scope="module",
    params=[(0, None), (0, "fed"), (1, "fed"), (2, "layer"), (0, "block")],
    ids=lambda p: f"K={p[0]}, {p[1] or 'the shipped adapter'}",
)
def bundles(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped adapter, or one that is right now and then; fed and block ones draft half the
    tokens."""
    folder = tmp_path_factory.mktemp("adapter")
    num_output, kind = request.param
    if kind is None:
        return split_with_adapter(STORIES, folder / "split", ADAPTER)
    split = split_with_adapter(STORIES, folder / "split", None, 1, num_output)
    if kind == "block":
        install_block_adapter(split, folder / "adapter", np.arange(256, 512))
    elif kind == "fed":
        install_fed_adapter(split, folder / "adapter", np.arange(256, 512))
    else:
        install_early_adapter(split, folder / "adapter")
    return split


async def _check(
    runtime: Runtime, cases: Sequence[tuple[list[int], Greedy]]
) -> tuple[int, list[GenerationStats]]:
    """Generate all cases, several at once; the ties among first differences, and the figures."""
    requests = [GenerationRequest(prompt, MAX_TOKENS, GREEDY, STOP_IDS) for prompt, _ in cases]
    calls = [partial(generate_with_stats, runtime, request) for request in requests]
    came = await gather_bounded(calls, AT_ONCE)
    ties = 0
    for (_, reference), (ids, _) in zip(cases, came, strict=True):
        difference = first_difference(reference, ids)
        assert difference is None or difference.is_tie, f"{difference}: {ids} not {reference.ids}"
        ties += difference is not None
    return ties, [stats for _, stats in came]


async def test_stories_are_the_unsplit_models_in_every_setting(
    stories: list[tuple[list[int], Greedy]], bundles: Path, record_property: RecordProperty
) -> None:
    """Every setting gets a share of the prompts, and accepts some of what it drafts."""

    ties = 0
    async with serve_cloud(cloud_config(bundles)) as cloud:
        for index, ((engine, weights), draft_ahead) in enumerate(SETTINGS):
            settings = {
                "drafter": "adapter",
                "engine": engine,
                "draft_weights": weights,
                "draft_ahead": draft_ahead,
                "pipelining": "off" if draft_ahead == "auto" else "auto",
            }
            share = stories[index * SHARE : (index + 1) * SHARE]
            async with connected_device(bundles, cloud.url, settings) as device:
                num_ties, stats = await _check(device.runtime, share)
            assert sum(one.num_accepted_tokens for one in stats) > 0
            ties += num_ties
    record_property("ties", ties)


@pytest.mark.parametrize("num_output", [0, 1])
async def test_an_engine_is_handed_each_deep_row_with_its_position(
    num_output: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a fed adapter learns: were a row one position off, drafts would merely be worse."""
    bundles = split_with_adapter(STORIES, tmp_path / "split", None, 1, num_output)
    install_fed_adapter(bundles, tmp_path / "adapter")
    handed: dict[int, Rows] = {}
    plain = SubmodelEngine.logits

    def logits(
        self: SubmodelEngine, sequence: SequenceId, deep: Rows, position: int, num_logits: int
    ) -> Rows:
        handed.update(enumerate(deep, position))
        return plain(self, sequence, deep, position, num_logits)

    monkeypatch.setattr(SubmodelEngine, "logits", logits)
    prompt = story_prompts(1)[0]
    async with running_stack(bundles, {"drafter": "adapter", "engine": "torch"}) as stack:
        request = GenerationRequest(prompt, MAX_TOKENS, GREEDY, STOP_IDS)
        ids, stats = await generate_with_stats(stack.runtime, request)
    assert stats.num_accepted_tokens > 0
    text = [*prompt, *ids]
    model = load_whole_model(bundles, bundles, Placed())
    expected = model.sequence().extend(text, 0).deep.numpy()
    first = 0 if num_output else len(prompt) - 1
    assert set(handed) >= set(range(first, len(text) - 1))
    for position in range(first, len(text) - 1):
        np.testing.assert_allclose(handed[position], expected[position], rtol=0, atol=1e-3)


async def test_by_default_the_bundles_adapter_drafts_too(
    stories: list[tuple[list[int], Greedy]], tmp_path: Path
) -> None:
    bundles = split_with_adapter(STORIES, tmp_path / "split", ADAPTER)

    async def accepted(drafter: str) -> int:
        async with running_stack(bundles, {"drafter": drafter}) as stack:
            _, stats = await _check(stack.runtime, stories[:SHARE])
        return sum(one.num_accepted_tokens for one in stats)

    assert await accepted("auto") > 2 * (await accepted("ngram"))


async def test_a_bundle_without_an_adapter_drafts_by_what_was_said_unless_told_otherwise(
    stories: list[tuple[list[int], Greedy]], tmp_path: Path
) -> None:
    bundles = split_for_serving(STORIES, tmp_path / "split", 1)

    async def run(drafter: str) -> None:
        async with running_stack(bundles, {"drafter": drafter}) as stack:
            await _check(stack.runtime, stories[:2])

    await run("auto")
    with pytest.raises(StartError, match="holds no adapter with int8 weights; train one"):
        await run("adapter")
