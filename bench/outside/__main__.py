"""`python -m bench.outside BUNDLES --aiperf PROGRAM`: our client and aiperf take turns.

Both ask one running device for the same prompts, one request at a time, greedily; each goes first
in every other pass. aiperf is none of our dependencies: install it in an environment of its own.
"""

import argparse
import asyncio
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench.arms import find_arm
from bench.link.measure import measure_link
from bench.link.opening import open_link
from bench.link.shaped_link import ShapedLink
from bench.link.spec import link_text, parse_link_spec
from bench.live.asking import Answered, Begin, Job, Load, Told
from bench.live.fleet import Cores, Fleet, shared_cores
from bench.live.plan import Setting, loads_of, model_record
from bench.live.processes import LiveError
from bench.live.running import CLIENT
from bench.machine import machine_lines
from bench.outside.aiperf import Aiperf
from bench.outside.comparing import HEAD, Latency, latency_of, measures_s, row, server_sums
from bench.records import WorkloadRecord
from bench.workloads.arrivals import CLOSED

_ARM = find_arm("hat")
_READ = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=60).read().decode())"


def main() -> None:
    """Measure and print."""
    chosen = _arguments()
    spec = parse_link_spec(chosen.link)
    workload = WorkloadRecord(
        name="books:128",
        arrivals=CLOSED,
        num_devices=1,
        num_requests=20,
        max_output_tokens=chosen.max_tokens,
        temperature=0.0,
    )
    setting = Setting(chosen.bundles, spec, workload, arms=(_ARM,))
    model = model_record(chosen.bundles).name
    print("\n".join(machine_lines()))
    print(f"{setting.name}, arm {_ARM.name}, model {model}")
    with open_link(spec) as link, tempfile.TemporaryDirectory() as scratch:
        rtt_ms = 1e3 * measure_link(link).rtt_s["p50"]
        print(f"link: {link_text(spec)}, kind {link.kind}, round trip {rtt_ms:.2f} ms (p50)")
        tokenizer = chosen.bundles / "device"
        program = chosen.aiperf.absolute()
        aiperf = Aiperf(program, Path(scratch), tokenizer, model, chosen.looks_per_s)
        cores = Cores() if chosen.any_core else shared_cores()
        print(f"cores: {cores.note}")
        asyncio.run(_measure(setting, link, cores, aiperf, chosen.passes))


async def _measure(
    setting: Setting, link: ShapedLink, cores: Cores, aiperf: Aiperf, num_passes: int
) -> None:
    [load] = loads_of(setting, 0)
    async with AsyncExitStack() as stack:
        fleet = Fleet(setting.bundles, [link], cores)
        stack.push_async_callback(fleet.close)
        url = (await fleet.start(_ARM)).urls[0]
        turns = _Turns(fleet, load, url, aiperf)
        print(f"aiperf: {shlex.join(turns.aiperf_command())}")
        await turns.ours()  # the device learns of link and cloud
        passes: dict[bool, list[dict[str, float]]] = {True: [], False: []}
        tokens: set[int] = set()
        for number in range(num_passes):
            for is_ours in (False, True) if number % 2 else (True, False):
                found, measures = await turns.one_pass(is_ours)
                passes[is_ours].append(measures)
                tokens |= {each.output_tokens for each in found[len(load.warm_up) :]}
    print(f"passes: {num_passes} each; tokens per answer as the server counts: {sorted(tokens)}")
    print(HEAD)
    for name in passes[True][0]:
        print(row(name, *([each[name] for each in passes[is_ours]] for is_ours in (True, False))))


@dataclass(frozen=True, slots=True)
class _Turns:
    """Both clients of one running device, at the device's end of the link."""

    fleet: Fleet
    load: Load
    url: str
    aiperf: Aiperf

    def aiperf_command(self) -> list[str]:
        """What asks all of it once."""
        return self.aiperf.command(self.url, self.load.asks, len(self.load.warm_up))

    async def ours(self) -> list[Latency]:
        """Our client's requests; it warms up with the first prompts, whole, as aiperf does."""
        whole = [*self.load.asks[: len(self.load.warm_up)], *self.load.asks]
        load = msgspec.structs.replace(self.load, warm_up=[], asks=whole)
        job = Job(self.url, "split", load)
        given = [msgspec.json.encode(each) for each in (job, Begin(time.time()))]
        told = [msgspec.json.decode(line, type=Told) for line in await self._lines(CLIENT, *given)]
        return [latency_of(each.record) for each in told if isinstance(each, Answered)]

    async def one_pass(self, is_ours: bool) -> tuple[list[Latency], dict[str, float]]:
        """All requests of one client, and what follows, beside what the endpoint counts.

        Raises:
            LiveError: not every request was answered.
        """
        before = await self._server()
        if is_ours:
            found = await self.ours()
        else:
            await self._lines(self.aiperf_command())
            found = self.aiperf.latencies()
        num, ttft_s, itl_s = (a - b for a, b in zip(await self._server(), before, strict=True))
        num_warm_up = len(self.load.warm_up)
        expected = num_warm_up + len(self.load.asks)
        if not len(found) == num == expected:
            told = f"the client tells of {len(found)} and the endpoint of {num:g}"
            raise LiveError(f"expected {expected} requests, {told}")
        return found, measures_s(found, num_warm_up, ttft_s / num, itl_s / num)

    async def _server(self) -> tuple[float, float, float]:
        # By a program, since the endpoint may be reached only from the device's end of the link.
        lines = await self._lines([sys.executable, "-c", _READ, f"{self.url}/metrics"])
        return server_sums(b"\n".join(lines).decode() + "\n")

    async def _lines(self, command: Sequence[str], *given: bytes) -> list[bytes]:
        lines: list[bytes] = []
        child = await self.fleet.start_client(0, command, lines.append)
        for line in given:
            await child.write(line)
        await child.ended()
        await self.fleet.forget([child])
        return lines


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.outside", description=__doc__)
    flag = parser.add_argument
    flag("bundles", type=Path, help="the folder that `hat split` wrote")
    flag("--aiperf", type=Path, required=True, help="the program")
    flag("--link", default="loopback", help="up=20mbit,down=50mbit,rtt=40ms")
    flag("--max-tokens", type=int, default=48)
    flag("--passes", type=int, default=5)
    flag("--any-core", action="store_true", help="do not keep both ends on cores of their own")
    looks = "how often aiperf looks for its turn; 0: always"
    flag("--looks-per-s", type=int, default=100, help=looks)
    return parser.parse_args()


if __name__ == "__main__":
    main()
