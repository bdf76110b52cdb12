"""An 8B model whose cloud is far: what drafts bring when they are sent on behind undecided ones.

One device of the paper's (AGX Orin), one H200, rows of 16 bits. All times are computed
(`hardware.py`); the programs and their policies are the real ones.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.link.spec import parse_link_spec
from bench.measures import accept_length, cloud_rows_per_token, stale_share, tbt_s
from bench.records import Cell, LinkRecord, WorkloadRecord
from bench.sim.arms import sim_arm
from bench.sim.cloud import CloudSpec, core_config
from bench.sim.scenario import DeviceSpec, Request, Scenario
from bench.sim.settings.hardware import H200, LLAMA_8B, ORIN, RooflineStep, device_times
from bench.sim.settings.large_models import model_record
from bench.sim.world.acceptance import AcceptanceTable
from bench.sim.world.coding import EXACT_BF16
from bench.workloads.arrivals import CLOSED
from device_runtime.engines.engine import DraftLimits

MARK = "bench-far"
"""Of the table in a document."""

ARMS = ("hat-no-ahead", "hat-ahead", "hat")
"""Waiting for every decision, drafting ahead meanwhile, and sending on."""

LINKS = (
    "up=20mbit,down=50mbit,rtt=80ms",
    "up=20mbit,down=50mbit,rtt=150ms",
    "up=100mbit,down=100mbit,rtt=80ms",
    "up=100mbit,down=100mbit,rtt=150ms",
)
ACCEPTANCES = (0.3, 0.6, 0.8, 0.9)
"""The chance of each guess, where all before it were right; the drafter is always sure enough."""

PROMPT_TOKENS, ANSWER_TOKENS, NUM_REQUESTS = 200, 256, 8
_CONTEXT_TOKENS, _CAPACITY_TOKENS, _MAX_DRAFT_TOKENS = 8192, 1 << 17, 6


def scenarios(seed: int) -> Iterator[Scenario]:
    """Every arm with every acceptance over every link."""
    for link in LINKS:
        for acceptance in ACCEPTANCES:
            for arm in ARMS:
                yield scenario(arm, acceptance, link, seed)


def scenario(arm: str, acceptance: float, link: str, seed: int) -> Scenario:
    """One user who asks a few times, one answer after the other."""
    model, spec = LLAMA_8B, parse_link_spec(link)
    table = AcceptanceTable((1.0,), (1.0,), (acceptance,), (acceptance, 0.5 * (1 - acceptance)))
    workload = WorkloadRecord(
        name=f"prompts of {PROMPT_TOKENS} tokens",
        arrivals=CLOSED,
        num_devices=1,
        num_requests=NUM_REQUESTS,
        max_output_tokens=ANSWER_TOKENS,
        temperature=0.0,
    )
    return Scenario(
        arm=sim_arm(arm),
        setting=f"{link}, guesses right {acceptance:g}",
        model=model_record(model),
        link=LinkRecord(
            kind="simulated",
            uplink_bytes_per_s=spec.uplink_bytes_per_s,
            downlink_bytes_per_s=spec.downlink_bytes_per_s,
            delay_s=spec.delay_s,
        ),
        workload=workload,
        requests=tuple(
            Request(number, 0, 0.0, PROMPT_TOKENS, ANSWER_TOKENS) for number in range(NUM_REQUESTS)
        ),
        devices=(DeviceSpec(device_times(ORIN, model), spec),),
        cloud=CloudSpec(
            RooflineStep(H200, model, model.num_middle_layers),
            core_config(_CAPACITY_TOKENS, _CONTEXT_TOKENS, model.row_bytes),
        ),
        acceptance=table,
        draft_limits=DraftLimits(0.0, _MAX_DRAFT_TOKENS),
        seed=seed,
        codec=EXACT_BF16,
    )


@dataclass(frozen=True, slots=True)
class Figures:
    """What a cell shows, behind the first token of each answer."""

    tokens_per_s: float
    tokens_per_round: float
    stale_share: float
    """Of all rows of verifications."""
    rows_per_token: float
    """Rows that the cloud ran."""


def figures(cell: Cell) -> Figures:
    """Of one cell; a prompt's rows are not counted."""
    gaps_s = [gap_s for one in cell.requests for gap_s in tbt_s(one)]
    return Figures(
        tokens_per_s=len(gaps_s) / sum(gaps_s),
        tokens_per_round=accept_length(cell.requests) or 1.0,
        stale_share=stale_share(cell.requests) or 0.0,
        rows_per_token=cloud_rows_per_token([cell]) or 1.0,
    )


HEADER = f"{'arm':<16}{'tokens/s':>10}{'tokens/round':>14}{'stale':>8}{'rows/token':>12}"


def line(cell: Cell) -> str:
    """One cell as a row; the prompt's rows are not counted."""
    found = figures(cell)
    return (
        f"{cell.arm:<16}{found.tokens_per_s:>10.1f}{found.tokens_per_round:>14.2f}"
        f"{found.stale_share:>8.0%}{found.rows_per_token:>12.2f}"
    )


_COLUMNS = (
    "link",
    "guesses right",
    "tokens/s: waits",
    "ahead",
    "sent on",
    "beside waits",
    "stale rows",
    "rows per token: waits",
    "ahead",
    "sent on",
)


def table(cells: Sequence[Cell], command: str) -> str:
    """Markdown: a row for each link and chance, with all arms, and what `command` wrote them."""
    lines = [_row(*_COLUMNS), "|---" * len(_COLUMNS) + "|"]
    gains = []
    for setting in dict.fromkeys(cell.setting for cell in cells):
        by_arm = {cell.arm: cell for cell in cells if cell.setting == setting}
        found = [figures(by_arm[arm]) for arm in ARMS]
        speeds = [f"{each.tokens_per_s:.1f}" for each in found]
        rows = [f"{each.rows_per_token:.2f}" for each in found]
        gains.append(found[-1].tokens_per_s / found[0].tokens_per_s - 1)
        link, _, right = setting.rpartition(", guesses right ")
        shares = (_percent_more(gains[-1]), f"{found[-1].stale_share:.0%}")
        lines.append(_row(_link_name(link), right, *speeds, *shares, *rows))
    span = f"{_percent_more(min(gains))} to {_percent_more(max(gains))}"
    words = f"Sent on beside waiting: {span}. `{command}`."
    return "\n".join([*lines, "", words, ""])


def _percent_more(gain: float) -> str:
    return f"{round(100 * gain):+d}%"


def _row(*entries: str) -> str:
    return f"| {' | '.join(entries)} |"


def _link_name(text: str) -> str:
    spec = parse_link_spec(text)
    assert spec.uplink_bytes_per_s is not None, "every link here has a rate"
    return f"{spec.uplink_bytes_per_s * 8e-6:g} Mbit/s, {2000 * spec.delay_s:g} ms"
