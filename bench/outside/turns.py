"""One pass by either client at the device's end of the link, beside what the endpoint counts."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from bench.live.asking import Answered, Begin, Told
from bench.live.cell import Load
from bench.live.fleet import Fleet
from bench.outside.aiperf import AiperfRun
from bench.outside.figures import Latency, Pass, latency_of

_CLIENT = (sys.executable, "-m", "bench.live.client")
_READ = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=60).read().decode())"

_TTFT = "hat_time_to_first_token_seconds"
_PER_TOKEN = "hat_request_time_per_output_token_seconds"


def server_sums(exposition: str) -> tuple[float, float, float]:
    """Of `/metrics`: requests until now, their times to the first token, their times per token."""
    sums = dict.fromkeys((f"{_TTFT}_count", f"{_TTFT}_sum", f"{_PER_TOKEN}_sum"), 0.0)
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            if sample.name in sums:
                sums[sample.name] += sample.value
    num, ttft_s, itl_s = sums.values()
    return num, ttft_s, itl_s


@dataclass(frozen=True, slots=True)
class Turns:
    """Both clients of one running device."""

    fleet: Fleet
    load: Load
    run: AiperfRun

    async def ours(self) -> list[Latency]:
        """Our client's requests; it warms up with the first prompts, whole, as aiperf does.

        Raises:
            ValueError: not every request was answered.
        """
        job = self.load.job(0, self.run.url, "split")
        warm_up = job.asks[: self.load.num_warm_up]
        job = msgspec.structs.replace(job, warm_up=[], asks=[*warm_up, *job.asks])
        given = [msgspec.json.encode(each) for each in (job, Begin(time.time()))]
        told = [msgspec.json.decode(line, type=Told) for line in await self._lines(_CLIENT, *given)]
        return [latency_of(each.record) for each in told if isinstance(each, Answered)]

    async def one_pass(self, is_ours: bool) -> Pass:
        """All requests of one client.

        Raises:
            ValueError: not every request was answered.
            AiperfError: aiperf wrote no records, or a request failed.
        """
        before = await self._server()
        if is_ours:
            found = await self.ours()
        else:
            await self._lines(self.run.command())
            found = self.run.latencies()
        num, ttft_s, itl_s = (a - b for a, b in zip(await self._server(), before, strict=True))
        num_warm_up = self.load.num_warm_up
        expected = num_warm_up + len(self.run.asks)
        if not len(found) == num == expected:
            told = f"the client tells of {len(found)} and the endpoint of {num:g}"
            raise ValueError(f"expected {expected} requests, {told}")
        return Pass(found[:num_warm_up], found[num_warm_up:], ttft_s / num, itl_s / num)

    async def _server(self) -> tuple[float, float, float]:
        # By a program, since the endpoint may be reached only from the device's end of the link.
        lines = await self._lines([sys.executable, "-c", _READ, f"{self.run.url}/metrics"])
        return server_sums(b"\n".join(lines).decode() + "\n")

    async def _lines(self, command: Sequence[str], *given: bytes) -> list[bytes]:
        lines: list[bytes] = []
        child = await self.fleet.start_client(0, command, lines.append)
        for line in given:
            await child.write(line)
        await child.ended()
        await self.fleet.forget([child])
        return lines
