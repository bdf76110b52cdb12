"""A thousand devices: TTFT, TBT and SLA attainment over the load, for one to four clouds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from statistics import mean

from bench.measures import percentile, sla_attainment, tbt_s, ttft_s
from bench.records import UNFINISHED, Cell, WorkloadRecord
from bench.sim.arms import sim_arm
from bench.sim.scenario import OpenLoad, Scenario
from bench.sim.settings.hardware import H200, ORIN, VICUNA_7B, XAVIER
from bench.sim.settings.large_models import Fleet
from bench.sim.world.acceptance import geometric
from bench.workloads.arrivals import POISSON
from bench.workloads.lengths import SPEC_BENCH

NUM_DEVICES = 1000
REPLICAS = (1, 2, 4)
LOADS_PER_S = (40.0, 80.0, 120.0, 160.0)
DURATION_S = 40.0

TTFT_LIMIT_S, TBT_LIMIT_S = 1.5, 0.1
"""The service level that `SLA` counts: chosen for this table, not the paper's."""

_OUTPUT_TOKENS = 64
_DELAY_S, _JITTER_S = 10e-3, 2e-3
_ACCEPT_LENGTH, _SURE, _MAX_DRAFT_TOKENS = 2.06, 0.75, 6


@dataclass(frozen=True, slots=True)
class Sweep:
    """Every load at every number of clouds; `arrivals` and `arm` as elsewhere."""

    arm: str = "hat"
    arrivals: str = POISSON
    num_devices: int = NUM_DEVICES
    duration_s: float = DURATION_S
    replicas: tuple[int, ...] = REPLICAS
    loads_per_s: tuple[float, ...] = LOADS_PER_S
    seed: int = 0

    @property
    def num_points(self) -> int:
        """How many scenarios there are."""
        return len(self.replicas) * len(self.loads_per_s)


def scenarios(sweep: Sweep) -> Iterator[Scenario]:
    """A scenario for each point, with requests that go on until it has settled."""
    machines = tuple(XAVIER if number % 3 else ORIN for number in range(sweep.num_devices))
    fleet = Fleet(VICUNA_7B, machines, _DELAY_S, _JITTER_S, H200)
    table = geometric(_ACCEPT_LENGTH, _SURE, _MAX_DRAFT_TOKENS, "geometric, the paper's length")
    for num_replicas, requests_per_s in product(sweep.replicas, sweep.loads_per_s):
        open_load = OpenLoad(sweep.duration_s, requests_per_s)
        workload = WorkloadRecord(
            name=SPEC_BENCH,
            arrivals=sweep.arrivals,
            num_devices=sweep.num_devices,
            num_requests=open_load.num_requests,
            max_output_tokens=_OUTPUT_TOKENS,
            temperature=0.0,
            requests_per_s=requests_per_s,
        )
        setting = f"{sweep.arrivals} {requests_per_s:g}/s, {_clouds(num_replicas)}"
        yield replace(
            fleet.scenario(sim_arm(sweep.arm), setting, workload, table, sweep.seed),
            num_replicas=num_replicas,
            open_load=open_load,
            notes=(table.source, "of each answer only the first piece and the end are kept"),
        )


def _clouds(number: int) -> str:
    return "1 cloud" if number == 1 else f"{number} clouds"


def line(cell: Cell) -> str:
    """One cell as a row; TBT is each request's mean."""
    firsts = [s for request in cell.requests if (s := ttft_s(request)) is not None]
    gaps = [mean(values) for request in cell.requests if (values := tbt_s(request))]
    num_failed = sum(request.error not in (None, UNFINISHED) for request in cell.requests)
    met = sla_attainment(cell, TTFT_LIMIT_S, TBT_LIMIT_S)
    rate = cell.workload.requests_per_s or 0.0
    figures = [cell.num_replicas, rate, *_quantiles(firsts), *_quantiles(gaps), 100 * met]
    numbers = "".join(f"{figure:>9.1f}" for figure in figures) + f"{num_failed:>9d}"
    return numbers if cell.steady is None else f"{numbers}  {cell.steady.text}"


HEADER = "".join(
    f"{name:>9}"
    for name in ("clouds", "req/s", "TTFT50", "TTFT99", "TBT50", "TBT99", "SLA %", "failed")
)
"""Milliseconds. Whether the point has settled stands behind."""


def _quantiles(seconds: Sequence[float]) -> tuple[float, float]:
    if not seconds:
        return float("nan"), float("nan")
    return 1000 * percentile(seconds, 50), 1000 * percentile(seconds, 99)
