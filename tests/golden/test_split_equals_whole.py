"""Input, middle and output part together say what transformers says of the whole model."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from submodels.random_models import RandomModel, make_random_model
from tests.support.split_models import (
    VARIANTS,
    SplitModel,
    random_tokens,
    reference_logits,
    split,
)

NUM_TOKENS = 70
# Logits here have a deviation of 3 and reach 15. In float32 transformers' own are up to 2.5e-5
# from its float64 ones (the yarn variant, whose attention is sharpest), and ours as much.
MAX_ERROR = 5e-5
STORIES = Path(__file__).parents[2] / "models" / "stories260k"


@pytest.fixture(scope="module", params=VARIANTS.values(), ids=VARIANTS.keys())
def variant(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RandomModel, Path]]:
    folder = tmp_path_factory.mktemp("model")
    make_random_model(request.param, folder)
    yield request.param, folder
    reference_logits.cache_clear()


@pytest.mark.parametrize("num_output", [0, 1, 2])
@pytest.mark.parametrize("num_input", [0, 1, 2])
def test_the_split_model_in_chunks_equals_the_whole_model(
    variant: tuple[RandomModel, Path], tmp_path: Path, num_input: int, num_output: int
) -> None:
    model, folder = variant
    token_ids = random_tokens(NUM_TOKENS, model.vocab_size)
    split(folder, tmp_path / "out", num_input, num_output)
    logits = SplitModel(tmp_path / "out").chunked_logits(token_ids, (7, 1, 3, 16))
    assert _max_error(logits, reference_logits(folder, token_ids)) < MAX_ERROR


@pytest.mark.parametrize("num_output", [0, 1])
def test_the_real_model_split_equals_itself_whole(tmp_path: Path, num_output: int) -> None:
    token_ids = random_tokens(200, 512)
    split(STORIES, tmp_path / "out", 1, num_output)
    logits = SplitModel(tmp_path / "out").chunked_logits(token_ids, (64, 5))
    assert _max_error(logits, reference_logits(STORIES, token_ids)) < MAX_ERROR


def test_a_truncated_sequence_goes_on_as_if_nothing_had_been_drafted(
    variant: tuple[RandomModel, Path], tmp_path: Path
) -> None:
    model, folder = variant
    token_ids = random_tokens(NUM_TOKENS, model.vocab_size)
    rejected = random_tokens(9, model.vocab_size, seed=2)
    split(folder, tmp_path / "out", 1, 1)
    parts = SplitModel(tmp_path / "out")
    parts.logits(token_ids[:40], 0)
    parts.logits(rejected, 40)
    logits = parts.logits(token_ids[37:], 37)
    assert _max_error(logits, reference_logits(folder, token_ids)[37:]) < MAX_ERROR


def _max_error(came: torch.Tensor, expected: torch.Tensor) -> float:
    return (came - expected).abs().max().item()
