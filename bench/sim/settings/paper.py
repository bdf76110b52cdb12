"""The paper's setting: 30 Jetsons on Wi-Fi, four A6000 in a pipeline, two workloads, all arms.

Source of setting and figures: HAT (arXiv:2503.18989). What the paper leaves open is assumed here
and said in docs/simulator.md: the link's delay, the performance modes, Medusa's tree, Sarathi's
chunk, the rate of the ablation, and which prompt rows come back.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from bench.sim.arms import MEDUSA, SimArm, sim_arm
from bench.sim.scenario import Scenario
from bench.sim.settings.hardware import A6000, ORIN, VICUNA_7B, VICUNA_13B, XAVIER, LargeModel
from bench.sim.settings.large_models import (
    MEDUSA_HEADS,
    TREE_NODES,
    LinkRange,
    Load,
    cloud,
    devices,
    model_record,
)
from bench.sim.world.acceptance import AcceptanceTable, geometric, tree
from bench.workloads.lengths import CNN_DM, PAPER_OUTPUT_TOKENS, SPEC_BENCH
from device_runtime.engines.engine import DraftLimits

NUM_STAGES = 4
_A6000_BYTES = 48e9
_MACHINES = (XAVIER,) * 20 + (ORIN,) * 10
_LINKS = LinkRange(up=(5e6, 10e6), down=(10e6, 15e6), delay_s=1e-3, jitter_s=1e-3)
_MODES = (1.0, 1.3)
_CONTEXT_TOKENS = 2048

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

    @property
    def acceptance(self) -> AcceptanceTable:
        """The same chance everywhere, so that drafts to their end bring the accept length."""
        return geometric(self.accept_length, _SURE, _MAX_DRAFT_TOKENS, _SOURCE)

    @property
    def tree(self) -> AcceptanceTable:
        """Of Medusa's tree, the same way."""
        return tree(self.medusa_accept_length, MEDUSA_HEADS, _SOURCE)


SPEC_7B = PaperWorkload("specbench-7b", VICUNA_7B, SPEC_BENCH, 6.0, 2.06, 1.89)
CNN_13B = PaperWorkload("cnndm-13b", VICUNA_13B, CNN_DM, 4.0, 1.98, 1.75)

MAIN_ARMS = ("u-shape", "u-sarathi", MEDUSA, "hat-paper", "hat")
ABLATION = ("none", "PC", "SD", "SD+PC", "SD+PC+PD")


def arm_named(name: str) -> SimArm:
    """An arm of the main comparison, or one row of the ablation, by the paper's rule of chunks."""
    plain_name = name.removesuffix(ALL_ROWS)
    arm = _ablation(plain_name) if plain_name in ABLATION else sim_arm(plain_name)
    # The paper's drafts end by the stop threshold alone.
    is_paper = arm.drafts == "adapter" and plain_name != "hat"
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
            return replace(hat, drafts="none", device=replace(hat.device, drafter="none"))
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
    model, arm = workload.model, arm_named(name)
    load = Load(
        lengths=workload.lengths,
        arrivals="poisson",
        requests_per_s=requests_per_s,
        num_requests=num_requests,
        num_devices=len(_MACHINES),
        output_tokens=PAPER_OUTPUT_TOKENS,
        max_prompt_tokens=_CONTEXT_TOKENS - PAPER_OUTPUT_TOKENS,
        seed=seed,
    )
    has_tree = arm.name.removesuffix(ALL_ROWS) == MEDUSA
    num_heads = MEDUSA_HEADS if has_tree else 0
    acceptance = workload.tree if has_tree else workload.acceptance
    return Scenario(
        arm=arm,
        setting=f"{workload.name} {requests_per_s:g}/s",
        model=model_record(model),
        link=_LINKS.record(),
        workload=load.record(),
        requests=load.requests(),
        devices=devices(model, _MACHINES, _LINKS, _MODES, seed, num_heads),
        cloud=cloud(model, A6000, _A6000_BYTES, NUM_STAGES, _CONTEXT_TOKENS),
        acceptance=acceptance,
        seed=seed,
        draft_limits=DraftLimits(_STOP_THRESHOLD, TREE_NODES if has_tree else _MAX_DRAFT_TOKENS),
        num_timelines=2,
        notes=(acceptance.source,),
    )
