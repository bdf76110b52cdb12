"""Several devices behind one uplink: what a long prompt of one costs those who decode beside it.

`python -m bench.sim.settings.shared_uplink` simulates an 8B model whose devices share a bottleneck,
with TCP's own dynamics. Eight decode without drafts, a ninth sends prompts of 2,048 tokens, one
behind the other; each kind is simulated alone, then both together, with prompts cut by the planner
and into chunks of fixed sizes. All times are computed; the programs are the real ones.
"""

import argparse
from dataclasses import replace

from bench.link.spec import parse_link_spec
from bench.measures import percentile, tbt_s, ttft_s
from bench.records import Cell, LinkRecord, WorkloadRecord
from bench.sim.arms import SimArm, sim_arm
from bench.sim.cloud import CloudSpec, core_config
from bench.sim.run import simulate
from bench.sim.scenario import DeviceSpec, Request, Scenario
from bench.sim.settings.hardware import A6000, LLAMA_8B, ORIN, RooflineStep, device_times
from bench.sim.settings.large_models import model_record
from bench.sim.world.acceptance import NEVER
from bench.workloads.arrivals import CLOSED

LINKS = (
    "up=20mbit,down=50mbit,rtt=40ms",
    "up=40mbit,down=100mbit,rtt=40ms",
    "up=100mbit,down=100mbit,rtt=20ms",
)
CUTS = (None, 512, 128, 64, 32, 16)
"""Tokens of a chunk; None: the planner's."""

PROMPT_TOKENS, NUM_PROMPTS = 2048, 6
NUM_DECODERS, ANSWER_TOKENS = 8, 400
_SHORT_TOKENS = 16
_CONTEXT_TOKENS, _CAPACITY_TOKENS = 8192, 1 << 17


def scenario(link: str, cut: int | None, decoders: int, prompts: int, seed: int = 0) -> Scenario:
    """So many devices that decode, and one behind them that sends so many prompts."""
    model, spec = LLAMA_8B, parse_link_spec(link)
    decoded = [Request(n, n, 0.0, _SHORT_TOKENS, ANSWER_TOKENS) for n in range(decoders)]
    sent = [Request(decoders + n, decoders, 0.0, PROMPT_TOKENS, 1) for n in range(prompts)]
    num_devices = decoders + (prompts > 0)
    return Scenario(
        arm=_arm(cut),
        setting=f"{link}, {decoders} decode, {prompts} prompts, cut {cut or 'planned'}",
        model=model_record(model),
        link=LinkRecord(
            kind="simulated",
            uplink_bytes_per_s=spec.uplink_bytes_per_s,
            downlink_bytes_per_s=spec.downlink_bytes_per_s,
            delay_s=spec.delay_s,
        ),
        workload=WorkloadRecord(
            name=f"prompts of {PROMPT_TOKENS} tokens beside {decoders} who decode",
            arrivals=CLOSED,
            num_devices=num_devices,
            num_requests=len(decoded) + len(sent),
            max_output_tokens=ANSWER_TOKENS,
            temperature=0.0,
        ),
        requests=(*decoded, *sent),
        devices=(DeviceSpec(device_times(ORIN, model), spec),) * num_devices,
        cloud=CloudSpec(
            RooflineStep(A6000, model, model.num_middle_layers),
            core_config(_CAPACITY_TOKENS, _CONTEXT_TOKENS, model.row_bytes),
        ),
        acceptance=NEVER,
        seed=seed,
        is_link_shared=True,
    )


def _arm(cut: int | None) -> SimArm:
    arm = sim_arm("hat-no-speculation")
    if cut is None:
        return arm
    return replace(arm, device=replace(arm.device, chunking="fixed", chunk_tokens=cut))


def gaps_s(cell: Cell) -> list[float]:
    """Between tokens of those who decode, while prompts go on if there are any."""
    prompts = [one for one in cell.requests if one.prompt_tokens == PROMPT_TOKENS]
    end_s = max((one.arrival_s + (ttft_s(one) or 0.0) for one in prompts), default=float("inf"))
    decoding = [one for one in cell.requests if one.prompt_tokens == _SHORT_TOKENS]
    found: list[float] = []
    for one in decoding:
        now_s = one.arrival_s + (ttft_s(one) or 0.0)
        for gap_s in tbt_s(one):
            now_s += gap_s
            found += [gap_s] if now_s <= end_s else []
    return found


def first_s(cell: Cell) -> float:
    """The median time to a prompt's first token, the first two prompts left out."""
    prompts = [one for one in cell.requests if one.prompt_tokens == PROMPT_TOKENS]
    return percentile([s for one in prompts[2:] if (s := ttft_s(one)) is not None], 50)


def main() -> None:
    """Simulate and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--links", nargs="+", default=LINKS)
    parser.add_argument("--decoders", type=int, default=NUM_DECODERS)
    chosen = parser.parse_args()
    print("| link | cut | TBT quiet P50 | P99 | beside P50 | P99 | TTFT alone | beside | ", end="")
    print("TBT ratio | TTFT ratio |")
    print("|" + "---|" * 10)
    for link in chosen.links:
        quiet = gaps_s(simulate(scenario(link, None, chosen.decoders, 0)))
        for cut in CUTS:
            alone_s = first_s(simulate(scenario(link, cut, 0, NUM_PROMPTS)))
            both = simulate(scenario(link, cut, chosen.decoders, NUM_PROMPTS))
            beside, beside_s = gaps_s(both), first_s(both)
            times = [percentile(quiet, 50), percentile(quiet, 99)]
            times += [percentile(beside, 50), percentile(beside, 99), alone_s, beside_s]
            shown = " | ".join(f"{1000 * seconds:.0f}" for seconds in times)
            ratios = f"{times[3] / times[1]:.2f} | {beside_s / alone_s:.2f}"
            print(f"| {link} | {cut or 'planned'} | {shown} | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
