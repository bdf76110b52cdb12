"""Spans of requests, as a collector gets them: times and counts, and no word of anybody."""

import asyncio
import gzip
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from device_runtime.api.service import ModelCard
from device_runtime.api.spans import NO_SPANS, collector_of, spans_to
from device_runtime.config import DeviceConfig
from device_runtime.server import _spans
from tests.support.api_server import CHAT, COMPLETIONS, MODEL, USER, story_generator, story_server
from tests.support.world import REAL

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GIVEN = f"00-{TRACE_ID}-{SPAN_ID}-01"


@pytest.mark.parametrize(
    ("setting", "environ", "expected"),
    [
        (None, {}, None),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, None),
        (
            "http://here:4318",
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"},
            "http://here:4318/v1/traces",
        ),
        ("http://here/own/path", {}, "http://here/own/path"),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:1/a/"}, "http://x:1/a/v1/traces"),
        (None, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://y/t"}, "http://y/t"),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_TRACES_EXPORTER": "none"}, None),
    ],
)
def test_a_collector_is_one_that_is_named(setting, environ, expected) -> None:
    assert collector_of(setting, environ) == expected


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("a-word:hush", "expected a URL like http://127.0.0.1:4318; no spans are sent"),
        ("grpc://who:hush@127.0.0.1:1", "expected a URL like http://127.0.0.1:4318"),
        ("http://who:hush@127.0.0.1:1", "spans of requests go to 127.0.0.1:1, without"),
    ],
)
def test_what_the_environment_names_is_judged_and_its_password_is_in_no_log(
    address, said, monkeypatch, caplog
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
    model = ModelCard("m", (), "m", 0, "", ())
    spans = _spans(DeviceConfig(), model, REAL)
    spans.close()
    assert (spans is NO_SPANS) is ("expected" in said)
    assert said in caplog.text
    assert "hush" not in caplog.text


def test_nothing_of_the_library_is_loaded_unless_spans_are_wanted() -> None:
    code = "import sys, device_runtime.server; assert 'opentelemetry' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class Collector:
    """Takes what exporters send."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        is_packed = request.headers.get("Content-Encoding") == "gzip"
        self.bodies.append(gzip.decompress(body) if is_packed else body)
        return web.Response(content_type="application/x-protobuf")

    def spans(self) -> list[Any]:
        """All that came, by their names."""
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
            ExportTraceServiceRequest,
        )

        requests = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        scopes = [s for r in requests for each in r.resource_spans for s in each.scope_spans]
        return sorted((span for s in scopes for span in s.spans), key=lambda span: span.name)


@asynccontextmanager
async def collecting() -> AsyncIterator[tuple[Collector, str]]:
    collector = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        [(host, port)] = runner.addresses
        yield collector, f"http://{host}:{port}/v1/traces"
    finally:
        await runner.cleanup()


async def spans_of(path: str, body: dict[str, Any], **options: Any) -> tuple[Collector, list[Any]]:
    """What one request is told as."""
    generator = story_generator(tokens_per_round=3, num_drafted=4)
    async with collecting() as (collector, url):
        spans = spans_to(url, MODEL, time.monotonic, time.time)
        async with story_server(generator, spans=spans) as (client, _):
            await client.post(path, body, **options)
        await asyncio.to_thread(spans.close)
        return collector, collector.spans()


def values(attributes: Any) -> dict[str, Any]:
    return {each.key: each.value.int_value for each in attributes}


async def test_a_request_is_a_span_below_its_clients_with_its_prefill_and_its_rounds() -> None:
    before_ns = time.time_ns()
    body = {"messages": USER, "max_tokens": 6}
    _, [prefill, request] = await spans_of(CHAT, body, headers={"traceparent": GIVEN})
    assert (prefill.name, request.name) == ("prefill", "request")
    assert request.trace_id.hex() == prefill.trace_id.hex() == TRACE_ID
    assert request.parent_span_id.hex() == SPAN_ID
    assert prefill.parent_span_id == request.span_id
    assert before_ns <= request.start_time_unix_nano + 10**6
    assert request.start_time_unix_nano <= prefill.start_time_unix_nano
    assert prefill.end_time_unix_nano <= request.end_time_unix_nano <= time.time_ns()
    assert [event.name for event in request.events] == ["round", "round"]
    told = values(request.events[0].attributes)
    assert told == {"hat.tokens": 3, "hat.drafted_tokens": 4, "hat.accepted_tokens": 2}
    assert values(request.attributes)["hat.rounds"] == 2


async def test_no_word_of_prompt_answer_or_client_is_told() -> None:
    headers = {"X-Request-ID": "the-name-of-a-client"}
    body = {"messages": USER, "max_tokens": 6, "user": "somebody"}
    collector, _ = await spans_of(CHAT, body, headers=headers)
    sent = b"".join(collector.bodies)
    assert MODEL.encode() in sent
    for word in (b"Once", b"little", b"the-name-of", b"somebody"):
        assert word not in sent


async def test_choices_of_a_request_without_a_trace_are_in_one_of_ours() -> None:
    _, spans = await spans_of(COMPLETIONS, {"prompt": "Once", "n": 3, "max_tokens": 2})
    requests = [span for span in spans if span.name == "request"]
    assert len(requests) == 3
    assert len({span.trace_id for span in spans}) == 1
    assert {values(span.attributes)["hat.choice"] for span in requests} == {0, 1, 2}
    assert not any(span.parent_span_id for span in requests)


async def test_what_a_client_does_not_record_is_not_recorded_here() -> None:
    header = GIVEN.removesuffix("01") + "00"
    _, spans = await spans_of(CHAT, {"messages": USER}, headers={"traceparent": header})
    assert spans == []


@pytest.mark.parametrize("is_there", [True, False], ids=["it never answers", "it is gone"])
async def test_a_collector_that_takes_nothing_holds_up_nobody(is_there) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        if not is_there:
            listener.close()
        url = f"http://127.0.0.1:{port}/v1/traces"
        spans = spans_to(url, MODEL, time.monotonic, time.time)
        async with story_server(spans=spans) as (client, _):
            status, _ = await client.post(CHAT, {"messages": USER, "max_tokens": 2})
        assert status == 200
        async with asyncio.timeout(9):
            await asyncio.to_thread(spans.close)
