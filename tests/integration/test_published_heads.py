"""Text that published heads draft is the model's own, with clouds that give taps or do not."""

import logging
from pathlib import Path

import pytest

from adapters.importing.conversion import ImportLimits, import_head
from adapters.install import install_adapter
from cloud_server.engines.torch.engine import TorchMiddleEngine
from device_runtime.generation.request import GenerationRequest
from device_runtime.generation.stats import GenerationStats
from submodels.bundle.bundle import load_bundle
from submodels.random_models import RandomModel, make_random_model
from submodels.split import SplitOptions, split_checkpoint
from tests.support.eager_drafts import eager_drafts
from tests.support.published_heads import repeating_head
from tests.support.reference import Greedy, first_difference, greedy, load_reference
from tests.support.stack import (
    GREEDY,
    Stack,
    cloud_config,
    connected_device,
    generate_with_stats,
    serve_cloud,
)

MODEL = RandomModel(hidden_size=32, intermediate_size=48, num_layers=8, tied=True, seed=3)
PROMPTS = ([7, 3, 9, 1, 4], [11, 2, 50, 33, 8, 70, 6], [90, 91, 92, 93])
NUM_TOKENS = 40
KINDS = ("eagle", "eagle3")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "source"
    make_random_model(MODEL, folder)
    return folder


@pytest.fixture(scope="module")
def cases(source: Path) -> list[tuple[list[int], Greedy]]:
    model = load_reference(source)
    return [(p, greedy(model, p, NUM_TOKENS, ignore_eos=True)) for p in PROMPTS]


@pytest.fixture(scope="module", params=[(k, n) for k in KINDS for n in (0, 1)], ids=str)
def bundles(
    request: pytest.FixtureRequest, source: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    kind, num_output = request.param
    folder = tmp_path_factory.mktemp(kind)
    out = split_checkpoint(SplitOptions(str(source), folder / "out", 1, num_output)).out
    head = repeating_head(out / "device", kind)
    published = str(head.write(folder / "published"))
    import_head(published, out / "device", folder / "adapter", ImportLimits(0.0, 4))
    install_adapter(out / "device", folder / "adapter")
    return out


async def written(stack: Stack, cases: list[tuple[list[int], Greedy]]) -> list[GenerationStats]:
    """Generate all cases and hold them against the unsplit model's text."""
    came = []
    for prompt, reference in cases:
        request = GenerationRequest(prompt, NUM_TOKENS, GREEDY, frozenset())
        ids, stats = await generate_with_stats(stack.runtime, request)
        difference = first_difference(reference, ids)
        assert difference is None or difference.is_tie, f"{ids} not {reference.ids}"
        came.append(stats)
    return came


SETTINGS = [("torch", "float32"), ("onnx", "float32"), ("onnx", "int8"), ("onnx", "int4")]


async def test_text_is_the_models_and_some_drafts_are_right(
    bundles: Path, cases: list[tuple[list[int], Greedy]]
) -> None:
    async with serve_cloud(cloud_config(bundles)) as cloud:
        for engine, weights in SETTINGS:
            device = {"drafter": "adapter", "engine": engine, "draft_weights": weights}
            async with connected_device(bundles, cloud.url, device) as served:
                with eager_drafts():
                    stats = await written(Stack(cloud, served), cases)
            assert sum(each.num_drafted_tokens for each in stats) > 0
            # A random model's choices are too close to each other for integers.
            if weights == "float32":
                assert sum(each.num_accepted_tokens for each in stats) > 0, engine


async def test_a_cloud_without_taps_serves_an_eagle3_device_as_if_it_had_no_drafter(
    bundles: Path,
    cases: list[tuple[list[int], Greedy]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(TorchMiddleEngine, "takes_taps", False)
    is_third = load_bundle(bundles, "device").manifest.files.keys() & {"features.int8.onnx"}
    caplog.set_level(logging.WARNING)
    async with (
        serve_cloud(cloud_config(bundles)) as cloud,
        connected_device(bundles, cloud.url, {"drafter": "adapter"}) as served,
    ):
        stats = await written(Stack(cloud, served), cases)
    assert bool(sum(each.num_drafted_tokens for each in stats)) is not bool(is_third)
    assert ("gives no rows of further layers" in caplog.text) is bool(is_third)
