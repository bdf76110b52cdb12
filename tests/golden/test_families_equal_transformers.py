"""Models of every family, split, say what transformers says of the whole ones."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from adapters.data.whole_model import load_whole_model
from adapters.writing.decoder import BatchDecoder
from cloud_server.config import CloudConfig
from cloud_server.engines.engine import StepItem, Want
from cloud_server.engines.torch.bundle import load_torch_engine
from hat.verify.reference import UnsplitModel
from submodels.bundle.bundle import load_bundle
from submodels.bundle.layer_weights import Placed
from submodels.random_models import RandomModel, make_random_model
from tests.support.device_engines import ENGINES
from tests.support.family_models import FAMILY_MODELS, LONG_ROPE, has_experts
from tests.support.split_models import SplitModel, random_tokens, reference_logits, split

NUM_TOKENS = 70
# Logits have a deviation of 2 to 6 and reach 25; measured: up to 1.8e-5, Gemma 3's, whose attention
# is sharpest, up to 5.2e-5.
MAX_ERROR = 1e-4
# Every number of layers on the device, on each side; `tests.support.family_matrix` runs all pairs.
CUTS = ((0, 0), (1, 2), (2, 1))


@pytest.fixture(scope="module", params=FAMILY_MODELS.values(), ids=FAMILY_MODELS.keys())
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RandomModel, Path]]:
    folder = tmp_path_factory.mktemp("model")
    make_random_model(request.param, folder)
    yield request.param, folder
    reference_logits.cache_clear()


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_reference_layers_in_chunks_equal_the_whole_model(
    model: tuple[RandomModel, Path], tmp_path: Path, cut: tuple[int, int]
) -> None:
    made, folder = model
    token_ids = random_tokens(NUM_TOKENS, made.vocab_size)
    split(folder, tmp_path / "out", *cut)
    logits = SplitModel(tmp_path / "out").chunked_logits(token_ids, (7, 1, 3, 16))
    assert _error(logits.numpy(), folder, token_ids) < MAX_ERROR


@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize("engine_name", ENGINES)
def test_engines_of_both_sides_equal_the_whole_model(
    model: tuple[RandomModel, Path], tmp_path: Path, engine_name: str, cut: tuple[int, int]
) -> None:
    """In chunks, a batch with itself, and with a draft of nine tokens that is taken back."""
    made, folder = model
    if engine_name == "onnx" and has_experts(made) and any(cut):
        pytest.skip("experts on a device run on torch")
    out = tmp_path / "out"
    split(folder, out, *cut, onnx_weights=("float32",) if engine_name == "onnx" else ())
    token_ids = random_tokens(NUM_TOKENS, made.vocab_size)
    drafted = random_tokens(9, made.vocab_size, seed=2)
    device = ENGINES[engine_name](out / "device")
    config = CloudConfig(out, dtype="float32", capacity_tokens=2000)
    middle = load_torch_engine(load_bundle(out, "cloud"), config).engine
    ours, theirs, others = device.open(), middle.open(200), middle.open(200)
    logits: list[np.ndarray] = []
    for ids, start in (
        (token_ids[:40], 0),
        (token_ids[40:41], 40),
        (drafted, 41),
        (token_ids[41:], 41),
    ):
        rows = device.input_rows(ours, ids, start)
        steps = [StepItem(sequence, start, rows, Want.ALL) for sequence in (theirs, others)]
        deep, again = middle.step(steps)
        np.testing.assert_allclose(again, deep, rtol=0, atol=MAX_ERROR)
        logits[start:] = device.logits(ours, deep, start, len(ids))
    assert _error(np.stack(logits), folder, token_ids) < MAX_ERROR


def test_texts_side_by_side_are_given_what_the_whole_model_gives(
    model: tuple[RandomModel, Path], tmp_path: Path
) -> None:
    """As conversations are written to train a drafter, and answers to measure drafters by."""
    made, folder = model
    split(folder, tmp_path / "out", 1, 1)
    whole = load_whole_model(tmp_path / "out" / "device", tmp_path / "out" / "cloud", Placed())
    texts = [random_tokens(NUM_TOKENS, made.vocab_size, seed) for seed in (1, 2)]
    decoder = BatchDecoder(whole, 2, NUM_TOKENS)
    starts = (NUM_TOKENS - 3, 4)
    for slot, (text, start) in enumerate(zip(texts, starts, strict=True)):
        decoder.read(text[:start], slice(slot, slot + 1))
    for step in range(3):
        positions = [start + step for start in starts]
        tokens = [text[at] for text, at in zip(texts, positions, strict=True)]
        logits = decoder.logits(decoder.step(tokens, positions)).numpy()
        for text, at, row in zip(texts, positions, logits, strict=True):
            expected = reference_logits(folder, text)[at].numpy()
            assert np.abs(row - expected).max() < MAX_ERROR


def test_longropes_other_frequencies_are_those_of_longer_texts(tmp_path: Path) -> None:
    """A text beyond the original length turns by them from its first token on."""
    long = {**LONG_ROPE, "original_max_position_embeddings": 32}
    extra = {"sliding_window": None, "rope_parameters": long}
    made = RandomModel("phi3", extra={**extra, "original_max_position_embeddings": 32})
    make_random_model(made, tmp_path / "model")
    came = split(tmp_path / "model", tmp_path / "out", 1, 1, long_context=True)
    assert came.device.shape.max_context_tokens == made.max_context_tokens
    token_ids = random_tokens(NUM_TOKENS, made.vocab_size)
    logits = SplitModel(tmp_path / "out").chunked_logits(token_ids, (7, 1, 3, 16))
    assert _error(logits.numpy(), tmp_path / "model", token_ids) < MAX_ERROR
    unsplit = UnsplitModel(tmp_path / "model", "float32", long_context=True)
    (short,) = unsplit.greedy(token_ids[:5], 1).logprobs
    first = torch.from_numpy(logits[4].numpy()).log_softmax(-1).max()
    assert abs(short - float(first)) < MAX_ERROR, "so does what `hat verify` compares with"


def _error(logits: np.ndarray, folder: Path, token_ids: tuple[int, ...]) -> float:
    expected: torch.Tensor = reference_logits(folder, token_ids)
    assert logits.shape == tuple(expected.shape)
    return float(np.abs(logits - expected.numpy()).max())
