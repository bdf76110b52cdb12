"""This machine's times for a model, from the phases and steps of live runs.

Only sums per request are known, so each time is the line that fits the cells' medians best.
Computing does not depend on the link, so cells of any link tell; those of the setting that is to
be simulated are left out, and lend nothing but their acceptance.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from statistics import median

import numpy as np

from bench.records import Cell, LinkRecord, RequestRecord
from bench.sim.arms import MEDUSA
from bench.sim.world.times import DeviceTimes, Overheads
from chunking.cost import LinearTime
from cloud_server.core.actions import Step
from process.errors import UserError

_PLAIN_ARMS = ("u-shape", "u-sarathi", "hat-no-speculation")

NOT_LEARNED = ("cloud-only", "device-only", MEDUSA)
"""All layers on one side, and heads, take times that loopback runs of a split do not tell."""

_NGRAM_TOKEN_S = 1e-4
"""A draft that costs less per token was looked up, not computed."""


class LikeError(UserError):
    """A live result cannot be simulated; the message says why."""


@dataclass(frozen=True, slots=True)
class TableStep:
    """A measured g: seconds by rows, straight between, and by the last slope beyond."""

    points: tuple[tuple[float, float], ...]

    def of(self, step: Step) -> float:
        num_rows = step.num_tokens
        rows, times = zip(*self.points, strict=True)
        if num_rows <= rows[-1] or len(rows) == 1:
            return float(np.interp(num_rows, rows, times))
        slope = max(0.0, (times[-1] - times[0]) / (rows[-1] - rows[0]))
        return float(times[-1] + slope * (num_rows - rows[-1]))


@dataclass(frozen=True, slots=True)
class Tables:
    """What was learned of one model. `has_adapter`: drafts are computed, not looked up."""

    device: DeviceTimes
    cloud: TableStep
    overheads: Overheads
    has_adapter: bool


def calibrate(cell: Cell, cells: Sequence[Cell]) -> Tables:
    """The times of a cell's model, as its other settings tell over links without a trace.

    Raises:
        LikeError: no cell without drafts, no cell with them, or no steps in them.
    """
    model = cell.model
    known = [c for c in cells if c.arm not in NOT_LEARNED and c.link.trace is None]
    of_model = [c for c in known if c.model.fingerprint == model.fingerprint]
    others = [c for c in of_model if c.setting != cell.setting]
    plain = [c for c in others if c.arm in _PLAIN_ARMS]
    drafting = [c for c in others if any(r.drafted_by_position for r in c.requests)]
    steps = steps_by_rows(others)
    if not (plain and drafting and steps):
        wanted = "cells of u-shape and of hat, of other settings, with the cloud's steps"
        raise LikeError(f"--calibrate, {model.name}: expected {wanted}")
    draft_call_s, draft_step_s = _draft_times(drafting)
    device = DeviceTimes(
        input=_input_line(plain),
        output=_line(
            others,
            seconds=lambda r: r.seconds["verify"],
            calls=lambda r: 1 + r.rounds,
            rows=lambda r: 1 + r.rounds + sum(r.drafted_by_position),
        ),
        draft_call_s=draft_call_s,
        draft_step_s=draft_step_s,
    )
    has_adapter = draft_step_s > _NGRAM_TOKEN_S
    return Tables(device, _step_table(steps), _overheads(plain), has_adapter)


def steps_by_rows(cells: Sequence[Cell]) -> dict[int, list[float]]:
    """Seconds of the cloud's steps by their rows."""
    seconds: defaultdict[int, list[float]] = defaultdict(list)
    for cell in cells:
        for num_tokens, step_s in zip(cell.cloud_step_tokens, cell.cloud_step_s, strict=False):
            seconds[num_tokens].append(step_s)
    return dict(seconds)


def _num_frames(request: RequestRecord) -> float:
    return len(request.chunk_tokens) + request.rounds


_Measure = Callable[[RequestRecord], float]


def _line(cells: Sequence[Cell], seconds: _Measure, calls: _Measure, rows: _Measure) -> LinearTime:
    """So much per call and per row, by relative errors; neither is below 0."""
    points = [
        tuple(median(measure(r) for r in cell.requests) for measure in (calls, rows, seconds))
        for cell in cells
    ]
    table = np.array(points)
    weights = 1.0 / np.maximum(table[:, 2], 1e-6)
    columns = table[:, :2] * weights[:, None]
    fitted, *_ = np.linalg.lstsq(columns, table[:, 2] * weights, rcond=None)
    fixed_s, row_s = (float(value) for value in fitted)
    if fixed_s < 0.0 or row_s < 0.0:
        column = 1 if fixed_s < 0.0 else 0
        alone = columns[:, column]
        share = float(alone @ (table[:, 2] * weights) / (alone @ alone))
        return LinearTime(0.0, share) if column == 1 else LinearTime(share, 0.0)
    return LinearTime(fixed_s, row_s)


def _input_line(cells: Sequence[Cell]) -> LinearTime:
    """A round's one row from what timelines leave of the phase, a chunk's rows from their bars."""
    singles, chunks = [], []
    for request in (request for cell in cells for request in cell.requests if request.rounds):
        bars = [s for s in request.spans if (s.lane, s.what) == ("device", "prefill")]
        if bars:
            chunks_s = sum(bar.end_s - bar.start_s for bar in bars)
            singles.append((request.seconds["input"] - chunks_s) / request.rounds)
            chunks += [(bar.num_tokens, bar.end_s - bar.start_s) for bar in bars]
    if not chunks:
        return _line(
            cells,
            seconds=lambda r: r.seconds["input"],
            calls=_num_frames,
            rows=lambda r: r.prompt_tokens + r.rounds,
        )
    single_s = max(0.0, median(singles))
    slopes = [(seconds - single_s) / (rows - 1) for rows, seconds in chunks if rows > 1]
    row_s = min(single_s, max(0.0, median(slopes))) if slopes else 0.0
    return LinearTime(single_s - row_s, row_s)


def _draft_times(cells: Sequence[Cell]) -> tuple[float, float]:
    """Half of a round's drafting per draft, half by its tokens: the two cannot be told apart."""
    requests = [r for cell in cells for r in cell.requests if sum(r.drafted_by_position)]
    per_round = median(r.seconds["draft"] / r.rounds for r in requests)
    per_token = median(r.seconds["draft"] / sum(r.drafted_by_position) for r in requests)
    return per_round / 2, per_token / 2


def _step_table(steps: Mapping[int, Sequence[float]]) -> TableStep:
    points = [(float(rows), median(times), len(times)) for rows, times in sorted(steps.items())]
    return TableStep(tuple(_never_falling(points)))


def _never_falling(points: Sequence[tuple[float, float, int]]) -> list[tuple[float, float]]:
    """Rows and seconds that rise, nearest to these by weighted squares (adjacent ones pooled)."""
    pools: list[list[tuple[float, float, int]]] = []
    for point in points:
        pools.append([point])
        while len(pools) > 1 and _mean_s(pools[-2]) > _mean_s(pools[-1]):
            last = pools.pop()
            pools[-1].extend(last)
    return [(rows, _mean_s(pool)) for pool in pools for rows, _, _ in pool]


def _mean_s(pool: Sequence[tuple[float, float, int]]) -> float:
    return sum(s * weight for _, s, weight in pool) / sum(weight for _, _, weight in pool)


def _overheads(cells: Sequence[Cell]) -> Overheads:
    """From cells whose prompts go up in one frame or few, so that little overlaps."""
    http, pieces, frames = [], [], []
    for cell in cells:
        for request in cell.requests:
            http.append(request.emissions[-1][0] - request.seconds["total"])
            others_s = request.seconds["loop"] + request.seconds["send"]
            pieces.append(others_s / len(request.emissions))
            frames.append(_frame_s(cell.link, request))
    return Overheads(
        request_s=max(0.0, median(http)),
        emission_s=median(pieces),
        frame_s=max(0.0, median(frames)),
    )


def _frame_s(link: LinkRecord, request: RequestRecord) -> float:
    """What a frame and its reply take beyond the link's round trip and its rates."""
    way_s = request.bytes_up / (link.uplink_bytes_per_s or inf)
    way_s += request.bytes_down / (link.downlink_bytes_per_s or inf)
    return (request.seconds["link"] - way_s) / _num_frames(request) - 2 * link.delay_s
