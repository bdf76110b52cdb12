"""The middle on vLLM, in its own processes: the same ids as without, whatever happens to them."""

import asyncio
import json
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from adapters.importing.conversion import ImportLimits, import_head
from adapters.install import install_adapter
from cloud_server.server import CloudServer
from device_runtime.generation.request import GenerationRequest
from hat.verify.reference import whole_model
from submodels.random_models import RandomModel, make_random_model
from submodels.split import SplitOptions, split_checkpoint
from tests.support.cloud_client import http_get, until
from tests.support.other_names import make_other_name
from tests.support.published_heads import repeating_head
from tests.support.reference import Greedy, first_difference, greedy, load_reference, story_prompts
from tests.support.split_models import random_tokens
from tests.support.stack import (
    GREEDY,
    cloud_config,
    connected_device,
    gather_bounded,
    generate_ids,
    generate_with_stats,
    running_stack,
)
from tests.support.stored_adapters import split_with_adapter
from tests.support.vllm_engines import BLOCK_TOKENS, PARALLEL, has_vllm
from tests.support.world import serve_cloud

pytestmark = [
    pytest.mark.skipif(not has_vllm(), reason="needs vLLM: make test-vllm"),
    pytest.mark.timeout(600),
]

MODEL = Path(__file__).parents[2] / "models" / "storybook-7m"
AT_ONCE = 8
MAX_TOKENS = 48
STOP_IDS = frozenset({0})
REPEATING = RandomModel(
    num_layers=8, num_attention_heads=2, num_key_value_heads=2, head_dim=32, tied=True, seed=3
)
"""Often says the same token again; heads as wide as vLLM wants them on a CPU."""
_DEVICE = {"draft_tokens": 6, "reconnect_timeout_s": 120.0}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the model's adapter: its drafts are refused now and then, which rolls sequences back."""
    folder = tmp_path_factory.mktemp("vllm") / "split"
    return split_with_adapter(MODEL, folder, MODEL.with_name("storybook-7m-adapter"))


@pytest.fixture(scope="module")
def stories() -> list[tuple[list[int], Greedy]]:
    """Prompts and what the unsplit model makes of them."""
    model = load_reference(MODEL)
    prompts = story_prompts(AT_ONCE, MODEL)
    return [(prompt, greedy(model, prompt, MAX_TOKENS)) for prompt in prompts]


def _settings(name: str) -> dict[str, Any]:
    parallel = PARALLEL[name]
    return {
        "engine": "vllm",
        "threads": None,
        "tensor_parallel_size": parallel.tensor,
        "pipeline_parallel_size": parallel.pipeline,
        "capacity_tokens": 64 * BLOCK_TOKENS,
        "max_context_tokens": 256,
        "vllm_args": json.dumps({"enforce_eager": True, "block_size": BLOCK_TOKENS}),
    }


def _request(prompt: list[int], max_tokens: int = MAX_TOKENS) -> GenerationRequest:
    return GenerationRequest(prompt, max_tokens, GREEDY, STOP_IDS)


def _metrics(page: str) -> Mapping[str, float]:
    lines = (line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines}


def _names_left() -> set[str]:
    folders = (Path("/dev/shm"), Path(tempfile.gettempdir()))
    names = {path.name for folder in folders for path in folder.iterdir()}
    return {name for name in names if name.startswith(("hat-", "vllm")) or _is_uuid(name)}


def _is_uuid(name: str) -> bool:
    """So vLLM calls its sockets; other programs make files beside them."""
    return len(name) == 36 and name.count("-") == 4


async def test_the_torch_engine_says_what_the_unsplit_model_says(bundles, stories):
    async with running_stack(bundles, _DEVICE) as stack:
        calls = [partial(generate_ids, stack.runtime, _request(p)) for p, _ in stories]
        assert await gather_bounded(calls, AT_ONCE) == [
            list(reference.ids) for _, reference in stories
        ]


@pytest.mark.parametrize(
    "name", ["seed_oss", "internlm3, biases, dynamic", "ministral3", "qwen2_5_vl", "qwen3_vl"]
)
async def test_a_family_under_another_name_keeps_its_ids(name, tmp_path):
    """Its class here is the one of the family whose layers it has."""
    if name.startswith("internlm3") and not hasattr(transformers, "InternLM3Config"):
        pytest.skip("transformers beside this vLLM is too old for InternLM 3")
    make_other_name(name, tmp_path / "model")
    split_checkpoint(SplitOptions(str(tmp_path / "model"), tmp_path / "split", 1))
    model = whole_model({"pretrained_model_name_or_path": tmp_path / "model"}, torch.float32)
    prompts = [list(random_tokens(40, 256, seed)) for seed in range(3)]
    expected = [greedy(model, prompt, 24, ignore_eos=True) for prompt in prompts]
    settings = {**_settings("tp1"), "max_context_tokens": 128}
    async with running_stack(tmp_path / "split", _DEVICE, settings) as stack:
        for prompt, reference in zip(prompts, expected, strict=True):
            request = GenerationRequest(prompt, 24, GREEDY, frozenset())
            ids = await generate_ids(stack.runtime, request)
            assert first_difference(reference, ids) is None


async def _killed_while_nobody_asks(cloud: CloudServer) -> None:
    """It is back before anybody does."""
    assert cloud.daemon is not None
    await until(lambda: cloud.daemon.figures().num_running_sessions == 0)
    (worker, *_) = [p for p in multiprocessing.active_children() if "Worker" in p.name]
    os.kill(worker.pid or 0, signal.SIGKILL)
    await until(lambda: cloud.daemon.is_restarting)
    await until(lambda: not cloud.daemon.is_restarting, 120)


@pytest.mark.parametrize("name", PARALLEL)
async def test_eight_streams_keep_their_ids_and_outlive_a_killed_worker(bundles, stories, name):
    expected = [list(reference.ids) for _, reference in stories]
    requests = [_request(prompt) for prompt, _ in stories]

    before = _names_left()
    async with (
        serve_cloud(cloud_config(bundles, _settings(name))) as cloud,
        connected_device(bundles, cloud.url, _DEVICE) as device,
    ):
        assert cloud.daemon is not None
        calls = [partial(generate_with_stats, device.runtime, each) for each in requests]
        came = await gather_bounded(calls, AT_ONCE)
        assert [ids for ids, _ in came] == expected
        rolled_back = sum(s.num_drafted_tokens - s.num_accepted_tokens for _, s in came)
        assert rolled_back > 0, "drafts were refused"

        streams = [asyncio.ensure_future(call()) for call in calls]
        await until(lambda: cloud.daemon.figures().num_running_sessions > 0)
        (worker, *_) = [p for p in multiprocessing.active_children() if "Worker" in p.name]
        os.kill(worker.pid or 0, signal.SIGKILL)
        again = await asyncio.gather(*streams)
        assert [ids for ids, _ in again] == expected
        assert sum(stats.num_recoveries for _, stats in again) > 0

        assert (await http_get(cloud.http_url + "/ready"))[0] == 200
        page = _metrics((await http_get(cloud.metrics_url + "/metrics"))[1])
        assert page["hat_cloud_engine_restarts_total"] == 1
        assert page["hat_cloud_step_seconds_count"] > 0
        assert page["hat_cloud_kv_cache_capacity_tokens"] == 64 * BLOCK_TOKENS
        if name == "tp1":
            await _killed_while_nobody_asks(cloud)
            assert await generate_ids(device.runtime, requests[0]) == expected[0]
    assert _names_left() == before, "nor do files, pipes and shared memory stay"
    left = [p for p in multiprocessing.active_children() if "Worker" in p.name]
    assert left == [], "the cloud's end is its workers' end"


async def test_a_rotated_split_says_what_the_unsplit_model_says(stories, tmp_path):
    out = split_checkpoint(SplitOptions(str(MODEL), tmp_path / "out", None, rotation_seed=0)).out
    async with (
        serve_cloud(cloud_config(out, _settings("tp2"))) as cloud,
        connected_device(out, cloud.url, _DEVICE) as device,
    ):
        for prompt, reference in stories:
            ids = await generate_ids(device.runtime, _request(prompt))
            difference = first_difference(reference, ids)
            assert difference is None or difference.is_tie, f"{ids} not {reference.ids}"


async def test_an_eagle3_head_drafts_with_rows_from_between_vllms_layers(tmp_path):
    """Two stages: each gives the rows of one depth, and the first one's go through the second."""
    make_random_model(REPEATING, tmp_path / "source")
    out = split_checkpoint(SplitOptions(str(tmp_path / "source"), tmp_path / "out", 1, 0)).out
    head = str(repeating_head(out / "device", "eagle3").write(tmp_path / "head"))
    import_head(head, out / "device", tmp_path / "adapter", ImportLimits(0.0, 4))
    install_adapter(out / "device", tmp_path / "adapter")
    whole = load_reference(tmp_path / "source")
    num_accepted = 0
    async with (
        serve_cloud(cloud_config(out, _settings("pp2"))) as cloud,
        connected_device(out, cloud.url, {"drafter": "adapter"}) as device,
    ):
        for prompt in ([7, 3, 9, 1, 4], [11, 2, 50, 33, 8, 70, 6], [90, 91, 92, 93]):
            reference = greedy(whole, prompt, MAX_TOKENS, ignore_eos=True)
            request = GenerationRequest(prompt, MAX_TOKENS, GREEDY, frozenset())
            ids, stats = await generate_with_stats(device.runtime, request)
            difference = first_difference(reference, ids)
            assert difference is None or difference.is_tie, f"{ids} not {reference.ids}"
            num_accepted += stats.num_accepted_tokens
    assert num_accepted > 0
