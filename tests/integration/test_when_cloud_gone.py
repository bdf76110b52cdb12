"""A cloud that is killed, and answers of the draft model alone in every API, marked as such."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from device_runtime.config import DeviceConfig
from device_runtime.main import start_lines
from device_runtime.server import DeviceServer, serve_device
from hat.chat.client import Endpoint
from tests.support.cloud_process import CloudProcess, cloud_process
from tests.support.event_loop import until
from tests.support.reference import STORIES
from tests.support.stored_adapters import ADAPTER, split_with_adapter
from tests.support.world import REAL

SAID = {"max_tokens": 12, "temperature": 0}
TURNS = [{"role": "user", "content": "Once upon a time"}]
MARK = "X-Hat-Answered-By"
PATIENCE_S = 120.0

ASKED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {**SAID, "messages": TURNS},
    "/v1/completions": {**SAID, "prompt": "Once upon a time"},
    "/v1/responses": {"input": "Once upon a time", "max_output_tokens": 16, "temperature": 0},
    "/v1/messages": {**SAID, "messages": TURNS},
    "/api/chat": {"messages": TURNS, "options": {"num_predict": 12, "temperature": 0}},
    "/api/generate": {"prompt": "Once upon", "options": {"num_predict": 12, "temperature": 0}},
}
"""A short question by each way to ask one."""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stories") / "bundles"
    return split_with_adapter(STORIES, out, ADAPTER)


@asynccontextmanager
async def _running(
    bundles: Path, free_tcp_port: int, **settings: Any
) -> AsyncIterator[tuple[CloudProcess, DeviceServer, aiohttp.ClientSession]]:
    """A cloud in a process of its own, a device that has reached it, and a client."""
    url = f"ws://127.0.0.1:{free_tcp_port}"
    chosen = {"when_cloud_gone": "draft", "reconnect_timeout_s": 0.5, **settings}
    config = DeviceConfig(bundle=bundles, port=0, cloud=url, threads=1, **chosen)
    async with (
        cloud_process(bundles, free_tcp_port) as cloud,
        serve_device(config, REAL) as device,
        aiohttp.ClientSession(device.url) as http,
    ):
        async with asyncio.timeout(PATIENCE_S):
            await device.link.connected()
        yield cloud, device, http


async def _gone(cloud: CloudProcess, device: DeviceServer) -> None:
    await cloud.kill()
    await until(lambda: not device.link.status.is_connected)


async def _asked(http: aiohttp.ClientSession, path: str, **more: Any) -> tuple[Any, str]:
    """Headers and body of an answer."""
    body = {"model": "stories260k", "stream": False, **ASKED[path], **more}
    async with http.post(path, json=body) as response:
        text = await response.text()
        assert response.status == 200, text
        return response.headers, text


def _told(text: str) -> list[dict[str, Any]]:
    """What a stream tells, event by event or line by line."""
    lines = (line.removeprefix("data: ").strip() for line in text.splitlines())
    return [json.loads(line) for line in lines if line.startswith("{")]


async def test_while_the_cloud_is_gone_the_draft_model_answers_marked_in_every_api(
    bundles: Path, free_tcp_port: int
) -> None:
    async with _running(bundles, free_tcp_port) as (cloud, device, http):
        for path in ASKED:
            headers, text = await _asked(http, path)
            assert MARK not in headers
            assert "answered_by" not in text
        await _gone(cloud, device)
        for path in ASKED:
            headers, text = await _asked(http, path)
            assert headers[MARK] == "draft", path
            document = json.loads(text)
            assert document["hat"]["answered_by"] == "draft", path
            assert document["model"].endswith(" (draft)") is path.startswith("/api/")
            headers, text = await _asked(http, path, stream=True)
            assert headers[MARK] == "draft", path
            _check_stream(path, _told(text))
        _, text = await _asked(http, "/v1/chat/completions", include_hat_stats=True)
        document = json.loads(text)
        assert document["system_fingerprint"].endswith("-draft")
        assert (document["hat"]["rounds"], document["hat"]["bytes_up"]) == (0, 0)
        _, text = await _asked(
            http, "/v1/chat/completions", include_hat_stats="rounds", stream=True
        )
        rounds = [each["hat"] for each in _told(text) if each["choices"]]
        said = [token for each in rounds for token in each.get("tokens", ())]
        assert {token["origin"] for token in said} == {"draft"}
        assert {span["what"] for span in _told(text)[-1]["hat"]["timeline"]} == {"prefill", "draft"}
        async with http.get("/ready") as response:
            assert (response.status, response.headers[MARK]) == (200, "draft")
        async with http.get("/metrics") as response:
            metrics = await response.text()
        label = '{model_name="stories260k"}'
        assert f"hat_draft_alone_requests_total{label} {2 * len(ASKED) + 2}.0" in metrics
        assert f"hat_draft_alone_tokens_total{label} " in metrics
        assert f"hat_link_connected{label} 0.0" in metrics
        await cloud.start()
        async with asyncio.timeout(PATIENCE_S):
            await device.link.connected()
        for path in ASKED:
            headers, text = await _asked(http, path)
            assert MARK not in headers, "with the cloud back the model answers"
            assert "answered_by" not in text


def _check_stream(path: str, told: list[dict[str, Any]]) -> None:
    match path:
        case "/v1/responses":
            whole = [event["response"] for event in told if "response" in event]
            assert [each["hat"]["answered_by"] for each in whole] == ["draft"] * 3
        case "/v1/messages":
            marks = [each.get("hat", {}) for each in (told[0]["message"], told[-2])]
            assert [mark.get("answered_by") for mark in marks] == ["draft", "draft"]
        case _:
            assert told
            assert all(each["hat"]["answered_by"] == "draft" for each in told), path


async def test_quality_and_rule_are_told_at_start_and_in_the_list_of_models(
    bundles: Path, free_tcp_port: int
) -> None:
    for rule in ("draft", "fail"):
        config = DeviceConfig(
            bundle=bundles, port=0, cloud="ws://127.0.0.1:9", threads=1, when_cloud_gone=rule
        )
        async with serve_device(config, REAL) as device, aiohttp.ClientSession(device.url) as http:
            lines = start_lines(config, device)
            async with http.get("/v1/models") as response:
                [model] = (await response.json())["data"]
            if rule == "fail":
                assert "when_cloud_gone" not in model
                assert "alone" not in lines
                async with http.post("/v1/completions", json={"prompt": "Once"}) as response:
                    assert response.status == 503
                continue
            lone = model["when_cloud_gone"]
            assert lone["tokens_per_round"] == pytest.approx(2.4219, abs=1e-3)
            share, places = lone["acceptance"], range(lone["draft_tokens"] + 1)
            assert sum(share**place for place in places) == pytest.approx(2.4219, abs=0.01)
            assert (
                "2.42 tokens per round of up to 6 drafted: behind the model's text about" in lines
            )
            assert " 60% of its tokens are the model's own" in lines


async def test_an_answer_that_has_begun_is_the_models_or_none(
    bundles: Path, free_tcp_port: int
) -> None:
    async with _running(bundles, free_tcp_port, drafter="adapter") as (cloud, _, http):
        body = {"prompt": "Once upon a time", "max_tokens": 480, "stream": True, "seed": 1}
        async with http.post("/v1/completions", json=body) as response:
            assert MARK not in response.headers
            first = await response.content.readline()
            assert b'"text":' in first
            await cloud.kill()
            rest = (await response.content.read()).decode()
        assert "answered_by" not in rest
        assert "cloud_unavailable" in rest
        assert (await _asked(http, "/v1/completions"))[0][MARK] == "draft"


async def test_a_prompt_that_waits_for_its_first_token_is_answered_after_the_usual_patience(
    bundles: Path, free_tcp_port: int
) -> None:
    """Nothing of it is decided, so nothing keeps it from being the draft model's."""
    async with _running(bundles, free_tcp_port, reconnect_timeout_s=1.0) as (cloud, _, http):
        await cloud.kill()
        # At once: the link may not even have noticed.
        headers, text = await _asked(http, "/v1/completions")
        assert headers[MARK] == "draft"
        assert json.loads(text)["usage"]["completion_tokens"] == 12


async def test_hat_chat_says_who_answers(bundles: Path, free_tcp_port: int) -> None:
    async with _running(bundles, free_tcp_port) as (cloud, device, _):
        await _gone(cloud, device)
        asked = {"model": "stories260k", "messages": TURNS, **SAID}
        pieces = [piece async for piece in Endpoint(f"{device.url}/v1").answer(asked)]
        assert all(piece.is_drafted for piece in pieces if piece.text)
