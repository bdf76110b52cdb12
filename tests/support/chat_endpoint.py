"""A scripted OpenAI-compatible endpoint on a real socket, to test clients against."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

HANG = "<hang>"
"""A piece that never comes: the stream stays open until the client goes."""

BREAK = "<break>"
"""The connection ends here, without [DONE]."""


@dataclass
class ChatEndpoint:
    """Answers chat requests with `answers`, one list of pieces each, and keeps what was asked."""

    answers: list[Sequence[str]]
    finish_reason: str = "stop"
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    client_left: asyncio.Event = field(default_factory=asyncio.Event)
    refusal: web.Response | None = None
    figures: dict[str, Any] | None = None
    """What the last event of an answer says of it, as hat's endpoint does."""

    async def models(self, request: web.Request) -> web.Response:
        """The model list."""
        self.keys.append(request.headers.get("Authorization"))
        return self.refusal or web.json_response({"data": [{"id": "scripted"}]})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """The next scripted answer as a stream."""
        self.requests.append(await request.json())
        if self.refusal is not None:
            return self.refusal
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            return await self._send(response, self.answers.pop(0))
        except (asyncio.CancelledError, ConnectionError):
            self.client_left.set()
            raise

    async def _send(
        self, response: web.StreamResponse, pieces: Sequence[str]
    ) -> web.StreamResponse:
        for piece in pieces:
            if piece == HANG:
                await asyncio.Event().wait()
            if piece == BREAK:
                return response
            await response.write(_event({"delta": {"content": piece}, "finish_reason": None}))
        await response.write(_event({"delta": {}, "finish_reason": self.finish_reason}))
        if self.figures is not None:
            await response.write(_event_of({"choices": [], **self.figures}))
        await response.write(b": a comment\n\ndata: [DONE]\n\n")
        return response


def _event(choice: dict[str, Any]) -> bytes:
    return _event_of({"choices": [{"index": 0, **choice}]})


def _event_of(document: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


@asynccontextmanager
async def serving(endpoint: ChatEndpoint) -> AsyncIterator[ChatEndpoint]:
    """The endpoint on a free port of this machine."""
    app = web.Application()
    app.router.add_get("/v1/models", endpoint.models)
    app.router.add_post("/v1/chat/completions", endpoint.chat)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0]
        endpoint.url = f"http://{host}:{port}/v1"
        yield endpoint
    finally:
        await runner.cleanup()
