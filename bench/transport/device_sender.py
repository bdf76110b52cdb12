"""The device's end of our own link: the real one, without rights, sends what it is told.

`python -m bench.transport.device_sender HOST PORT CONNECTIONS [CONGESTION]` obeys as
`bench.transport.sender` does, each number of bytes being one chunk of a prompt; CONNECTIONS is a
number or `auto`. A line `urgent SECONDS yes|no` has it send small verifications for so long,
beside one chunk after another or beside nothing, and answer with the list of their seconds.
"""

import asyncio
import concurrent.futures
import contextlib
import json
import random
import sys
import time

from bench.transport.device_cloud import ARRIVED, HIDDEN_SIZE, MAX_ROWS, ROW_BYTES
from bench.transport.sender import become_nobody
from device_runtime.link.config import LinkConfig, ModelIdentity
from device_runtime.link.link import Link
from device_runtime.link.session import LinkSession
from device_runtime.session.actions import ComputeAndSend
from process.program.run import run_on_loop
from wire.messages import Want

_LANES_S = 1.0
"""So long the further connections may take after the first."""

_URGENT_EVERY_S = 0.05
_URGENT_ROWS = 4
_BULK_ROWS = 200
_MAX_TOKENS = 1 << 14


class Device:
    """A link and two sessions on it, for prompts and for verifications."""

    def __init__(self, config: LinkConfig) -> None:
        self._link = Link(config, time.monotonic, random.SystemRandom())
        self._epoch = 0

    async def start(self) -> None:
        """Connect, further connections included if they come soon."""
        self._link.start()
        await self._link.connected()
        self._prompts = self._link.open(_MAX_TOKENS)
        self._verified = self._link.open(_MAX_TOKENS)
        await self._prompts.opened()
        await self._verified.opened()
        await asyncio.sleep(_LANES_S)

    async def close(self) -> None:
        """Give the connections up."""
        await self._link.close()

    async def send(self, num_rows: int, *, is_verify: bool = False) -> float:
        """One frame; seconds from its sending to its last byte's coming, or of a verification to
        its reply's coming."""
        self._epoch += 1
        session: LinkSession = self._verified if is_verify else self._prompts
        action = ComputeAndSend(self._epoch, 0, (0,) * num_rows, Want.LAST, is_verify)
        began_s = time.monotonic()
        await session.send(action, bytes(num_rows * ROW_BYTES))
        reply = await session.reply()
        (arrived_s,) = ARRIVED.unpack_from(reply.payload)
        return (time.monotonic() if is_verify else float(arrived_s)) - began_s

    async def urgent(self, seconds: float, has_bulk: bool) -> list[float]:
        """The round trips of verifications, sent at an even pace."""
        bulk = asyncio.create_task(self._upload()) if has_bulk else None
        end_s = time.monotonic() + seconds
        found = []
        while (now := time.monotonic()) < end_s:
            found.append(await self.send(_URGENT_ROWS, is_verify=True))
            await asyncio.sleep(max(0.0, now + _URGENT_EVERY_S - time.monotonic()))
        if bulk is not None:
            bulk.cancel()
            await asyncio.gather(bulk, return_exceptions=True)
        return found

    async def _upload(self) -> None:
        """A prompt without an end, two chunks of which are under way."""
        position = 0
        self._epoch += 1
        epoch = self._epoch
        while True:
            if position + 2 * _BULK_ROWS > _MAX_TOKENS:
                position, self._epoch = 0, self._epoch + 1
                epoch = self._epoch
            action = ComputeAndSend(epoch, position, (0,) * _BULK_ROWS, Want.NONE, False)
            await self._prompts.send(action, bytes(_BULK_ROWS * ROW_BYTES))
            if position >= 2 * _BULK_ROWS:
                await self._prompts.reply()
            position += _BULK_ROWS


async def obey(config: LinkConfig) -> None:
    """Do what standard input asks for, until it ends."""
    device = Device(config)
    await device.start()
    loop = asyncio.get_running_loop()
    loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(1))
    # By now everything is imported, which only root may be able to read.
    become_nobody()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        match line.split():
            case ["new"]:
                await device.close()
                device = Device(config)
                await device.start()
                print(0.0, flush=True)
            case ["urgent", seconds, has_bulk]:
                found = await device.urgent(float(seconds), has_bulk == "yes")
                print(json.dumps(found), flush=True)
            case [num_bytes]:
                num_rows = min(MAX_ROWS, max(1, int(num_bytes) // ROW_BYTES))
                print(await device.send(num_rows), flush=True)
    with contextlib.suppress(TimeoutError):
        await device.close()


if __name__ == "__main__":
    _, host, port, connections, *congestion = sys.argv
    model = ModelIdentity(bytes(32), 1, 1, HIDDEN_SIZE)
    run_on_loop(
        obey(
            LinkConfig(
                f"ws://{host}:{port}",
                model,
                connections=None if connections == "auto" else int(connections),
                congestion_control=congestion[0] if congestion else None,
            )
        )
    )
