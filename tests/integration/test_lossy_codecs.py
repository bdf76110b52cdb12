"""Rounded rows between a real device and a real cloud: only where both allow it, and counted."""

import logging
from pathlib import Path
from typing import Any

import pytest

from device_runtime.generation.request import GenerationRequest
from device_runtime.generation.stats import GenerationStats
from tests.support.stack import GREEDY, generate_with_stats, running_stack, split_for_serving

STORIES = Path(__file__).parents[2] / "models" / "stories260k"
PROMPT = [1, *range(80, 140)]
MAX_TOKENS = 24
ALLOWING = {"allow_lossy_codecs": True}
EVERYWHERE = {"lossy_prompt": "int8", "lossy_up": "int8", "lossy_down": "int8"}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return split_for_serving(STORIES, tmp_path_factory.mktemp("lossy") / "out", 1)


async def answer(
    bundles: Path, device: dict[str, Any], cloud: dict[str, Any]
) -> tuple[list[int], GenerationStats]:
    async with running_stack(bundles, {"drafter": "none", **device}, cloud) as stack:
        request = GenerationRequest(PROMPT, MAX_TOKENS, GREEDY, frozenset())
        return await generate_with_stats(stack.runtime, request)


def rounded_rows(stats: GenerationStats) -> tuple[int, int]:
    return stats.lossy_up, stats.lossy_down


async def test_nothing_is_rounded_unless_the_device_asks(bundles: Path) -> None:
    _, stats = await answer(bundles, {}, ALLOWING)
    assert rounded_rows(stats) == (0, 0)


async def test_nothing_is_rounded_unless_the_cloud_allows_it(
    bundles: Path, caplog: pytest.LogCaptureFixture
) -> None:
    exact, _ = await answer(bundles, {}, {})
    with caplog.at_level(logging.INFO):
        ids, stats = await answer(bundles, EVERYWHERE, {})
    assert (ids, rounded_rows(stats)) == (exact, (0, 0))
    assert "allows no lossy codecs" in caplog.text


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("lossy_prompt", (len(PROMPT), 0)),
        ("lossy_up", (MAX_TOKENS - 1, 0)),
        ("lossy_down", (0, MAX_TOKENS)),
    ],
)
@pytest.mark.parametrize("codec", ["int8", "int6"])
async def test_each_setting_rounds_its_rows_and_no_others(
    bundles: Path,
    caplog: pytest.LogCaptureFixture,
    codec: str,
    setting: str,
    expected: tuple[int, int],
) -> None:
    with caplog.at_level(logging.INFO):
        ids, stats = await answer(bundles, {setting: codec}, ALLOWING)
    assert len(ids) == MAX_TOKENS
    assert rounded_rows(stats) == expected
    way = setting.removeprefix("lossy_")
    assert f"LOSSY: {way} in {codec}" in caplog.text


async def test_rounded_prompts_take_a_quarter_of_the_bytes(bundles: Path) -> None:
    _, exact = await answer(bundles, {"wire_codec": "raw"}, {})
    _, rounded = await answer(bundles, {"wire_codec": "raw", "lossy_prompt": "int8"}, ALLOWING)
    row_bytes = 64 * 4
    saved = exact.bytes_up - rounded.bytes_up
    # int8 with a scale and six channels of four bytes each, instead of 64 numbers of four bytes.
    assert saved == len(PROMPT) * (row_bytes - 64 - 2 - 6 * 4)


async def test_answers_from_rounded_rows_do_not_depend_on_chunks_or_drafts(bundles: Path) -> None:
    """Each row is rounded by itself, so how a text is cut into frames does not matter."""
    answers = []
    for chosen in (
        {},
        {"chunking": "fixed", "chunk_tokens": 7},
        {"chunking": "fixed", "chunk_tokens": 64},
        {"drafter": "ngram"},
    ):
        ids, stats = await answer(bundles, EVERYWHERE | chosen, ALLOWING)
        assert min(rounded_rows(stats)) > 0
        answers.append(ids)
    assert answers == [answers[0]] * len(answers)
