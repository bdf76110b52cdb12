"""Many HTTP clients at once, some of whom leave; what is held on both sides; memory."""

import asyncio
import gc
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.event_loop import until
from tests.support.stack import Stack

NAMES = ("Tom", "Lily", "Ben", "Mia", "Sam", "Anna", "Max", "Sue")
THINGS = ("red ball", "big dog", "blue car", "small cat", "old hat", "green tree", "toy", "cake")


@dataclass(frozen=True, slots=True)
class Ask:
    """A completion that gives the same text whenever it is asked for."""

    prompt: str
    max_tokens: int
    seed: int

    @property
    def body(self) -> dict[str, Any]:
        """Greedy for even seeds, sampled for odd ones."""
        return {
            "prompt": self.prompt,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
            "temperature": self.seed % 2,
        }


def asks(count: int, max_tokens: int = 24) -> list[Ask]:
    """Different prompts of different lengths."""
    return [
        Ask(
            f"{NAMES[n % 8]} had a {THINGS[n // 8 % 8]}. " + "One day, " * (n % 3),
            max_tokens - n % 5,
            n,
        )
        for n in range(count)
    ]


@dataclass(frozen=True, slots=True)
class Client:
    """A program that asks the endpoint."""

    http: aiohttp.ClientSession
    url: str

    async def text(self, ask: Ask) -> str:
        """The whole text, which must come."""
        status, _, text = await self.answer(ask)
        assert status == 200, text
        return text

    async def answer(self, ask: Ask) -> tuple[int, dict[str, str], str]:
        """Status, headers, and the text or the error."""
        async with self.http.post(self.url, json=ask.body) as response:
            document = await response.json()
            text = document["choices"][0]["text"] if response.status == 200 else str(document)
            return response.status, dict(response.headers), text

    async def streamed(self, ask: Ask, leaves_after: int | None = None) -> str | None:
        """The text of a stream, or None when the client left it after some events."""
        parts: list[str] = []
        num_events = 0
        async with self.http.post(self.url, json={**ask.body, "stream": True}) as response:
            assert response.status == 200, await response.text()
            async for line in response.content:
                if leaves_after is not None and num_events >= leaves_after:
                    response.close()
                    return None
                if line.startswith(b"data: {"):
                    document = json.loads(line[6:])
                    assert "error" not in document, document
                    parts.append(document["choices"][0]["text"])
                    num_events += 1
        return "".join(parts)

    async def leaves_at_a_random_moment(self, ask: Ask, draws: random.Random) -> None:
        """Ask and leave: before the answer, between events, or in the middle of one."""
        if draws.random() < 0.5:
            await self.streamed(ask, leaves_after=draws.randrange(4))
            return
        asking = asyncio.create_task(self.streamed(ask))
        for _ in range(draws.randrange(40)):
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def nothing_is_held(stack: Stack) -> None:
    """Wait until neither side has a session, a reservation or a running generation."""
    daemon = stack.cloud.daemon
    assert daemon is not None

    def is_empty() -> bool:
        cloud, device = daemon.figures(), stack.runtime.admission
        held = (cloud.num_sessions, cloud.reserved_tokens, cloud.queued_tokens)
        return (*held, device.num_running, device.num_waiting) == (0, 0, 0, 0, 0)

    await until(is_empty)


def resident_bytes() -> int:
    """The memory this process holds now, after a collection."""
    gc.collect()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS line")
