"""Sampled output through device and cloud is distributed as the unsplit model's."""

import itertools
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from adapters.install import install_adapter
from device_runtime.engines.engine import Rows, SequenceId
from device_runtime.engines.submodel_engine import SubmodelEngine
from device_runtime.generation.request import GenerationRequest, SamplingParams
from tests.support.reference import STORIES, load_reference
from tests.support.stack import gather_bounded, generate_ids, running_stack, split_for_serving
from tests.support.stored_adapters import ADAPTER, install_block_adapter

BLOCKS = "an adapter that drafts blocks"
TOP_K = 2
TEMPERATURE = 2.0
NUM_TOKENS = 4
NUM_DRAWS = 2000
NOISE_QUANTILE = 0.999
# It repeats itself, so that the n-gram drafter has something to propose for every position.
PROMPT = (
    "Tom had a big red ball. Tom had a big red car. Tom had a big red ball. "
    "Tom had a big red car. Tom had a big"
)


@pytest.fixture(scope="module")
def prompt_ids() -> list[int]:
    return Tokenizer.from_file(str(STORIES / "tokenizer.json")).encode(PROMPT).ids


@pytest.fixture(scope="module")
def target(prompt_ids: list[int]) -> dict[tuple[int, ...], float]:
    """The exact probability of every continuation of `NUM_TOKENS`, by the unsplit model."""
    model = load_reference(STORIES)
    beginnings: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(NUM_TOKENS):
        longer: dict[tuple[int, ...], float] = {}
        for text, probability in beginnings.items():
            with torch.inference_mode():
                logits = model(torch.tensor([[*prompt_ids, *text]])).logits[0, -1].double()
            top = (logits / TEMPERATURE).topk(TOP_K)
            for token, share in zip(top.indices, top.values.softmax(-1), strict=True):
                longer[(*text, int(token))] = probability * float(share)
        beginnings = longer
    return beginnings


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = split_for_serving(STORIES, tmp_path_factory.mktemp("sampled") / "m1", 1)
    install_adapter(out, ADAPTER)
    return out


@pytest.fixture(scope="module")
def with_blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with an adapter that drafts blocks."""
    folder = tmp_path_factory.mktemp("blocks")
    out = split_for_serving(STORIES, folder / "m1", 1)
    install_block_adapter(out, folder / "adapter")
    return out


def _total_variation(counts: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    return float(np.abs(counts / counts.sum() - others / others.sum()).sum() / 2)


def _noise_floor(probabilities: NDArray[np.float64], generator: np.random.Generator) -> float:
    """The distance that two unsplit runs of `NUM_DRAWS` stay below, but for one in a thousand."""
    runs = generator.multinomial(NUM_DRAWS, probabilities, size=(4000, 2)).astype(np.float64)
    distances = np.abs(runs[:, 0] - runs[:, 1]).sum(axis=1) / (2 * NUM_DRAWS)
    return float(np.quantile(distances, NOISE_QUANTILE))


async def _draw(bundles: Path, drafter: str, prompt_ids: Sequence[int]) -> Counter[tuple[int, ...]]:
    """`NUM_DRAWS` continuations, each with its own seed."""
    async with running_stack(bundles, {"drafter": drafter}) as stack:
        requests = [
            GenerationRequest(
                prompt_ids,
                NUM_TOKENS,
                SamplingParams(temperature=TEMPERATURE, top_k=TOP_K, seed=seed),
            )
            for seed in range(NUM_DRAWS)
        ]
        texts = await gather_bounded(
            [partial(generate_ids, stack.runtime, request) for request in requests], 16
        )
    return Counter(tuple(text) for text in texts)


def _distance_and_floor(
    counts: Counter[tuple[int, ...]], target: dict[tuple[int, ...], float]
) -> tuple[float, float]:
    """Total variation between the split model's draws and an unsplit run's, and its noise."""
    generator = np.random.default_rng(7)
    probabilities = np.array(list(target.values()))
    unsplit = generator.multinomial(NUM_DRAWS, probabilities).astype(np.float64)
    split = np.array([counts[text] for text in target], dtype=np.float64)
    # What the target never says counts as a distance of its own.
    split, unsplit = np.append(split, NUM_DRAWS - split.sum()), np.append(unsplit, 0.0)
    return _total_variation(split, unsplit), _noise_floor(probabilities, generator)


@pytest.mark.parametrize("drafter", ["none", "ngram", "adapter", BLOCKS])
async def test_sampled_text_is_as_close_to_the_unsplit_model_as_another_run_of_it(
    drafter: str,
    bundles: Path,
    with_blocks: Path,
    prompt_ids: list[int],
    target: dict[tuple[int, ...], float],
) -> None:
    if drafter == BLOCKS:
        bundles, drafter = with_blocks, "adapter"
    counts = await _draw(bundles, drafter, prompt_ids)
    distance, floor = _distance_and_floor(counts, target)
    assert distance <= floor


async def test_the_check_catches_a_draft_that_is_judged_by_the_row_before_it(
    bundles: Path,
    prompt_ids: list[int],
    target: dict[tuple[int, ...], float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A planted bug that shows only where something was drafted."""
    right = SubmodelEngine.logits

    def shifted(
        engine: SubmodelEngine, sequence: SequenceId, deep: Rows, position: int, num_logits: int
    ) -> Rows:
        rows = right(engine, sequence, deep, position, num_logits)
        return np.concatenate([rows[:1], rows[:-1]])

    monkeypatch.setattr(SubmodelEngine, "logits", shifted)
    counts = await _draw(bundles, "ngram", prompt_ids)
    distance, floor = _distance_and_floor(counts, target)
    assert distance > floor


async def test_a_seed_gives_the_same_text_whatever_drafts_and_chunks(
    bundles: Path, with_blocks: Path, prompt_ids: list[int]
) -> None:
    """The drafter, other chunk sizes and another engine change nothing but speed."""
    sampling = SamplingParams(temperature=1.0, seed=11, top_p=0.95)
    requests = [GenerationRequest(prompt_ids[: 20 + n], 60, sampling) for n in range(8)]

    async def texts(drafter: str, chunk_tokens: int, engine: str) -> list[list[int]]:
        folder = bundles
        if drafter == BLOCKS:
            folder, drafter = with_blocks, "adapter"
        settings = {"drafter": drafter, "chunk_tokens": chunk_tokens, "engine": engine}
        async with running_stack(folder, settings) as stack:
            calls = [partial(generate_ids, stack.runtime, request) for request in requests]
            return await gather_bounded(calls, 8)

    settings = itertools.product(("none", "ngram", "adapter", BLOCKS), ((7, "onnx"), (0, "torch")))
    first, *others = [await texts(drafter, *rest) for drafter, rest in settings]
    assert len(set(map(tuple, first))) == len(first)
    assert all(other == first for other in others)
