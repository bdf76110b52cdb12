"""An answer of the draft model alone, where the draft model is the model itself and never wrong.

The model's middle is one layer, and its adapter is that layer: so what is said without a cloud has
to be what transformers says, and what is said with one, whatever the sampling.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from numpy.testing import assert_allclose

from device_runtime.config import DeviceConfig
from device_runtime.generation.request import (
    CloudUnavailableError,
    GenerationRequest,
    SamplingParams,
    Token,
)
from device_runtime.grammar.wanted import OneOf
from device_runtime.server import DeviceServer, serve_device
from process.errors import StartError
from submodels.random_models import RandomModel, make_random_model
from tests.support.fake_cloud import FakeCloud, fault
from tests.support.reference import first_difference, greedy, load_reference
from tests.support.split_models import random_tokens
from tests.support.stack import (
    GREEDY,
    cloud_config,
    connected_device,
    generate_with_stats,
    split_for_serving,
)
from tests.support.stored_adapters import (
    install_block_adapter,
    install_early_adapter,
    install_fed_adapter,
)
from tests.support.world import REAL, serve_cloud
from wire.errors import FaultCode

WORDS = ("yes", "no", "perhaps")
NOBODY = "ws://127.0.0.1:9"
EXACT = {"drafter": "adapter", "draft_weights": "float32", "when_cloud_gone": "draft"}
SPLITS = [(1, 0), (0, 1), (2, 2)]
MAX_TOKENS = 30
PROMPT = random_tokens(70, 250)
"""Longer than what is read of a prompt at once."""


def _bundles(folder: Path, num_input: int, num_output: int) -> tuple[Path, Path]:
    """A random model whose middle is one layer, and its bundles with that as the adapter."""
    model = RandomModel("llama", num_layers=num_input + 1 + num_output)
    make_random_model(model, folder / "model")
    bundles = split_for_serving(folder / "model", folder / "bundles", num_input, num_output)
    install_early_adapter(bundles, folder / "adapter")
    return folder / "model", bundles


@pytest.fixture(scope="module", params=SPLITS, ids=str)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    return _bundles(tmp_path_factory.mktemp("pair"), *request.param)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _bundles(tmp_path_factory.mktemp("plain"), 1, 0)[1]


def _alone(bundles: Path, **settings: Any) -> Any:
    settings = {"threads": 1, **EXACT, **settings}
    return serve_device(DeviceConfig(bundle=bundles, port=0, cloud=NOBODY, **settings), REAL)


async def _tokens(device: DeviceServer, request: GenerationRequest) -> list[Token]:
    return [t async for each in device.runtime.generate(request, "test") for t in each.tokens]


@pytest.mark.parametrize("engine", ["onnx", "torch"])
async def test_what_a_perfect_draft_model_says_is_what_transformers_says(
    pair: tuple[Path, Path], engine: str
) -> None:
    model, bundles = pair
    reference = greedy(load_reference(model), PROMPT, MAX_TOKENS, ignore_eos=True)
    async with _alone(bundles, engine=engine) as device:
        asked = GenerationRequest(PROMPT, MAX_TOKENS, GREEDY)
        ids, stats = await generate_with_stats(device.runtime, asked)
        difference = first_difference(reference, ids)
        assert difference is None or difference.is_tie
        assert stats.is_alone
        assert (stats.num_output_tokens, stats.num_rounds, stats.bytes_up) == (MAX_TOKENS, 0, 0)
        # One token is a prompt as well, and ends where it is told to.
        short = greedy(load_reference(model), PROMPT[:1], 5, ignore_eos=True).ids
        stopped = GenerationRequest(PROMPT[:1], 5, GREEDY, frozenset({short[2]}))
        first = short.index(short[2]) + 1
        assert tuple((await generate_with_stats(device.runtime, stopped))[0]) == short[:first]


SAMPLED = SamplingParams(temperature=0.9, seed=4)
WAYS: dict[str, SamplingParams] = {
    "sampled": SAMPLED,
    "filtered": replace(SAMPLED, top_k=9, top_p=0.9, min_p=0.01),
    "penalised": replace(
        SAMPLED, presence_penalty=0.7, frequency_penalty=0.4, repetition_penalty=1.3
    ),
    "biased": replace(SAMPLED, logit_bias={5: 4.0, 9: -100.0}, bad_words=((7,), (11, 12))),
    "of few": replace(SAMPLED, allowed_token_ids=tuple(range(40, 60))),
}


async def test_masks_penalties_seeds_and_log_probabilities_are_those_of_the_model(
    plain: Path,
) -> None:
    """The same requests with a cloud and without: the same noise, and nearly the same numbers."""
    requests = [
        GenerationRequest(PROMPT[:40], MAX_TOKENS, way, num_logprobs=3) for way in WAYS.values()
    ]
    async with (
        serve_cloud(cloud_config(plain)) as cloud,
        connected_device(plain, cloud.url, EXACT) as device,
    ):
        whole = [await _tokens(device, each) for each in requests]
        held = await _tokens(device, _held(device))
    async with _alone(plain) as device:
        for expected, request in zip(whole, requests, strict=True):
            came = await _tokens(device, request)
            assert [token.id for token in came] == [token.id for token in expected]
            assert_allclose(
                [token.logprob or 0.0 for token in came],
                [token.logprob or 0.0 for token in expected],
                atol=1e-4,
            )
            assert [len(token.top) for token in came] == [3] * MAX_TOKENS
        came = await _tokens(device, _held(device))
        assert [token.id for token in came] == [token.id for token in held]
        text = device.service.tokenizer.decode([token.id for token in came[:-1]])
        assert text in WORDS


def _held(device: DeviceServer) -> GenerationRequest:
    """A choice of three words, whatever the model would like to say."""
    grammar = device.service.grammars.compile(OneOf(WORDS))
    return GenerationRequest(PROMPT[:20], MAX_TOKENS, SAMPLED, frozenset({257}), grammar=grammar)


async def test_prompts_are_not_scored_by_a_draft_model(plain: Path) -> None:
    async with _alone(plain) as device:
        asked = GenerationRequest(PROMPT[:9], 3, GREEDY, num_prompt_logprobs=1)
        with pytest.raises(CloudUnavailableError, match="does not score prompts"):
            await _tokens(device, asked)


async def test_a_fed_adapter_answers_alone_with_tokens_that_it_cannot_draft_as_well(
    tmp_path: Path,
) -> None:
    """Only some tokens are in its draft vocabulary, and the head here has all of them."""
    import numpy as np

    from tests.support.reference import STORIES, story_prompts

    few = np.arange(0, 512, 7)
    bundles = split_for_serving(STORIES, tmp_path / "bundles", 1)
    install_fed_adapter(bundles, tmp_path / "adapter", few)
    async with _alone(bundles, draft_weights="int8") as device:
        asked = GenerationRequest(story_prompts(1)[0], 40, GREEDY)
        ids, stats = await generate_with_stats(device.runtime, asked)
        again, _ = await generate_with_stats(device.runtime, asked)
    assert (len(ids), stats.is_alone) == (40, True)
    assert ids == again
    assert set(ids) - set(few.tolist())


@pytest.mark.parametrize(
    ("code", "is_there"),
    [
        (FaultCode.QUOTA, True),
        (FaultCode.TOO_MANY_SESSIONS, True),
        (FaultCode.CAPACITY, True),
        (FaultCode.BAD_CREDENTIAL, True),
        (FaultCode.FINGERPRINT_MISMATCH, True),
        (FaultCode.SHAPE_MISMATCH, True),
        (FaultCode.UNSUPPORTED_VERSION, True),
        (FaultCode.DRAINING, False),
        (FaultCode.INTERNAL, False),
        (FaultCode.DEADLINE_EXCEEDED, False),
    ],
)
async def test_a_cloud_that_refuses_the_device_is_there_and_one_that_stops_is_not(
    plain: Path, code: FaultCode, is_there: bool
) -> None:
    """Whoever asks hears why, in place of an answer that is not the model's."""
    cloud = FakeCloud(refuse_connection=fault(code, 30.0, "says the cloud"))
    await cloud.start()
    try:
        url = f"ws://127.0.0.1:{cloud.port}"
        config = DeviceConfig(bundle=plain, port=0, cloud=url, threads=1, **EXACT)
        async with serve_device(config, REAL) as device, aiohttp.ClientSession(device.url) as http:
            await device.link.tried()
            asked = GenerationRequest(PROMPT[:9], 3, GREEDY)
            if is_there:
                with pytest.raises(CloudUnavailableError, match="says the cloud"):
                    await _tokens(device, asked)
            else:
                assert len(await _tokens(device, asked)) == 3
            async with http.get("/ready") as response:
                assert response.status == (503 if is_there else 200)
                assert ("says the cloud" in await response.text()) is is_there
    finally:
        await cloud.stop()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"drafter": "ngram"}, "drafter ngram loads none"),
        ({"drafter": "suffix"}, "drafter suffix loads none"),
        ({"drafter": "none"}, "drafter none loads none"),
    ],
)
async def test_who_only_guesses_out_of_texts_cannot_answer_alone(
    plain: Path, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(StartError, match=f"expected a draft model on this device.*{words}"):
        async with _alone(plain, **settings):
            pass


async def test_a_bundle_without_an_adapter_or_with_one_of_blocks_cannot_answer_alone(
    tmp_path: Path,
) -> None:
    from tests.support.reference import STORIES

    bundles = split_for_serving(STORIES, tmp_path / "bundles", 1)
    with pytest.raises(StartError, match=r"holds no adapter.*hat adapter train"):
        async with _alone(bundles, drafter="auto"):
            pass
    install_block_adapter(bundles, tmp_path / "adapter")
    with pytest.raises(StartError, match="drafts behind rows of the cloud's"):
        async with _alone(bundles):
            pass
