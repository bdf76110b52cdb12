"""The settings of a live result, simulated: same prompts' lengths, links, arms and arrivals."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest

from bench.arms import WARM_UP_TOKENS
from bench.link.spec import LinkSpec
from bench.records import CLOUD_ON, Cell, LinkRecord, Run
from bench.sim.arms import sim_arm
from bench.sim.cloud import CloudSpec, core_config
from bench.sim.scenario import DeviceSpec, Request, Scenario
from bench.sim.settings.calibrate import NOT_LEARNED, LikeError, Tables, calibrate
from bench.sim.settings.hardware import SERVERS, LargeModel, RooflineStep
from bench.sim.world.acceptance import NEVER, AcceptanceTable, from_counts
from bench.sim.world.times import StepTime
from bench.workloads.arrivals import CLOSED
from device_runtime.engines.engine import DraftLimits
from wire.limits import ITEM_BYTES
from wire.messages import Dtype

_NUM_WARM_UP = 3

_NUM_COPIES = 6
"""Of closed cells' requests: acceptance is drawn, and a median of few draws would say little."""

_WARM_UP_S = 120.0
"""Room for the warm-up before the first arrival that counts; time is free here."""

_DTYPES = {"float32": Dtype.FP32, "float16": Dtype.FP16, "bfloat16": Dtype.BF16}
_CAPACITY_TOKENS, _CONTEXT_TOKENS = 1 << 20, 8192
_STOP_THRESHOLD = 0.6


def like_scenarios(
    live: Run, learned_from: Sequence[Run], seed: int, server: str | None = None
) -> Iterator[Scenario]:
    """One scenario per setting, arm and pass of a live result.

    Times are learned from the other settings of all runs in `learned_from`. With `server`, one of
    `SERVERS`, the cloud's steps are computed for that machine instead, and what is accepted is
    counted over all of these runs.

    Raises:
        LikeError: an arm, or a model's times, that nothing is known of, or a link with troubles
            that simulated links do not have.
    """
    cells = [cell for run in learned_from for cell in run.cells]
    tables: dict[tuple[str, str], Tables] = {}
    for cell in live.cells:
        if cell.arm in NOT_LEARNED or cell.link.kind == "loopback":
            continue
        if cell.link.reorder or cell.link.move_s:
            raise LikeError("no overtaken packets and no changes of address are simulated")
        place = (cell.model.fingerprint, cell.setting)
        if place not in tables:
            tables[place] = calibrate(cell, cells)
        try:
            scenario = _scenario(cell, live.cells, tables[place], seed)
            yield scenario if server is None else _on_server(scenario, cell, cells, server)
        except KeyError as error:
            raise LikeError(f"no arm {error} is simulated") from error


def _scenario(cell: Cell, cells: Sequence[Cell], known: Tables, seed: int) -> Scenario:
    # The counts hold what the policy chose live; cutting drafts once more would count it twice.
    arm = replace(sim_arm(cell.arm), drafts_to_the_end=True)
    acceptance = _acceptance(cell, cells) if arm.has_drafts else NEVER
    if not known.has_adapter:
        arm = replace(arm, device=replace(arm.device, draft_ahead="off"))
    link = link_spec(cell.link)
    device = DeviceSpec(known.device, link, known.overheads)
    row_bytes = cell.model.hidden_size * ITEM_BYTES[_DTYPES[cell.model.dtype]]
    return Scenario(
        arm=arm,
        setting=cell.setting,
        model=cell.model,
        link=cell.link,
        workload=cell.workload,
        requests=_requests(cell),
        devices=(device,) * cell.workload.num_devices,
        cloud=CloudSpec(
            step_time=known.cloud,
            core=core_config(_CAPACITY_TOKENS, _CONTEXT_TOKENS, row_bytes),
            overheads=known.overheads,
        ),
        acceptance=acceptance,
        seed=seed,
        draft_limits=DraftLimits(_STOP_THRESHOLD, max(1, len(acceptance.right))),
        num_replicas=cell.num_replicas,
        num_timelines=1,
        repeat=cell.repeat,
        notes=(f"acceptance: {acceptance.source}", "times: learned from other live settings"),
    )


def _on_server(scenario: Scenario, cell: Cell, cells: Sequence[Cell], server: str) -> Scenario:
    """The same with a cloud that is computed, and all that is known of acceptance."""
    arm, model = scenario.arm, cell.model
    acceptance = scenario.acceptance
    if arm.has_drafts:
        alike = [c for c in cells if (c.model, c.arm) == (model, cell.arm)]
        same_sampling = [c for c in alike if sampling_of(c) == sampling_of(cell)]
        acceptance = counted(same_sampling, "counted live in all settings")
    return replace(
        scenario,
        setting=f"{scenario.setting}{CLOUD_ON}{server}",
        cloud=replace(scenario.cloud, step_time=_server_step(cell, server)),
        acceptance=acceptance,
        draft_limits=DraftLimits(_STOP_THRESHOLD, max(1, len(acceptance.right))),
        notes=(
            f"acceptance: {acceptance.source}",
            f"the cloud's steps: computed for one {server}",
            "other times: learned from other live settings",
        ),
    )


def sampling_of(cell: Cell) -> tuple[float, float]:
    """What its answers were drawn with."""
    return cell.workload.temperature, cell.workload.top_p


def _server_step(cell: Cell, server: str) -> StepTime:
    known = cell.model
    if not known.intermediate_size:
        raise LikeError(f"{known.name}: expected the sizes of its layers, which newer results have")
    num_device_layers = known.num_input_layers + known.num_output_layers
    model = LargeModel(
        name=known.name,
        num_layers=known.num_layers,
        num_input_layers=num_device_layers,
        hidden_size=known.hidden_size,
        intermediate_size=known.intermediate_size,
        vocab_size=0,
        kv_size=known.kv_size,
    )
    return RooflineStep(SERVERS[server], model, model.num_middle_layers)


def link_spec(record: LinkRecord) -> LinkSpec:
    """The link as asked for, which is what the shaper does.

    What a probe measured beside it tells how busy the machine was then; what relay and kernels add
    to each frame is learned with the other overheads.
    """
    return LinkSpec(
        uplink_bytes_per_s=None if record.trace else record.uplink_bytes_per_s,
        downlink_bytes_per_s=None if record.trace else record.downlink_bytes_per_s,
        delay_s=record.delay_s,
        jitter_s=record.jitter_s,
        loss=record.loss,
        burst_s=record.burst_s,
        trace=record.trace,
    )


def _requests(cell: Cell) -> tuple[Request, ...]:
    """Those of the cell, several times over, behind each device's warm-up."""
    is_closed = cell.workload.arrivals == CLOSED
    counted = [
        Request(
            number=r.number,
            device=r.device,
            arrival_s=0.0 if is_closed else _WARM_UP_S + r.arrival_s,
            prompt_tokens=max(1, r.prompt_tokens),
            output_tokens=max(1, r.output_tokens),
        )
        for r in cell.requests
        if r.error is None
    ]
    warm_up = []
    for device in sorted({request.device for request in counted}):
        own = [request for request in counted if request.device == device]
        for turn in range(_NUM_WARM_UP):
            like = own[turn % len(own)]
            number = 1_000_000 + _NUM_WARM_UP * device + turn
            short = min(like.output_tokens, WARM_UP_TOKENS)
            arrival_s = 0.0 if is_closed else turn * _WARM_UP_S / (_NUM_WARM_UP + 1)
            warm_up.append(
                Request(number, device, arrival_s, like.prompt_tokens, short, is_counted=False)
            )
    num_copies = _NUM_COPIES if is_closed else 1
    step = 1 + max(request.number for request in counted)
    copies = [
        replace(request, number=request.number + copy * step)
        for copy in range(num_copies)
        for request in counted
    ]
    return (*warm_up, *copies)


def _acceptance(cell: Cell, cells: Sequence[Cell]) -> AcceptanceTable:
    """What was counted in all passes of the cell."""
    place = (cell.model, cell.setting, cell.arm)
    alike = [c for c in cells if (c.model, c.setting, c.arm) == place]
    return counted(alike, "counted live in this cell")


def counted(cells: Sequence[Cell], source: str) -> AcceptanceTable:
    """The table that gives just what was drafted and accepted in these cells."""
    requests = [r for c in cells for r in c.requests]
    drafted = _by_position([r.drafted_by_position for r in requests])
    accepted = _by_position([r.accepted_by_position for r in requests])
    if not any(drafted):
        return NEVER
    rounds = sum(r.rounds for r in requests)
    cut_share = len(requests) / sum(r.output_tokens for r in requests)
    return from_counts(rounds, drafted, accepted, source, cut_share)


def _by_position(counts: Sequence[Sequence[int]]) -> list[int]:
    """The sums of all first entries, of all second ones, and so on."""
    return [sum(column) for column in zip_longest(*counts, fillvalue=0)]
