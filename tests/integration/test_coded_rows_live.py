"""Coded rows over real sockets: the same answers, from fewer bytes."""

from pathlib import Path

import pytest

from cloud_server.server import serve_cloud
from device_runtime.generation.request import GenerationRequest
from device_runtime.generation.stats import GenerationStats
from device_runtime.link.link import Link
from tests.support.event_loop import until
from tests.support.stack import (
    GREEDY,
    cloud_config,
    connected_device,
    generate_with_stats,
    running_stack,
    split_for_serving,
)
from tests.support.world import REAL

MODELS = Path(__file__).parents[2] / "models"
PROMPT = tuple(range(3, 203))
NUM_TOKENS = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return split_for_serving(MODELS / "stories260k", tmp_path_factory.mktemp("split") / "out", 1)


@pytest.fixture(scope="module")
def with_output_layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return split_for_serving(MODELS / "stories260k", tmp_path_factory.mktemp("split") / "out", 1, 2)


async def answer(
    folder: Path, wire: str = "bfloat16", cloud_codec: str = "exact", **device: object
) -> tuple[list[int], GenerationStats]:
    settings = {"drafter": "none", "chunking": "fixed", "chunk_tokens": 64} | device
    cloud = {"dtype": wire, "wire_dtype": wire, "wire_codec": cloud_codec}
    async with running_stack(folder, settings, cloud) as stack:
        request = GenerationRequest(PROMPT, NUM_TOKENS, GREEDY)
        return await generate_with_stats(stack.runtime, request)


@pytest.mark.parametrize(
    ("wire", "most"), [("bfloat16", 0.76), ("float16", 0.92), ("float32", 0.9)]
)
async def test_coded_answers_are_those_of_raw_rows_from_fewer_bytes(folder, wire, most):
    raw_ids, raw = await answer(folder, wire, wire_codec="raw")
    ids, stats = await answer(folder, wire, wire_codec="exact")
    assert ids == raw_ids
    assert stats.bytes_up <= most * raw.bytes_up
    assert stats.bytes_down <= most * raw.bytes_down + 44 * NUM_TOKENS
    assert stats.bytes_up + stats.saved_up == raw.bytes_up
    assert stats.bytes_down + stats.saved_down == raw.bytes_down


async def test_long_replies_come_coded_too(with_output_layers):
    raw_ids, raw = await answer(with_output_layers, wire_codec="raw")
    ids, stats = await answer(with_output_layers, wire_codec="exact")
    assert ids == raw_ids
    assert stats.saved_down > 0.2 * raw.bytes_down


@pytest.fixture(scope="module")
def storybook(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of 256 numbers: of 64, as above, they vary more than those of real models."""
    return split_for_serving(
        MODELS / "storybook-7m", tmp_path_factory.mktemp("storybook") / "out", 1
    )


async def lanes_up(link: Link, num_lanes: int) -> None:
    await until(lambda: link.num_lanes == num_lanes)


@pytest.mark.parametrize("connections", [1, 4])
async def test_long_frames_come_coded_whole_and_in_pieces(storybook, connections):
    # 600 rows are coded in about 200 kB, which device and cloud leave to threads.
    whole = {"chunk_tokens": 0, "connections": connections}
    cloud = {"dtype": "bfloat16", "wire_dtype": "bfloat16", "max_frame_tokens": 1024}
    prompt = tuple(3 + place * 7 % 4000 for place in range(600))
    answers = []
    for codec in ("raw", "exact"):
        device = {"drafter": "none", "wire_codec": codec, **whole}
        settings = cloud_config(storybook, cloud)
        async with (
            serve_cloud(settings, REAL.clock, randomness=REAL.randomness) as server,
            connected_device(storybook, server.url, device) as reached,
        ):
            await lanes_up(reached.link, connections - 1)
            request = GenerationRequest(prompt, 8, GREEDY)
            answers.append(await generate_with_stats(reached.runtime, request))
    (raw_ids, raw), (ids, stats) = answers
    assert ids == raw_ids
    assert stats.bytes_up < 0.7 * raw.bytes_up


async def test_padded_frames_have_lengths_that_rows_alone_decide(storybook):
    raw_ids, raw = await answer(storybook, wire_codec="raw")
    ids, stats = await answer(storybook, wire_codec="exact", pad_frames=True)
    assert ids == raw_ids
    _, again = await answer(storybook, wire_codec="exact", pad_frames=True)
    assert (stats.bytes_up, stats.bytes_down) == (again.bytes_up, again.bytes_down)
    row_bytes = 2 * 256
    num_rows = len(PROMPT) + NUM_TOKENS - 1
    assert raw.bytes_up - stats.bytes_up == num_rows * row_bytes * 9 // 32


async def test_a_cloud_that_codes_nothing_is_sent_raw_rows(folder):
    raw_ids, raw = await answer(folder, wire_codec="raw")
    ids, stats = await answer(folder, cloud_codec="raw", wire_codec="exact")
    assert ids == raw_ids
    assert stats.bytes_up == raw.bytes_up
    assert stats.saved_up == stats.saved_down == 0


async def test_by_itself_a_device_finds_out_what_is_sooner(folder):
    raw_ids, _ = await answer(folder, wire_codec="raw")
    ids, _ = await answer(folder)
    assert ids == raw_ids
