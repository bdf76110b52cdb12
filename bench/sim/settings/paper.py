"""The paper's setting: 30 Jetsons on Wi-Fi, four A6000 in a pipeline, two workloads, all arms.

Source of setting and figures: HAT (arXiv:2503.18989). What the paper leaves open is assumed here
and said in docs/simulator.md: the link's delay, the performance modes, Medusa's tree, Sarathi's
chunk, the rate of the ablation, and which prompt rows come back.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from bench.records import WorkloadRecord
from bench.sim.arms import MEDUSA, SimArm, sim_arm
from bench.sim.scenario import Scenario
from bench.sim.settings.hardware import A6000, ORIN, VICUNA_7B, VICUNA_13B, XAVIER, LargeModel
from bench.sim.settings.large_models import Fleet
from bench.sim.world.acceptance import AcceptanceTable, geometric, tree
from bench.workloads.arrivals import POISSON
from bench.workloads.lengths import CNN_DM, PAPER_OUTPUT_TOKENS, SPEC_BENCH
from device_runtime.engines.engine import DraftLimits

_FLEET = Fleet(
    VICUNA_7B,
    (XAVIER,) * 20 + (ORIN,) * 10,
    delay_s=1e-3,
    jitter_s=1e-3,
    server=A6000,
    num_servers=4,
    modes=(1.0, 1.3),
)

_MEDUSA_HEADS = 4
_TREE_NODES = 63
"""Of the tree that Medusa publishes for Vicuna-7B (`mc_sim_7b_63`)."""

_SURE = 0.75
"""Chance that a guess passes the stop threshold of 0.6; assumed."""

_STOP_THRESHOLD = 0.6
_SOURCE = "geometric, calibrated to the paper's accept length"

_MAX_DRAFT_TOKENS = 6
"""Kangaroo's, whose drafting the paper's is."""

QUIET_PER_S = 0.5
"""A rate at which requests hardly meet: what the methods do by themselves."""

ALL_ROWS = "+all-rows"
"""Ends the name of an arm whose prompt rows all come back."""


@dataclass(frozen=True, slots=True)
class PaperWorkload:
    """One of the paper's two, and its accept lengths of HAT and U-Medusa."""

    name: str
    model: LargeModel
    lengths: str
    requests_per_s: float
    accept_length: float
    medusa_accept_length: float

    def acceptance(self, has_tree: bool) -> AcceptanceTable:
        """The same chance everywhere, so that drafts to their end bring the accept length."""
        if has_tree:
            return tree(self.medusa_accept_length, _MEDUSA_HEADS, _SOURCE)
        return geometric(self.accept_length, _SURE, _MAX_DRAFT_TOKENS, _SOURCE)


SPEC_7B = PaperWorkload("specbench-7b", VICUNA_7B, SPEC_BENCH, 6.0, 2.06, 1.89)
CNN_13B = PaperWorkload("cnndm-13b", VICUNA_13B, CNN_DM, 4.0, 1.98, 1.75)

MAIN_ARMS = ("u-shape", "u-sarathi", MEDUSA, "hat-paper", "hat")
ABLATION = ("none", "PC", "SD", "SD+PC", "SD+PC+PD")


def arm_named(name: str) -> SimArm:
    """An arm of the main comparison, or one row of the ablation, by the paper's rule of chunks."""
    plain_name = name.removesuffix(ALL_ROWS)
    arm = _ablation(plain_name) if plain_name in ABLATION else sim_arm(plain_name)
    # The paper's drafts end by the stop threshold alone.
    is_paper = arm.has_drafts and plain_name != "hat"
    return replace(
        arm, name=name, returns_all_rows=name.endswith(ALL_ROWS), drafts_to_the_end=is_paper
    )


def _ablation(name: str) -> SimArm:
    """SD: speculative decoding, PC: prompt chunking, PD: parallel drafting."""
    hat, plain = sim_arm("hat-paper"), sim_arm("u-shape")
    no_ahead = replace(hat.device, draft_ahead="off")
    match name:
        case "none":
            return plain
        case "PC":
            return replace(hat, device=replace(hat.device, drafter="none"))
        case "SD":
            device = replace(no_ahead, chunking="fixed", chunk_tokens=0)
            return replace(hat, device=device, cloud=plain.cloud)
        case "SD+PC":
            return replace(hat, device=no_ahead)
        case _:
            return hat


def scenarios(seed: int, num_requests: int) -> Iterator[Scenario]:
    """All cells, workload by workload."""
    names = [*MAIN_ARMS, *(name + ALL_ROWS for name in MAIN_ARMS[:3]), *ABLATION]
    for workload in (SPEC_7B, CNN_13B):
        for name in names:
            yield scenario(workload, name, workload.requests_per_s, seed, num_requests)
    for name in MAIN_ARMS:
        # The paper's TBT of this workload is from this rate.
        yield scenario(SPEC_7B, name, 4.0, seed, num_requests)
    for workload in (SPEC_7B, CNN_13B):
        for name in names[: -len(ABLATION)]:
            yield scenario(workload, name, QUIET_PER_S, seed, num_requests)


def scenario(
    workload: PaperWorkload, name: str, requests_per_s: float, seed: int, num_requests: int
) -> Scenario:
    """One arm at one rate."""
    arm = arm_named(name)
    has_tree = name.removesuffix(ALL_ROWS) == MEDUSA
    num_heads = _MEDUSA_HEADS if has_tree else 0
    fleet = replace(_FLEET, model=workload.model, num_heads=num_heads)
    load = WorkloadRecord(
        name=workload.lengths,
        arrivals=POISSON,
        num_devices=len(fleet.machines),
        num_requests=num_requests,
        max_output_tokens=PAPER_OUTPUT_TOKENS,
        temperature=0.0,
        requests_per_s=requests_per_s,
    )
    setting = f"{workload.name} {requests_per_s:g}/s"
    acceptance = workload.acceptance(has_tree)
    return replace(
        fleet.scenario(arm, setting, load, acceptance, seed),
        draft_limits=DraftLimits(_STOP_THRESHOLD, _TREE_NODES if has_tree else _MAX_DRAFT_TOKENS),
        num_timelines=2,
        notes=(acceptance.source,),
    )
