"""One pass by either client, at the device's end of the link."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench.live.asking import Answered, Begin, Told
from bench.live.cell import Load
from bench.live.fleet import Fleet
from bench.live.plan import Setting, model_record
from bench.outside.aiperf import AiperfRun
from bench.outside.figures import Latency, Pass, latency_of
from bench.outside.server import ServerTimes

_CLIENT = (sys.executable, "-m", "bench.live.client")
_SERVER = (sys.executable, "-m", "bench.outside.server")


@dataclass(frozen=True, slots=True)
class Turns:
    """Both clients of one running device, whose endpoint is `url`."""

    fleet: Fleet
    url: str
    setting: Setting
    load: Load
    program: Path
    folder: Path
    looks_per_s: int | None

    async def ours(self) -> Pass:
        """A pass by our client, which warms up with the first prompts, whole, as aiperf does.

        Raises:
            ValueError: not every request was answered.
        """
        job = self.load.job(0, self.url, "split")
        warm_up = job.asks[: self.load.num_warm_up]
        job = msgspec.structs.replace(job, warm_up=[], asks=[*warm_up, *job.asks])
        before = await self._server()
        begin = Begin(time.time())
        lines = await self._lines(_CLIENT, msgspec.json.encode(job), msgspec.json.encode(begin))
        told = [msgspec.json.decode(line, type=Told) for line in lines]
        records = [each.record for each in told if isinstance(each, Answered)]
        return await self._pass([latency_of(each) for each in records], before)

    async def theirs(self, number: int) -> Pass:
        """A pass by aiperf.

        Raises:
            ValueError: not every request was answered.
            AiperfError: it wrote no records.
        """
        run = self.aiperf(number)
        before = await self._server()
        await self._lines(run.command())
        return await self._pass(run.latencies(), before)

    def aiperf(self, number: int) -> AiperfRun:
        """What aiperf is told in a pass."""
        return AiperfRun(
            program=self.program.absolute(),
            folder=(self.folder / f"pass-{number}").absolute(),
            tokenizer=self.setting.bundles / "device",
            model=model_record(self.setting.bundles).name,
            url=self.url,
            asks=self.load.asks[0],
            num_warm_up=self.load.num_warm_up,
            looks_per_s=self.looks_per_s,
        )

    async def _pass(self, latencies: Sequence[Latency], before: ServerTimes) -> Pass:
        num_warm_up = self.load.num_warm_up
        num_served, ttft_s, itl_s = (await self._server()).since(before)
        expected = num_warm_up + len(self.load.asks[0])
        if (len(latencies), num_served) != (expected, expected):
            raise ValueError(
                f"expected {expected} requests, the client tells of {len(latencies)} and the "
                f"endpoint of {num_served}"
            )
        return Pass(latencies[:num_warm_up], latencies[num_warm_up:], ttft_s, itl_s)

    async def _server(self) -> ServerTimes:
        lines = await self._lines([*_SERVER, self.url])
        return msgspec.json.decode(lines[0], type=ServerTimes)

    async def _lines(self, command: Sequence[str], *given: bytes) -> list[bytes]:
        lines: list[bytes] = []
        child = await self.fleet.start_client(0, command, lines.append)
        for line in given:
            await child.write(line)
        await child.ended()
        await self.fleet.forget([child])
        return lines
