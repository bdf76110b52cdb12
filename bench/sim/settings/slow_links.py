"""An 8B model over three links: what a prompt and a token take, beside text sent to the cloud.

Measured drafts were as long as paid where a row was a seventh as long, so the policy cuts them once
more, at this model's prices. It knows each position's average and not how sure a guess was, and
each guess takes an adapter's step, those out of the text too: live, drafts bring more.

One device of the paper's (AGX Orin), one GPU of the paper's (A6000), rows of 16 bits. All times are
computed (`hardware.py`); the programs, their planner and their policies are the real ones.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from bench.arms import NO_ADAPTER
from bench.link.spec import parse_link_spec
from bench.measures import accept_length, percentile, tbt_s, ttft_s
from bench.records import Cell, LinkRecord, Run, WorkloadRecord
from bench.sim.arms import sim_arm
from bench.sim.cloud import CloudSpec, core_config
from bench.sim.scenario import DeviceSpec, Request, Scenario
from bench.sim.settings.calibrate import LikeError
from bench.sim.settings.hardware import A6000, LLAMA_8B, ORIN, RooflineStep, device_times
from bench.sim.settings.large_models import model_record
from bench.sim.settings.like import counted
from bench.sim.world.acceptance import NEVER, AcceptanceTable, geometric
from bench.sim.world.coding import EXACT_BF16
from bench.workloads.arrivals import CLOSED
from device_runtime.engines.engine import DraftLimits

MARK = "bench-8b"
"""Of the table in a document."""

LINKS = (
    "up=5mbit,down=20mbit,rtt=80ms",
    "up=20mbit,down=50mbit,rtt=40ms",
    "up=100mbit,down=100mbit,rtt=20ms",
)
PROMPT_TOKENS, ANSWER_TOKENS = 1000, 128
_NUM_WARM_UP, _NUM_REQUESTS = 2, 8
"""The first prompts tell the planner of link and cloud."""

_CONTEXT_TOKENS, _CAPACITY_TOKENS = 8192, 1 << 17

PAPER_TOKENS_PER_ROUND = 2.06
"""With a trained adapter, on Vicuna-7B and Spec-Bench (arXiv:2503.18989)."""

_SURE, _MAX_DRAFT_TOKENS = 0.75, 6
"""As in the paper's setting (`paper.py`)."""

TEXT, PLAIN, ADAPTER, MEASURED = "cloud-only", "hat-no-speculation", "hat+adapter", "hat+measured"
"""The arms; the last one only where its acceptance was measured."""


_WORKLOAD = WorkloadRecord(
    name=f"prompts of {PROMPT_TOKENS} tokens",
    arrivals=CLOSED,
    num_devices=1,
    num_requests=_NUM_REQUESTS,
    max_output_tokens=ANSWER_TOKENS,
    temperature=0.0,
)


@dataclass(frozen=True, slots=True)
class _Way:
    """One arm, and what it drafts."""

    name: str
    acceptance: AcceptanceTable = NEVER
    is_measured: bool = False
    is_looked_up: bool = False


def measured_cells(run: Run) -> list[Cell]:
    """The greedy cells of arm `hat`.

    Raises:
        LikeError: there are none.
    """
    cells = [cell for cell in run.cells if cell.arm == "hat" and cell.workload.temperature == 0]
    if not cells:
        raise LikeError("--acceptance: expected greedy cells of hat")
    return cells


def scenarios(seed: int, measured: Sequence[Cell] = ()) -> Iterator[Scenario]:
    """Every arm at every link; `measured` are live cells of a device that drafts."""
    source = "geometric, the paper's length"
    adapter = geometric(PAPER_TOKENS_PER_ROUND, _SURE, _MAX_DRAFT_TOKENS, source)
    ways = [_Way(TEXT), _Way(PLAIN), _Way(ADAPTER, adapter)]
    if measured:
        is_looked_up = NO_ADAPTER in measured[0].notes
        drafter = "its own text" if is_looked_up else "its own text and an adapter"
        table = counted(measured, f"{drafter}, counted live on {measured[0].model.name}")
        ways.append(_Way(MEASURED, table, is_measured=True, is_looked_up=is_looked_up))
    for link in LINKS:
        for way in ways:
            yield _scenario(link, way, seed)


def _scenario(link: str, way: _Way, seed: int) -> Scenario:
    model, spec = LLAMA_8B, parse_link_spec(link)
    arm = replace(sim_arm(way.name.partition("+")[0]), name=way.name)
    times = device_times(ORIN, model)
    if way.is_looked_up:
        arm = replace(arm, device=replace(arm.device, draft_ahead="off"))
        times = replace(times, draft_step_s=0.0)
    is_whole = arm.where == "cloud"
    num_layers = model.num_layers if is_whole else model.num_middle_layers
    requests = tuple(
        Request(number, 0, 0.0, PROMPT_TOKENS, ANSWER_TOKENS, is_counted=number >= _NUM_WARM_UP)
        for number in range(_NUM_WARM_UP + _NUM_REQUESTS)
    )
    right = way.acceptance.right
    most = len(right) if way.is_measured else _MAX_DRAFT_TOKENS
    return Scenario(
        arm=arm,
        setting=f"{_WORKLOAD.name} x {ANSWER_TOKENS}, {link}",
        model=model_record(model),
        # A kind of link that shows TCP's own dynamics.
        link=LinkRecord(
            kind="netem",
            uplink_bytes_per_s=spec.uplink_bytes_per_s,
            downlink_bytes_per_s=spec.downlink_bytes_per_s,
            delay_s=spec.delay_s,
        ),
        workload=_WORKLOAD,
        requests=requests,
        devices=(DeviceSpec(times, spec),),
        cloud=CloudSpec(
            RooflineStep(A6000, model, num_layers, has_head=is_whole),
            core_config(_CAPACITY_TOKENS, _CONTEXT_TOKENS, model.row_bytes),
        ),
        acceptance=way.acceptance,
        draft_limits=DraftLimits(0.6, most),
        seed=seed,
        codec=EXACT_BF16,
        notes=(f"acceptance: {way.acceptance.source}",) if arm.has_drafts else (),
    )


_COLUMNS = {
    TEXT: "text to the cloud",
    PLAIN: "`hat`, no drafts",
    MEASURED: "`hat`, drafts as measured",
    ADAPTER: "`hat`, adapter as the paper's",
}


def table(cells: Sequence[Cell], command: str) -> str:
    """Markdown: a row for each link, with the time to the first token and of each one behind it.

    What `command` wrote them stands below.
    """
    arms = [arm for arm in _COLUMNS if any(cell.arm == arm for cell in cells)]
    firsts = [f"first token, s: {_COLUMNS[TEXT]}", "`hat`"]
    nexts = [f"{'ms per token: ' if arm == TEXT else ''}{_COLUMNS[arm]}" for arm in arms]
    lines = [_row("link", *firsts, *nexts), "|---" * (1 + len(firsts) + len(nexts)) + "|"]
    for setting in dict.fromkeys(cell.setting for cell in cells):
        by_arm = {cell.arm: cell for cell in cells if cell.setting == setting}
        waits = [f"{_first_s(by_arm[arm]):.2f}" for arm in (TEXT, PLAIN)]
        tokens = [f"{1000 * _token_s(by_arm[arm]):.0f}" for arm in arms]
        lines.append(_row(_link_name(by_arm[TEXT].link), *waits, *tokens))
    return "\n".join([*lines, "", *_words(cells, command), ""])


def _words(cells: Sequence[Cell], command: str) -> list[str]:
    """What the rows are of, in sentences."""
    lengths = {
        arm: [accept_length(cell.requests) or 1.0 for cell in cells if cell.arm == arm]
        for arm in (ADAPTER, MEASURED)
    }
    spans = {arm: _span(found) for arm, found in lengths.items() if found}
    drafts = [f"The adapter is as good as the paper's and brings {spans[ADAPTER]} tokens per round"]
    if MEASURED in spans:
        source = next(cell.notes[0] for cell in cells if cell.arm == MEASURED)
        drafts.append(f"drafts as measured bring {spans[MEASURED]} ({source})")
    return [
        f"**Simulated**, not measured: {LLAMA_8B.name} in 16 bits, {LLAMA_8B.num_input_layers} of "
        f"{LLAMA_8B.num_layers} layers and the head on a Jetson AGX Orin, the others on an A6000; "
        f"a prompt of {PROMPT_TOKENS:,} tokens, answers of {ANSWER_TOKENS}, one user. A row of "
        f"{LLAMA_8B.hidden_size:,} numbers crosses the link for every token of the prompt: "
        f"{LLAMA_8B.row_bytes * PROMPT_TOKENS / 1e6:.1f} MB.",
        f"{'; '.join(drafts)}. `{command} --out 8b.json`.",
    ]


def _span(values: Sequence[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


def _row(*entries: str) -> str:
    return f"| {' | '.join(entries)} |"


def _link_name(link: LinkRecord) -> str:
    assert link.uplink_bytes_per_s is not None, "every link here has a rate"
    return f"{link.uplink_bytes_per_s * 8e-6:g} Mbit/s up, {2000 * link.delay_s:g} ms"


def _first_s(cell: Cell) -> float:
    return percentile([s for one in cell.requests if (s := ttft_s(one)) is not None], 50)


def _token_s(cell: Cell) -> float:
    gaps_s = [gap_s for one in cell.requests for gap_s in tbt_s(one)]
    return sum(gaps_s) / len(gaps_s)
