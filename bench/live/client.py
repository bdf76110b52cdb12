"""`python -m bench.live.client`: asks over HTTP as a user's program does, and notes what came when.

Runs at the device's end of the link. The job comes on standard input, what happened goes to
standard output. A request's clock starts when it is due, so time that it waits here counts.
"""

import asyncio
import sys
import time
from typing import Any

import aiohttp
import msgspec

from bench.live.asking import Answered, Ask, Begin, Ended, Job, Load, Told, Warm
from bench.live.event_reader import Answer, ask

_POLL_S = 0.05
_READY_S = 60.0
_LONGEST_EVENT_BYTES = 1 << 22


def main() -> None:
    """Run the job on standard input."""
    job = msgspec.json.decode(sys.stdin.buffer.readline(), type=Job)
    asyncio.run(_run(job))


async def _run(job: Job) -> None:
    # As many connections as there are requests under way, kept open from one to the next.
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(
        timeout=timeout, connector=connector, read_bufsize=_LONGEST_EVENT_BYTES
    ) as http:
        client = _Client(http, job)
        await client.warm_up()
        _tell(Warm())
        while line := await asyncio.to_thread(sys.stdin.buffer.readline):
            await client.run(msgspec.json.decode(line, type=Begin))
            _tell(Ended(time.time()))
            if client.has_asked_all:
                break


class _Client:
    def __init__(self, http: aiohttp.ClientSession, job: Job) -> None:
        self._http = http
        self._job = job
        self._load = job.load
        self._num_begun = 0
        self._begun_s: float | None = None

    async def warm_up(self) -> None:
        """Wait for the endpoint and ask what is not counted; exit with the reason if that fails."""
        until_s = time.perf_counter() + _READY_S
        while (reason := await self._reason_not_ready()) is not None:
            if time.perf_counter() > until_s:
                sys.exit(f"{self._job.url} is not ready: {reason}")
            await asyncio.sleep(_POLL_S)
        for each in self._load.warm_up:
            answer = await self._ask(each, time.perf_counter())
            if answer.error is not None:
                sys.exit(f"the warm-up failed: {answer.error}")

    async def run(self, begin: Begin) -> None:
        """Ask what is to be asked now, and tell each answer as it is complete."""
        begun_s = time.perf_counter() + begin.unix_s - time.time()
        if self._begun_s is None:
            self._begun_s = begun_s
        if self._load.is_closed:
            await self._until(begun_s)
            for each in self._next_asks(begin.num_asks):
                await self._record(each, time.perf_counter())
        else:
            asks = self._next_asks(begin.num_asks)
            await asyncio.gather(*(self._in_time(each, begun_s) for each in asks))

    @property
    def has_asked_all(self) -> bool:
        """Whether there is nothing more to ask."""
        return self._num_begun >= len(self._load.asks)

    def _next_asks(self, num_asks: int | None) -> list[Ask]:
        begun = self._num_begun
        self._num_begun += len(self._load.asks) if num_asks is None else num_asks
        return self._load.asks[begun : self._num_begun]

    async def _in_time(self, each: Ask, begun_s: float) -> None:
        due_s = begun_s + each.at_s
        await self._until(due_s)
        await self._record(each, due_s)

    async def _until(self, moment_s: float) -> None:
        await asyncio.sleep(max(0.0, moment_s - time.perf_counter()))

    async def _record(self, each: Ask, due_s: float) -> None:
        assert self._begun_s is not None, "the run has begun"
        answer = await self._ask(each, due_s)
        arrival_s = due_s - self._begun_s
        record = answer.record(each.number, self._load.device, arrival_s)
        crossed = answer.crossed_bytes(self._job.where)
        known = {"bytes_up": crossed[0], "bytes_down": crossed[1], "category": each.category}
        _tell(Answered(msgspec.structs.replace(record, **known)))

    async def _ask(self, each: Ask, due_s: float) -> Answer:
        path = "/v1/chat/completions" if self._load.is_chat else "/v1/completions"
        return await ask(self._http, f"{self._job.url}{path}", body_of(each, self._load), due_s)

    async def _reason_not_ready(self) -> str | None:
        limit = aiohttp.ClientTimeout(total=5)
        try:
            async with self._http.get(f"{self._job.url}/ready", timeout=limit) as response:
                return None if response.status == 200 else (await response.text())[:200]
        except (aiohttp.ClientError, TimeoutError):
            return "not listening"


def body_of(each: Ask, load: Load) -> dict[str, Any]:
    """A request's document: nothing is left to the device's defaults that makes another text."""
    asked: dict[str, Any] = {"prompt": each.prompt}
    if load.is_chat:
        asked = {"messages": [{"role": "user", "content": each.prompt}]}
    return {
        **asked,
        "max_tokens": each.max_tokens,
        "temperature": load.temperature,
        "top_p": load.top_p,
        "repetition_penalty": load.repetition_penalty,
        "seed": load.seed + each.number,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "include_hat_stats": "timeline" if each.number in load.timelines else True,
    }


def _tell(what: Told) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(what) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
