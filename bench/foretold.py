"""`python -m bench.foretold BUNDLES`: what `hat doctor` foretells, and what answers then take.

Both at the device's end of a shaped link, before the same cloud, on the same core, in turns: a
visit to the doctor, then answers over HTTP as in a live run. Prints a table of medians.
"""

import argparse
import asyncio
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from bench.arms import Arm, find_arm
from bench.link.opening import open_links
from bench.link.spec import LinkSpec, link_text, parse_link_spec
from bench.live.cell import run_cell
from bench.live.fleet import Fleet, shared_cores
from bench.live.plan import Setting, loads_of, model_record
from bench.live.processes import LiveError
from bench.machine import machine_lines
from bench.measures import tbt_s, ttft_s
from bench.records import RequestRecord, WorkloadRecord
from bench.workloads.arrivals import CLOSED

_LINKS = (
    "up=5mbit,down=20mbit,rtt=20ms",
    "up=20mbit,down=50mbit,rtt=40ms",
    "up=100mbit,down=100mbit,rtt=10ms",
)
_PLAIN, _DRAFTED = find_arm("hat-no-speculation"), find_arm("hat")
_ANSWER_TOKENS = 64
_SPEED_PROMPT_TOKENS = 100
_ADAPTER_PROMPTS = "tinystories"
"""What the adapters that come with hat were trained on."""


class _Prompt(msgspec.Struct):
    num_tokens: int
    ttft_s: float


class _Speed(msgspec.Struct):
    token_s: float


class _Expected(msgspec.Struct):
    prompts: list[_Prompt]
    plain: _Speed
    with_adapter: _Speed | None


class _Told(msgspec.Struct):
    problems: list[str]
    expected: _Expected | None


@dataclass(frozen=True, slots=True)
class _Pair:
    """One quantity over all visits, in seconds."""

    foretold: list[float] = field(default_factory=list)
    measured: list[float] = field(default_factory=list)

    def row(self, link: str, what: str) -> str:
        """A line of the table."""
        told, came = (statistics.median(values) for values in (self.foretold, self.measured))
        cells = [f"{_ms(told)} ({_range(self.foretold)})", f"{_ms(came)} ({_range(self.measured)})"]
        return f"| {link} | {what} | {' | '.join(cells)} | {100 * (told / came - 1):+.0f} % |"


def main() -> None:
    """Measure and print."""
    chosen = _arguments()
    print("\n".join(machine_lines()))
    print(f"model {model_record(chosen.bundles).name}, {chosen.visits} visits per link\n")
    print("| link | what | foretold, ms (range) | measured, ms (range) | off by |")
    print("|---|---|---|---|---|")
    for text in chosen.links or _LINKS:
        spec = parse_link_spec(text)
        pairs = asyncio.run(_over(spec, chosen.bundles, chosen.sizes, chosen.visits))
        for what, pair in pairs.items():
            print(pair.row(link_text(spec), what), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.foretold", description=__doc__)
    parser.add_argument("bundles", type=Path, help="folder that `hat split` wrote")
    parser.add_argument("--link", dest="links", action="append", help="as in `hat bench live`")
    parser.add_argument("--visits", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="*", default=[100, 1000])
    return parser.parse_args()


async def _over(spec: LinkSpec, bundles: Path, sizes: list[int], visits: int) -> dict[str, _Pair]:
    """All visits over one link.

    Raises:
        LiveError: a program ended or failed, or the doctor found something wrong.
    """
    pairs: defaultdict[str, _Pair] = defaultdict(_Pair)
    with open_links(spec, 1) as links:
        fleet = Fleet(bundles, links, shared_cores(), model_record(bundles).dtype)
        try:
            for visit in range(visits):
                expected = await _visit(fleet, bundles)
                for what, told_s, arm, workload in _quantities(expected, sizes):
                    setting = Setting(bundles, spec, workload, (arm,), num_warm_up=1)
                    loads = loads_of(setting, visit)
                    result = await run_cell(fleet, arm, loads, lambda: None)
                    pairs[what].foretold.append(told_s)
                    pairs[what].measured.append(_typical_s(result.requests))
        finally:
            await fleet.close()
    return pairs


async def _visit(fleet: Fleet, bundles: Path) -> _Expected:
    """What `hat doctor` says at the device's end."""
    devices = await fleet.start(_PLAIN)
    await fleet.forget(list(devices.children))
    lines: list[bytes] = []
    command = [sys.executable, "-m", "hat.child", "doctor", str(bundles / "device")]
    command += [f"--cloud={fleet.cloud_url(devices.clouds[0])}", "--insecure", "--threads=1"]
    command += ["--json"]
    child = await fleet.start_client(0, command, lines.append)
    end = await child.ended()
    try:
        told = msgspec.json.decode(b"".join(lines), type=_Told)
    except msgspec.DecodeError as error:
        raise LiveError(f"hat doctor: {end}") from error
    if told.expected is None:
        raise LiveError(f"hat doctor: {'; '.join(told.problems)}")
    return told.expected


def _quantities(
    expected: _Expected, sizes: list[int]
) -> Iterator[tuple[str, float, Arm, WorkloadRecord]]:
    """What is compared: its name, the doctor's word in seconds, and how to measure it."""
    for prompt in expected.prompts:
        if prompt.num_tokens in sizes:
            what = f"first token of {prompt.num_tokens:,}"
            yield what, prompt.ttft_s, _PLAIN, _workload(f"books:{prompt.num_tokens}", 1)
    prompts = f"books:{_SPEED_PROMPT_TOKENS}"
    yield "a token", expected.plain.token_s, _PLAIN, _workload(prompts, _ANSWER_TOKENS)
    if expected.with_adapter is not None:
        workload = _workload(_ADAPTER_PROMPTS, _ANSWER_TOKENS)
        yield "a token, adapter", expected.with_adapter.token_s, _DRAFTED, workload


def _workload(name: str, max_tokens: int) -> WorkloadRecord:
    return WorkloadRecord(
        name=name,
        arrivals=CLOSED,
        num_devices=1,
        num_requests=5,
        max_output_tokens=max_tokens,
        temperature=0.0,
    )


def _typical_s(requests: list[RequestRecord]) -> float:
    """The median time to the first token, or between tokens where there are several.

    Raises:
        LiveError: a request failed.
    """
    found = []
    for request in requests:
        first_s, gaps_s = ttft_s(request), tbt_s(request)
        if request.error is not None or first_s is None:
            raise LiveError(f"a request failed: {request.error}")
        found.append(sum(gaps_s) / len(gaps_s) if gaps_s else first_s)
    return statistics.median(found)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}" if seconds < 1 else f"{1e3 * seconds:,.0f}"


def _range(values: list[float]) -> str:
    return f"{_ms(min(values))} to {_ms(max(values))}"


if __name__ == "__main__":
    main()
