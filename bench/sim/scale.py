"""A thousand devices: TTFT, TBT and SLA attainment over the load, for one to eight clouds."""

from collections.abc import Iterator, Sequence
from statistics import mean

from bench.measures import percentile, sla_attainment, tbt_s, ttft_s
from bench.records import Cell
from bench.sim.acceptance import geometric
from bench.sim.arms import sim_arm
from bench.sim.hardware import H200, ORIN, VICUNA_7B, XAVIER
from bench.sim.large_models import LinkRange, Load, cloud, devices, model_record
from bench.sim.scenario import Scenario
from bench.workloads.lengths import SPEC_BENCH

NUM_DEVICES = 1000
REPLICAS = (1, 2, 4, 8)
LOADS_PER_S = (40.0, 80.0, 160.0, 320.0)

TTFT_LIMIT_S, TBT_LIMIT_S = 1.5, 0.1
"""The service level that `SLA` counts: chosen for this table, not the paper's."""

_OUTPUT_TOKENS = 64
_CONTEXT_TOKENS = 2048
_H200_BYTES = 141e9
_LINKS = LinkRange(up=(5e6, 10e6), down=(10e6, 15e6), delay_s=10e-3, jitter_s=2e-3)
_ACCEPT_LENGTH, _SURE, _MAX_DRAFT_TOKENS = 2.06, 0.75, 6


def scenarios(
    seed: int,
    arm: str,
    arrivals: str,
    replicas: Sequence[int] = REPLICAS,
    loads_per_s: Sequence[float] = LOADS_PER_S,
    num_devices: int = NUM_DEVICES,
) -> Iterator[Scenario]:
    """Every load at every number of clouds, a request per device."""
    model = VICUNA_7B
    machines = [XAVIER if number % 3 else ORIN for number in range(num_devices)]
    table = geometric(_ACCEPT_LENGTH, _SURE, _MAX_DRAFT_TOKENS, "geometric, the paper's length")
    specs = devices(model, machines, _LINKS, (1.0,), seed)
    for num_replicas in replicas:
        for requests_per_s in loads_per_s:
            load = Load(
                lengths=SPEC_BENCH,
                arrivals=arrivals,
                requests_per_s=requests_per_s,
                num_requests=num_devices,
                num_devices=num_devices,
                output_tokens=_OUTPUT_TOKENS,
                max_prompt_tokens=_CONTEXT_TOKENS - _OUTPUT_TOKENS,
                seed=seed,
            )
            yield Scenario(
                arm=sim_arm(arm),
                setting=f"{arrivals} {requests_per_s:g}/s, {num_replicas} clouds",
                model=model_record(model),
                link=_LINKS.record(),
                workload=load.record(),
                requests=load.requests(),
                devices=specs,
                cloud=cloud(model, H200, _H200_BYTES, 1, _CONTEXT_TOKENS, max_sockets=num_devices),
                acceptance=table,
                seed=seed,
                num_replicas=num_replicas,
                keeps_pieces=False,
                notes=(table.source, "of each answer only the first piece and the end are kept"),
            )


def line(cell: Cell) -> str:
    """One cell as a row; TBT is each request's mean."""
    firsts = [s for request in cell.requests if (s := ttft_s(request)) is not None]
    gaps = [mean(values) for request in cell.requests if (values := tbt_s(request))]
    num_failed = sum(request.error is not None for request in cell.requests)
    met = sla_attainment(cell, TTFT_LIMIT_S, TBT_LIMIT_S)
    rate = cell.workload.requests_per_s or 0.0
    figures = [cell.num_replicas, rate, *_quantiles(firsts), *_quantiles(gaps), 100 * met]
    return "".join(f"{figure:>9.1f}" for figure in figures) + f"{num_failed:>9d}"


HEADER = "".join(
    f"{name:>9}"
    for name in ("clouds", "req/s", "TTFT50", "TTFT99", "TBT50", "TBT99", "SLA %", "failed")
)
"""Milliseconds."""


def _quantiles(seconds: Sequence[float]) -> tuple[float, float]:
    if not seconds:
        return float("nan"), float("nan")
    return 1000 * percentile(seconds, 50), 1000 * percentile(seconds, 99)
