"""The endpoint over a fake generator, on a real socket of this machine."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from device_runtime.api.app import make_runner
from device_runtime.api.drain import Drain
from device_runtime.api.metrics import Metrics
from device_runtime.api.service import ModelCard, Service
from device_runtime.text.chat_template import load_chat_template
from tests.support.fake_generator import FakeGenerator, always
from tests.support.tokenizers import MODEL_FOLDER, story_tokenizer

MODEL = "stories260k"
CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
STORY = " there was a little dog. He was happy"
USER = [{"role": "user", "content": "Once upon a time,"}]
EOS = 2


def make_service(generator: FakeGenerator, **changes: Any) -> Service:
    """A service over the shipped model's tokenizer; `changes` replace parts of it."""
    service = Service(
        generator=generator,
        tokenizer=story_tokenizer(),
        template=load_chat_template(MODEL_FOLDER),
        model=ModelCard(MODEL, MODEL, 1_790_000_000, "ab" * 32, eos_token_ids=(1, 2)),
        metrics=Metrics(MODEL, generator, generator, time.monotonic),
        max_side_by_side=16,
        clock=time.monotonic,
        unix_clock=time.time,
    )
    return replace(service, **changes)


@dataclass
class Client:
    """Requests to a running endpoint."""

    url: str
    http: aiohttp.ClientSession
    drain: Drain

    async def post(self, path: str, body: Any, **options: Any) -> tuple[int, Any]:
        """Status and document of a POST; bytes are sent as they are."""
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        async with self.http.post(self.url + path, data=data, **options) as response:
            return response.status, msgspec.json.decode(await response.read())

    async def events(self, path: str, body: Any) -> list[str]:
        """The lines of a stream's data and comments, in order."""
        async with self.http.post(self.url + path, json={**body, "stream": True}) as response:
            assert response.status == 200, await response.text()
            text = (await response.read()).decode()
        frames = text.split("\n\n")
        assert frames.pop() == ""
        return [frame.removeprefix("data: ") for frame in frames]

    async def chunks(self, path: str, body: Any) -> list[Any]:
        """The documents of a stream that ends with [DONE]."""
        *documents, done = await self.events(path, body)
        assert done == "[DONE]"
        return [msgspec.json.decode(document) for document in documents if document[0] == "{"]


@asynccontextmanager
async def serving(service: Service) -> AsyncIterator[Client]:
    """The endpoint on a free port, and a client for it."""
    runner = make_runner(service)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    [(host, port)] = runner.addresses
    try:
        async with aiohttp.ClientSession() as http:
            yield Client(f"http://{host}:{port}", http, service.drain)
    finally:
        await runner.cleanup()


def encoded(text: str) -> list[int]:
    # The tokenizer puts a space before a text; a continuation keeps it.
    return story_tokenizer().encode(text.removeprefix(" "), add_special_tokens=False)


def story_generator(**changes: Any) -> FakeGenerator:
    return FakeGenerator(always([*encoded(STORY), EOS]), **changes)


@asynccontextmanager
async def story_server(
    generator: FakeGenerator | None = None, **changes: Any
) -> AsyncIterator[tuple[Client, FakeGenerator]]:
    """A client of an endpoint over a fake generator, and the generator."""
    used = generator or story_generator()
    async with serving(make_service(used, **changes)) as client:
        yield client, used


async def post(path: str, body: Any, generator: FakeGenerator | None = None, **options: Any) -> Any:
    """Status and document of one POST."""
    async with story_server(generator) as (client, _):
        return await client.post(path, body, **options)
