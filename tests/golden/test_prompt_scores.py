"""Log probabilities of prompts are those of the unsplit model, however the prompt went up."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import torch

from tests.support.api_server import CHAT, COMPLETIONS
from tests.support.reference import STORIES, load_reference, story_prompts
from tests.support.stack import running_stack, split_for_serving
from tests.support.stored_adapters import ADAPTER, split_with_adapter

MAX_ERROR = 2e-4
NUM_TOP = 3


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("scores")
    return {
        "plain": split_for_serving(STORIES, folder / "plain", 1),
        "output layers": split_for_serving(STORIES, folder / "output", 1, 2),
        "adapter": split_with_adapter(STORIES, folder / "adapter", ADAPTER),
    }


def reference(ids: list[int]) -> torch.Tensor:
    """Log probabilities `[T, V]` of what comes after each token."""
    with torch.inference_mode():
        logits = load_reference(STORIES)(torch.tensor([ids])).logits[0]
    return logits.double().log_softmax(-1)


def check_scores(ids: list[int], scored: list[Mapping[str, Any] | None]) -> None:
    """vLLM's shape, beside the reference."""
    assert scored[0] is None
    assert len(scored) == len(ids)
    for place, (row, entry) in enumerate(zip(reference(ids), scored[1:], strict=False), 1):
        assert entry is not None
        own = entry[str(ids[place])]
        assert own["logprob"] == pytest.approx(float(row[ids[place]]), abs=MAX_ERROR)
        assert abs(own["rank"] - int((row >= row[ids[place]]).sum())) <= 1
        values = sorted((each["logprob"] for each in entry.values()), reverse=True)[:NUM_TOP]
        assert values == pytest.approx(row.topk(NUM_TOP).values.tolist(), abs=MAX_ERROR)


@pytest.mark.parametrize("kind", ["plain", "output layers", "adapter"])
@pytest.mark.parametrize("chunk_tokens", [1, 7, 0])
async def test_scores_of_a_prompt_are_the_unsplit_models(
    bundles: Mapping[str, Path], kind: str, chunk_tokens: int
) -> None:
    prompts = [ids[:80] for ids in story_prompts(3)] + [[1], [1, 403]]
    device = {"chunk_tokens": chunk_tokens}
    async with running_stack(bundles[kind], device) as stack, aiohttp.ClientSession() as http:
        url = stack.device.url
        for ids in prompts:
            body = {"prompt": ids, "temperature": 0, "prompt_logprobs": NUM_TOP, "max_tokens": 9}
            plain = {name: value for name, value in body.items() if name != "prompt_logprobs"}
            [expected] = (await posted(http, url + COMPLETIONS, plain))["choices"]
            # The caches hold it by now, and it goes up as a whole all the same.
            document = await posted(http, url + COMPLETIONS, body)
            [choice] = document["choices"]
            assert choice["text"] == expected["text"]
            assert document["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
            check_scores(ids, choice["prompt_logprobs"])
            echoed = {**plain, "echo": True, "logprobs": NUM_TOP, "max_tokens": 0}
            [echo] = (await posted(http, url + COMPLETIONS, echoed))["choices"]
            own = [e and e[str(ids[at])] for at, e in enumerate(choice["prompt_logprobs"])]
            assert echo["logprobs"]["tokens"][1:] == [e["decoded_token"] for e in own if e]
            values = [e and pytest.approx(e["logprob"], abs=MAX_ERROR) for e in own]
            assert echo["logprobs"]["token_logprobs"] == values
        asked = {"messages": [{"role": "user", "content": "Once upon a time"}], "max_tokens": 1}
        body = {**asked, "prompt_logprobs": NUM_TOP, "return_token_ids": True}
        document = await posted(http, url + CHAT, body)
        check_scores(document["prompt_token_ids"], document["prompt_logprobs"])


async def posted(http: aiohttp.ClientSession, url: str, body: Mapping[str, Any]) -> Any:
    """The document of an answer."""
    async with http.post(url, json=body) as response:
        document = await response.json()
        assert response.status == 200, document
    return document
