"""One cloud and a device for each way to draft, asked through their endpoints."""

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import msgspec

from adapters.medusa_heads import install_heads
from device_runtime.generation.request import Emission, GenerationRequest, Token
from device_runtime.generation.stats import GenerationStats
from device_runtime.server import DeviceServer
from tests.support.eager_drafts import eager_drafts
from tests.support.reference import STORIES
from tests.support.stack import cloud_config, connected_device, serve_cloud
from tests.support.stored_adapters import ADAPTER, install_block_adapter, split_with_adapter

DRAFTERS: Mapping[str, Mapping[str, Any]] = {
    "none": {"drafter": "none"},
    "ngram": {"drafter": "ngram"},
    "suffix": {"drafter": "suffix"},
    "adapter": {"drafter": "adapter"},
    "adapter with draft-ahead": {
        "drafter": "adapter",
        "draft_ahead": "auto",
        "pipelining": "off",
    },
    "blocks": {"drafter": "adapter"},
    "medusa": {"drafter": "medusa"},
    "all that there are": {"drafter": "auto"},
}

_WITH_BLOCKS = "blocks"
"""The device whose bundle has an adapter that drafts blocks in the place of the shipped one."""
_ANSWER_S = 60.0

T = TypeVar("T")


@dataclass
class Told:
    """What a runtime was asked for one choice and what it decided."""

    request: GenerationRequest
    stats: GenerationStats
    tokens: list[Token] = field(default_factory=list)

    @property
    def ids(self) -> list[int]:
        """The token ids decided."""
        return [token.id for token in self.tokens]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the endpoint: per choice text and finish reason, and what lay behind them."""

    status: int
    error: Mapping[str, Any] | None
    choices: tuple[tuple[str, str | None], ...]
    num_tokens: int | None
    told: tuple[Told, ...]


class Asked:
    """One device's endpoint, whose runtime's emissions are written down."""

    def __init__(self, device: DeviceServer, http: aiohttp.ClientSession) -> None:
        self._url = device.url
        self._http = http
        self._told: dict[str, Told] = {}
        self._generate = device.runtime.generate
        device.runtime.generate = self._recorded  # type: ignore[method-assign, assignment]
        self._num_asked = 0

    async def answer(self, path: str, body: Mapping[str, Any]) -> Answer:
        """Ask and wait for the whole answer."""
        self._num_asked += 1
        name = f"case-{self._num_asked}"
        headers = {"X-Request-ID": name}
        async with (
            asyncio.timeout(_ANSWER_S),
            self._http.post(self._url + path, json=body, headers=headers) as response,
        ):
            data = await response.read()
        names = [key for key in self._told if key == name or key.startswith(f"{name}-")]
        told = tuple(self._told.pop(key) for key in names)
        if response.status != 200:
            error = msgspec.json.decode(data)["error"]
            return Answer(response.status, error, (), None, told)
        if body.get("stream"):
            return Answer(200, None, *_streamed(data), told)
        document = msgspec.json.decode(data)
        choices = tuple((_text(each), each["finish_reason"]) for each in document["choices"])
        return Answer(200, None, choices, document["usage"]["completion_tokens"], told)

    def _recorded(self, request: GenerationRequest, request_id: str) -> "_Recorded":
        generation = self._generate(request, request_id)
        told = self._told[request_id] = Told(request, generation.stats)
        return _Recorded(generation, told)


class _Recorded:
    """A generation whose tokens are written down as they come."""

    def __init__(self, generation: Any, told: Told) -> None:
        self._generation = generation
        self._told = told
        self.stats = generation.stats

    def __aiter__(self) -> "_Recorded":
        return self

    async def __anext__(self) -> Emission:
        emission: Emission = await anext(self._generation)
        self._told.tokens.extend(emission.tokens)
        return emission

    async def aclose(self) -> None:
        """End it."""
        await self._generation.aclose()


@dataclass(frozen=True, slots=True)
class EveryDrafter:
    """All devices, and the loop they live in."""

    asked: Mapping[str, Asked]
    loop: asyncio.AbstractEventLoop

    def answers(self, path: str, body: Mapping[str, Any]) -> dict[str, Answer]:
        """What each device answers to one request."""

        async def ask() -> list[Answer]:
            return await asyncio.gather(*(each.answer(path, body) for each in self.asked.values()))

        return dict(zip(self.asked, self.run(ask()), strict=True))

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        """The result of a call in the loop."""
        return asyncio.run_coroutine_threadsafe(call, self.loop).result()


@contextmanager
def every_drafter(folder: Path) -> Iterator[EveryDrafter]:
    """The devices, in a thread of their own while the context is entered."""
    bundles = split_with_adapter(STORIES, folder / "split", ADAPTER)
    install_heads(bundles / "device", STORIES.parent / "stories260k-medusa")
    with_blocks = split_with_adapter(STORIES, folder / "blocks", None)
    install_block_adapter(with_blocks, folder / "adapter")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="every drafter")
    thread.start()
    stack = AsyncExitStack()

    async def begin() -> Mapping[str, Asked]:
        return await stack.enter_async_context(_devices(bundles, with_blocks))

    try:
        with eager_drafts():
            yield EveryDrafter(asyncio.run_coroutine_threadsafe(begin(), loop).result(), loop)
    finally:
        asyncio.run_coroutine_threadsafe(stack.aclose(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@asynccontextmanager
async def _devices(bundles: Path, with_blocks: Path) -> AsyncIterator[Mapping[str, Asked]]:
    async with AsyncExitStack() as stack:
        cloud = await stack.enter_async_context(serve_cloud(cloud_config(bundles)))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        asked: dict[str, Asked] = {}
        for name, settings in DRAFTERS.items():
            folder = with_blocks if name == _WITH_BLOCKS else bundles
            device = connected_device(folder, cloud.url, settings)
            asked[name] = Asked(await stack.enter_async_context(device), http)
        yield asked


def _streamed(data: bytes) -> tuple[tuple[tuple[str, str | None], ...], int | None]:
    """The choices of a stream, and its usage if it says any."""
    texts: dict[int, str] = {}
    reasons: dict[int, str] = {}
    num_tokens: int | None = None
    *events, done = [event for event in data.split(b"\n\n") if event.startswith(b"data: ")]
    assert done == b"data: [DONE]"
    for event in events:
        chunk = msgspec.json.decode(event.removeprefix(b"data: "))
        for choice in chunk["choices"]:
            index = choice["index"]
            texts[index] = texts.get(index, "") + _text(choice)
            if choice["finish_reason"] is not None:
                reasons[index] = choice["finish_reason"]
        if chunk.get("usage"):
            num_tokens = chunk["usage"]["completion_tokens"]
    return tuple((texts[index], reasons[index]) for index in sorted(texts)), num_tokens


def _text(choice: Mapping[str, Any]) -> str:
    message = choice.get("message") or choice.get("delta") or {}
    return str(choice["text"] if "text" in choice else message.get("content") or "")
