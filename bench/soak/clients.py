"""Clients whose answers are known: each text is compared with that of an undisturbed run."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec

_TIMEOUT = aiohttp.ClientTimeout(total=300.0)
_FAILURES = (aiohttp.ClientError, OSError, TimeoutError)
_REST_S = 0.3
NO_CLOUD = "503 cloud_unavailable"
_PROMPTS = (
    "Once upon a time",
    "Once upon a time there was a dog",
    "The cat sat on the mat and",
    "Lily and Tom went to the park. They saw",
    "One day " * 30,
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """One of the requests that are asked again and again."""

    prompt: str
    max_tokens: int
    temperature: float
    seed: int

    @property
    def body(self) -> dict[str, Any]:
        """As a completion."""
        return {
            "prompt": self.prompt,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "seed": self.seed,
            "ignore_eos": True,
            "stream": True,
        }


def wanted(seed: int, max_tokens: int) -> list[Wanted]:
    """The requests of a run: greedy and sampled ones, short and long."""
    chance = random.Random(seed)
    return [
        Wanted(
            prompt, chance.randint(max_tokens // 4, max_tokens), temperature, chance.getrandbits(31)
        )
        for prompt in _PROMPTS
        for temperature in (0.0, 1.0)
    ]


@dataclass(frozen=True, slots=True)
class Answered:
    """What came of a request: its text, and why it ended early, if it did."""

    text: str
    failure: str | None = None


@dataclass
class Tally:
    """What all clients saw."""

    num_right: int = 0
    num_left: int = 0
    """Answers that their client left in mid-sentence."""
    wrong: list[str] = field(default_factory=list)
    """Texts that are not, or do not begin as, those of an undisturbed run."""
    failures: Counter[str] = field(default_factory=Counter)
    """Answers that ended early while their device lived."""
    num_refused: int = 0
    """Requests answered by 503 since there was no cloud."""
    num_broken: int = 0
    """Answers that ended early with their device."""
    longest_s: float = 0.0
    """Of a whole answer."""


class _Choice(msgspec.Struct):
    text: str = ""


class _Error(msgspec.Struct):
    message: str = ""
    code: str | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    error: _Error | None = None


async def ask(
    http: aiohttp.ClientSession, url: str, one: Wanted, leaves_after: int | None = None
) -> Answered:
    """Ask, and read to the end or until so many events have come."""
    text = ""
    try:
        async with http.post(f"{url}/v1/completions", json=one.body) as response:
            if response.status != 200:
                error = msgspec.json.decode(await response.read(), type=_Event).error
                return Answered(text, f"{response.status} {error.code if error else ''}")
            num_events = 0
            async for line in response.content:
                if line.startswith(b"data: [DONE]"):
                    return Answered(text)
                if not line.startswith(b"data: "):
                    continue
                event = msgspec.json.decode(line[6:], type=_Event)
                if event.error is not None:
                    return Answered(text, f"in the stream: {event.error.message[:80]}")
                text += "".join(choice.text for choice in event.choices)
                num_events += 1
                if num_events == leaves_after:
                    return Answered(text, "left")
    except (*_FAILURES, msgspec.DecodeError) as failure:
        return Answered(text, type(failure).__name__)
    return Answered(text, "no end")


async def undisturbed(url: str, asked: list[Wanted]) -> dict[Wanted, str]:
    """The texts that are right.

    Raises:
        RuntimeError: one failed with nothing in its way.
    """
    texts = {}
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as http:
        for one in asked:
            answered = await ask(http, url, one)
            if answered.failure is not None:
                raise RuntimeError(f"an undisturbed answer failed: {answered.failure}")
            texts[one] = answered.text
    return texts


@dataclass(frozen=True, slots=True)
class Clients:
    """Those of one device; `num_turns()` goes up when that is killed and when it is started again:
    it is odd in between."""

    url: str
    texts: dict[Wanted, str]
    tally: Tally
    num_turns: Callable[[], int]

    async def run(self, number: int, seed: int, is_over: asyncio.Event) -> None:
        """One client: ask what chance says, one after the other, until it is over."""
        chance = random.Random(f"{seed} {number}")
        # A connection that is kept may be that of a device which was killed since.
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(timeout=_TIMEOUT, connector=connector) as http:
            while not is_over.is_set():
                one = chance.choice(list(self.texts))
                leaves_after = chance.randint(1, 8) if chance.random() < 0.15 else None
                await self._one(http, one, leaves_after)
                await asyncio.sleep(chance.random() * _REST_S)

    async def _one(
        self, http: aiohttp.ClientSession, one: Wanted, leaves_after: int | None
    ) -> None:
        loop, tally = asyncio.get_running_loop(), self.tally
        begun_s, turns = loop.time(), self.num_turns()
        answered = await ask(http, self.url, one, leaves_after)
        right, failure = self.texts[one], answered.failure
        is_whole = failure is None
        if not right.startswith(answered.text) or (is_whole and answered.text != right):
            tally.wrong.append(f"{one.prompt[:30]!r}, seed {one.seed}: {answered.text!r}")
        elif is_whole:
            tally.num_right += 1
            tally.longest_s = max(tally.longest_s, loop.time() - begun_s)
        elif failure == "left":
            tally.num_left += 1
        elif failure == NO_CLOUD:
            tally.num_refused += 1
            await asyncio.sleep(_REST_S)
        elif self.num_turns() > turns or turns % 2 or failure == "ClientConnectorError":
            # It was killed meanwhile, or is not up again; a system goes on accepting connections
            # until the killed process is wholly gone.
            tally.num_broken += 1
        else:
            tally.failures[failure or ""] += 1
