"""`python -m bench.reuse.talk`: a device at its end of the link, asked turn by turn.

The job comes on standard input, what was answered goes to standard output. The device runs in this
process, so that its socket can be cut and the device itself ended and begun again.
"""

import asyncio
import contextlib
import random
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from bench.reuse.records import (
    APART,
    CUT,
    KEPT,
    NONE,
    RESTARTED,
    TOGETHER,
    Answered,
    Job,
)
from device_runtime.config import DeviceConfig
from device_runtime.generation.request import GenerationRequest, SamplingParams
from device_runtime.link.dialing import Dialer
from device_runtime.server import DeviceServer, link_config, serve_device
from process.sockets.socket import Socket
from process.world import World
from submodels.bundle.bundle import load_bundle

_CONNECT_S = 30.0
_WORLD = World(time.monotonic, time.time, random.SystemRandom())
_GREEDY = SamplingParams(temperature=0.0)
_SETTINGS: dict[str, dict[str, Any]] = {NONE: {"kept_sessions": 0}, APART: {"kept_sessions": 0}}


def main() -> None:
    """Run the job on standard input."""
    job = msgspec.json.decode(sys.stdin.buffer.readline(), type=Job)
    asyncio.run(_run(job))


async def _run(job: Job) -> None:
    for number in range(len(job.talks)):
        # In another order each time, so that what the machine does meanwhile hits all alike.
        arms = [NONE, KEPT, CUT, RESTARTED]
        for arm in arms[number % 4 :] + arms[: number % 4]:
            await _converse(job, arm, number)
        for arm in (APART, TOGETHER):
            await _ask_two(job, arm, number)


class _Sockets:
    """A `Dial` that knows what it has opened."""

    def __init__(self, dialer: Dialer) -> None:
        self._dialer = dialer
        self._sockets: list[Socket] = []
        self.has_dialed = asyncio.Event()

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[Socket]:
        """Another one."""
        async with self._dialer() as socket:
            self._sockets.append(socket)
            self.has_dialed.set()
            yield socket

    def cut(self) -> None:
        """Lose all of them."""
        self.has_dialed.clear()
        for socket in self._sockets:
            socket.abort()
        self._sockets.clear()


class _Device:
    """A running device, and its sockets."""

    def __init__(self, server: DeviceServer, sockets: _Sockets) -> None:
        self._server = server
        self._sockets = sockets

    async def ask(self, arm: str, talk: int, turn: int, ids: Sequence[int], num: int) -> Answered:
        """One answer, and what it took."""
        generation = self._server.runtime.generate(GenerationRequest(ids, num, _GREEDY), "bench")
        answer: list[int] = []
        async with aclosing(generation):
            async for emission in generation:
                answer += [token.id for token in emission.tokens]
        stats = generation.stats
        assert stats.first_token_s is not None, "it was answered"
        return Answered(
            arm=arm,
            talk=talk,
            turn=turn,
            first_token_s=stats.first_token_s,
            prompt_tokens=len(ids),
            sent_tokens=sum(chunk.num_tokens for chunk in stats.chunks),
            cached_tokens=stats.num_reused_tokens,
            answer=answer,
        )

    async def cut(self) -> None:
        """Lose every socket, and wait until the cloud is reached again."""
        self._sockets.cut()
        async with asyncio.timeout(_CONNECT_S):
            await self._sockets.has_dialed.wait()
            await self._server.link.connected()


@asynccontextmanager
async def _device(job: Job, arm: str) -> AsyncIterator[_Device]:
    folder = {"kept_sessions_folder": Path(job.folder)} if arm == RESTARTED else {}
    config = DeviceConfig(
        bundle=Path(job.bundle),
        port=0,
        cloud=job.cloud_url,
        threads=1,
        suffix_memory_tokens=0,
        **{**folder, **_SETTINGS.get(arm, {})},
    )
    sockets = _Sockets(Dialer(link_config(config, load_bundle(config.bundle_path, "device"))))
    async with serve_device(config, _WORLD, sockets) as server:
        async with asyncio.timeout(_CONNECT_S):
            await server.link.connected()
        yield _Device(server, sockets)


async def _warm_up(device: _Device) -> None:
    """Ask what no conversation begins with, so that the planner knows link and cloud.

    After a restart it does not, as it is for a user.
    """
    await device.ask("", -1, -1, [index % 97 + 3 for index in range(100, 20, -1)], 4)


async def _converse(job: Job, arm: str, number: int) -> None:
    """All turns of one conversation by one arm."""
    text: list[int] = []
    async with contextlib.AsyncExitStack() as stack:
        device = await stack.enter_async_context(_device(job, arm))
        await _warm_up(device)
        for turn, said in enumerate(job.talks[number].turns):
            if turn > 0 and arm == CUT:
                await device.cut()
            elif turn > 0 and arm == RESTARTED:
                await stack.aclose()
                device = await stack.enter_async_context(_device(job, arm))
            await asyncio.sleep(job.pause_s if turn > 0 else 0.0)
            text += said
            answered = await device.ask(arm, number, turn, list(text), job.answer_tokens)
            text += answered.answer
            _tell(answered)


async def _ask_two(job: Job, arm: str, number: int) -> None:
    """Two requests at once that begin with the conversation's first turn."""
    first, *others = job.talks[number].turns
    async with _device(job, arm) as device:
        await _warm_up(device)
        pairs = enumerate((others[0], others[1]))
        asks = (device.ask(arm, number, turn, first + end, 4) for turn, end in pairs)
        for answered in await asyncio.gather(*asks):
            _tell(answered)


def _tell(answered: Answered) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(answered) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
