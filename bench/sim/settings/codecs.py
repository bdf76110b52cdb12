"""An 8B model's rows as they are and coded exactly: 30 and 1,000 devices over links of four rates.

Devices are the paper's (two AGX Xavier to each AGX Orin), clouds are H200s. All times are computed
(`hardware.py`); the codec's share and times were measured on a small model's rows
(`bench.sim.world.coding`). Programs, planner and policies are the real ones.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from bench.link.spec import LinkSpec
from bench.measures import percentile, tbt_s, ttft_s
from bench.records import Cell, LinkRecord, WorkloadRecord
from bench.sim.arms import sim_arm
from bench.sim.cloud import CloudSpec, core_config
from bench.sim.scenario import DeviceSpec, Scenario
from bench.sim.settings.hardware import (
    H200,
    LLAMA_8B,
    ORIN,
    XAVIER,
    RooflineStep,
    device_times,
)
from bench.sim.settings.large_models import model_record, requests_of
from bench.sim.world.acceptance import geometric
from bench.sim.world.coding import EXACT_BF16
from bench.workloads.arrivals import POISSON
from bench.workloads.lengths import SPEC_BENCH

MARK = "bench-codecs"
"""Of the table in a document."""

RATES_MBIT = (5, 20, 40, 100)
_DELAY_S = 20e-3
_OUTPUT_TOKENS = 32
_CONTEXT_TOKENS, _CAPACITY_TOKENS = 2048, 1 << 19
_ACCEPT_LENGTH, _SURE, _MAX_DRAFT_TOKENS = 2.06, 0.75, 6
_BYTES_PER_MBIT = 1e6 / 8

RAW, EXACT = "hat+raw", "hat+exact"


@dataclass(frozen=True, slots=True)
class Crowd:
    """So many devices, clouds and requests; `requests_per_s` over all of them."""

    num_devices: int
    num_clouds: int
    num_requests: int
    requests_per_s: float


CROWDS = (Crowd(30, 1, 150, 3.0), Crowd(1000, 4, 600, 60.0))


def scenarios(seed: int, crowds: Sequence[Crowd] = CROWDS) -> Iterator[Scenario]:
    """Both arms for every crowd over every link."""
    for crowd in crowds:
        for rate in RATES_MBIT:
            for name in (RAW, EXACT):
                yield _scenario(crowd, rate, name, seed)


def _scenario(crowd: Crowd, rate_mbit: float, name: str, seed: int) -> Scenario:
    model = LLAMA_8B
    rate = rate_mbit * _BYTES_PER_MBIT
    link = LinkSpec(rate, 2 * rate, _DELAY_S)
    workload = WorkloadRecord(
        name=SPEC_BENCH,
        arrivals=POISSON,
        num_devices=crowd.num_devices,
        num_requests=crowd.num_requests,
        max_output_tokens=_OUTPUT_TOKENS,
        temperature=0.0,
        requests_per_s=crowd.requests_per_s,
    )
    machines = [XAVIER if number % 3 else ORIN for number in range(crowd.num_devices)]
    num_sockets = max(crowd.num_devices, 256)
    core = core_config(
        _CAPACITY_TOKENS,
        _CONTEXT_TOKENS,
        model.row_bytes,
        max_sessions=num_sockets,
        max_connections=num_sockets,
    )
    return Scenario(
        arm=replace(sim_arm("hat"), name=name),
        setting=f"{crowd.num_devices} devices, {rate_mbit:g} Mbit/s",
        model=model_record(model),
        # A kind of link that shows TCP's own dynamics.
        link=LinkRecord(
            kind="netem",
            uplink_bytes_per_s=rate,
            downlink_bytes_per_s=2 * rate,
            delay_s=_DELAY_S,
        ),
        workload=workload,
        requests=requests_of(workload, seed),
        devices=tuple(DeviceSpec(device_times(machine, model), link) for machine in machines),
        cloud=CloudSpec(RooflineStep(H200, model, model.num_middle_layers), core),
        acceptance=geometric(
            _ACCEPT_LENGTH, _SURE, _MAX_DRAFT_TOKENS, "geometric, the paper's length"
        ),
        seed=seed,
        num_replicas=crowd.num_clouds,
        codec=EXACT_BF16 if name == EXACT else None,
    )


HEADER = f"{'arm':<11}{'TTFT50':>9}{'TTFT99':>9}{'TBT':>8}{'KB/token':>10}  setting"
"""Milliseconds; TBT is the mean, and bytes are what prompts and drafts took for each of a prompt's
tokens."""


def line(cell: Cell) -> str:
    """One cell as a row."""
    found = _figures(cell)
    numbers = "".join(f"{value:>9.0f}" for value in found[:2]) + f"{found[2]:>8.0f}"
    return f"{cell.arm:<11}{numbers}{found[3]:>10.2f}  {cell.setting}"


def _figures(cell: Cell) -> tuple[float, float, float, float]:
    firsts = [seconds for one in cell.requests if (seconds := ttft_s(one)) is not None]
    gaps = [gap_s for one in cell.requests for gap_s in tbt_s(one)]
    num_tokens = sum(one.prompt_tokens for one in cell.requests)
    return (
        1e3 * percentile(firsts, 50),
        1e3 * percentile(firsts, 99),
        1e3 * sum(gaps) / len(gaps),
        sum(one.bytes_up for one in cell.requests) / num_tokens / 1e3,
    )


def table(cells: Sequence[Cell], command: str) -> str:
    """Markdown: a row for each crowd and rate, raw and coded; what `command` wrote it."""
    lines = [
        "| devices | link up | TTFT P50, ms: raw | exact | | P99, ms: raw | exact | "
        "| ms per token: raw | exact | | kB up per prompt token: raw | exact |",
        "|---" * 13 + "|",
    ]
    for setting in dict.fromkeys(cell.setting for cell in cells):
        raw, exact = (
            _figures(next(c for c in cells if (c.setting, c.arm) == (setting, arm)))
            for arm in (RAW, EXACT)
        )
        entries = setting.split(" devices, ")
        for before, after in zip(raw[:3], exact[:3], strict=True):
            entries += [f"{before:,.0f}", f"{after:,.0f}", f"{after / before:.2f}"]
        entries += [f"{raw[3]:.1f}", f"{exact[3]:.1f}"]
        lines.append(f"| {' | '.join(entries)} |")
    words = (
        f"**Simulated**: {LLAMA_8B.name}, rows of 16 bits; Spec-Bench's lengths, answers of "
        f"{_OUTPUT_TOKENS} tokens; the codec leaves {EXACT_BF16.share:.1%} of a row's bytes. "
        f"`{command} --out codecs.json`."
    )
    return "\n".join([*lines, "", words, ""])
