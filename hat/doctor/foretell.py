"""What to expect: this device, link and cloud as tables in the simulator, asked as users ask.

The simulator runs the programs' own code, planner and drafting policy included; what was measured
here says how long each piece of work takes. Other choices are the same world with other tables.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from adapters.storage import TrainingFigures
from bench.link.spec import LinkSpec
from bench.measures import tbt_s
from bench.records import LinkRecord, ModelRecord, RequestRecord, WorkloadRecord
from bench.sim.arms import sim_arm
from bench.sim.cloud import CloudSpec, core_config
from bench.sim.run import simulate
from bench.sim.scenario import DeviceSpec, Request, Scenario
from bench.sim.world.acceptance import NEVER, AcceptanceTable, geometric
from bench.sim.world.coding import CodecTimes
from bench.sim.world.link import MSS_BYTES, PACKET_OVERHEAD_BYTES
from bench.sim.world.times import DeviceTimes, Overheads
from chunking.averages import RobustAverage
from chunking.coding import DECODING_SHARE, Coding
from chunking.cost import LinearTime
from chunking.line_estimator import LineEstimator
from cloud_server.core.actions import Step
from device_runtime.engines.engine import DraftLimits
from hat.doctor.cloud import Check, CloudFindings, LinkFindings

PROMPT_TOKENS = (100, 1000, 4000)

_ANSWER_TOKENS = 64
_NUM_ASKED = 3
"""Prompts of each size that count."""
_CAPACITY_TOKENS = 1 << 18
_ROUND_ROWS = 16
"""More are a prompt's."""

_QUEUE_BYTES = 1 << 30

_WIRE_SHARE = (MSS_BYTES + PACKET_OVERHEAD_BYTES) / MSS_BYTES
"""A link's rate counts the headers of packets, and what was measured does not."""


@dataclass(frozen=True, slots=True)
class Drafts:
    """How well a drafter guesses, and what its guesses cost."""

    table: AcceptanceTable
    limits: DraftLimits
    step_s: float


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to set up device and split; the world is that of all choices."""

    layers: LinearTime
    """Over the rows of a frame."""
    head: LinearTime
    cloud_share: float = 1.0
    """Of the middle layers that were measured."""
    returns_all_rows: bool = False
    """As with output layers on the device."""
    chunking: Literal["adaptive", "paper", "fixed"] = "adaptive"
    chunk_tokens: int = 0
    drafts: Drafts | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a prompt of so many tokens takes."""

    num_tokens: int
    ttft_s: float
    chunks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Speed:
    """Of the tokens behind the first."""

    token_s: float
    """On average."""
    tokens_per_round: float

    @property
    def tokens_per_s(self) -> float:
        """How many come in a second."""
        return 1.0 / self.token_s


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a choice leads to."""

    prompts: tuple[Prompt, ...]
    speed: Speed

    def ttft_s(self, num_tokens: int) -> float:
        """Of the prompt of so many tokens, which was among those asked."""
        return next(each.ttft_s for each in self.prompts if each.num_tokens == num_tokens)


class MeasuredStep:
    """A step's time by its rows, and by what lies before them.

    Rows of a round are as they were measured, of which there are many samples. Of chunks there are
    few, and one that other work made late would count for every chunk: a line is laid through them.
    """

    def __init__(self, cloud: CloudFindings, share: float) -> None:
        self._context = cloud.context
        self._share = share
        small = [step for step in cloud.steps if step.num_rows <= _ROUND_ROWS]
        self._rows = [step.num_rows for step in small]
        self._seconds = [step.seconds for step in small]
        line = LineEstimator(RobustAverage)
        for step in [*small[-1:], *cloud.steps[len(small) :]]:
            line.add(step.num_rows, step.seconds)
        assert line.line is not None, "single rows are always measured"
        self._line = line.line

    def of(self, step: Step) -> float:
        """See `bench.sim.world.times.StepTime`."""
        num_rows = sum(item.num_rows for item in step.items)
        context_s = sum(
            (item.position + item.num_rows / 2) * self._context.of(item.num_rows)
            for item in step.items
        )
        return self._share * (self._of_rows(num_rows) + context_s)

    def _of_rows(self, num_rows: int) -> float:
        if num_rows <= self._rows[-1]:
            return float(np.interp(num_rows, self._rows, self._seconds))
        return max(self._seconds[-1], self._line.of(num_rows))


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What no choice changes: the link, the cloud, and what the programs add to each piece."""

    link: LinkFindings
    cloud: CloudFindings
    most_tokens: int
    """Of prompt and answer together."""
    request_s: float = 0.0
    """What the endpoint adds to every request."""
    piece_s: float = 0.0
    """What every piece of an answer takes beyond what was measured in parts."""

    @property
    def prompt_sizes(self) -> tuple[int, ...]:
        """Those of `PROMPT_TOKENS` that the context has room for."""
        return tuple(size for size in PROMPT_TOKENS if size + _ANSWER_TOKENS <= self.most_tokens)

    def with_check(self, choice: Choice, check: Check) -> "Surroundings":
        """The same, with what an answer was seen to take beyond its parts."""
        answer = _asked(self, choice, [(check.num_prompt_tokens, check.num_tokens)])[-1]
        piece_s = max(0.0, check.token_s - _speed(answer).token_s)
        return replace(self, request_s=check.request_s, piece_s=piece_s)

    def outlook(self, choice: Choice, sizes: tuple[int, ...] | None = None) -> Outlook:
        """What a choice leads to here, for prompts of these sizes."""
        sizes = self.prompt_sizes if sizes is None else sizes
        # The first time the planner knows little of link and cloud.
        asked = [(size, 2) for size in sizes * (1 + _NUM_ASKED)]
        short = min(sizes, default=1)
        *prompts, answer = _asked(self, choice, [*asked, (short, _ANSWER_TOKENS)])
        known = prompts[len(sizes) :]
        typical = [_typical_prompt(known[index :: len(sizes)]) for index in range(len(sizes))]
        return Outlook(tuple(typical), _speed(answer))


def card_drafts(figures: TrainingFigures, limits: DraftLimits, step_s: float) -> Drafts:
    """The bundle's adapter, as it was measured when it was trained.

    Of a draft that never stops, and of one that stops where it is unsure, the tokens per round are
    known; the two tell how often a guess is right and how often one is made.
    """
    most = limits.max_tokens
    stopped = _chance(figures.stopped_tokens_per_round, most)
    right = max(stopped, _chance(figures.tokens_per_round, most))
    sure = stopped / right if right else 0.0
    return Drafts(AcceptanceTable((sure,), (sure,), (right,), source="card"), limits, step_s)


def assumed_drafts(tokens_per_round: float, max_tokens: int, step_s: float) -> Drafts:
    """A drafter that is not there, if it were so good."""
    table = geometric(tokens_per_round, 1.0, max_tokens, "assumed")
    return Drafts(table, DraftLimits(0.0, max_tokens), step_s)


def scaled(time: LinearTime, factor: float) -> LinearTime:
    """So many times as long."""
    return LinearTime(factor * time.fixed_s, factor * time.token_s)


def _chance(tokens_per_round: float, max_tokens: int) -> float:
    """That the next guess of a draft stays, if all had the same."""
    most = max_tokens + 0.999
    (chance,) = geometric(max(1.0, min(tokens_per_round, most)), 1.0, max_tokens, "").right
    return chance


def _asked(
    world: Surroundings, choice: Choice, requests: list[tuple[int, int]]
) -> list[RequestRecord]:
    """What the requests `(prompt tokens, answer tokens)` took, asked one after the other."""
    drafts = choice.drafts
    arm = sim_arm("hat-no-speculation" if drafts is None else "hat")
    device = replace(arm.device, chunking=choice.chunking, chunk_tokens=choice.chunk_tokens)
    cloud, link = world.cloud, world.link
    scenario = Scenario(
        arm=replace(arm, device=device, returns_all_rows=choice.returns_all_rows),
        setting="",
        model=_MODEL,
        # So that TCP's own dynamics are simulated too.
        link=LinkRecord(kind="netem"),
        workload=_WORKLOAD,
        requests=tuple(Request(n, 0, 0.0, *sizes) for n, sizes in enumerate(requests)),
        devices=(
            DeviceSpec(
                DeviceTimes(
                    input=choice.layers,
                    output=choice.head,
                    draft_call_s=0.0,
                    draft_step_s=0.0 if drafts is None else drafts.step_s,
                ),
                _link_spec(link),
                Overheads(request_s=world.request_s, emission_s=world.piece_s),
                is_slow_after_pause=link.is_slow_after_pause is not False,
            ),
        ),
        cloud=CloudSpec(
            MeasuredStep(cloud, choice.cloud_share),
            core_config(
                _CAPACITY_TOKENS,
                cloud.max_context_tokens,
                cloud.row_bytes,
                max_frame_tokens=cloud.max_frame_tokens,
                credit_window_tokens=4 * cloud.max_frame_tokens,
            ),
        ),
        acceptance=NEVER if drafts is None else drafts.table,
        draft_limits=DraftLimits(0.0, 1) if drafts is None else drafts.limits,
        codec=_codec(link.coding, cloud.row_bytes),
        seed=0,
    )
    return simulate(scenario).requests


def _link_spec(link: LinkFindings) -> LinkSpec:
    """With room for whole prompts before the link, which nobody has measured: in a short buffer a
    flight's last segments are lost or not for the least of reasons, and a prompt waits for them."""
    rates = (link.up_bytes_per_s, link.down_bytes_per_s)
    up, down = (None if rate is None else rate * _WIRE_SHARE for rate in rates)
    return LinkSpec(up, down, delay_s=link.delay_s / 2, queue_bytes=_QUEUE_BYTES)


def _codec(coding: Coding | None, row_bytes: int) -> CodecTimes | None:
    if coding is None:
        return None
    encode_byte_s = coding.time.token_s / row_bytes
    return CodecTimes(coding.share, encode_byte_s, DECODING_SHARE * encode_byte_s)


def _typical_prompt(requests: list[RequestRecord]) -> Prompt:
    """The one in the middle: now and then a segment is lost, and a prompt waits for it."""
    ranked = sorted(requests, key=lambda request: request.emissions[0][0])
    middle = ranked[len(ranked) // 2]
    return Prompt(middle.prompt_tokens, middle.emissions[0][0], tuple(middle.chunk_tokens))


def _speed(request: RequestRecord) -> Speed:
    gaps_s = tbt_s(request)
    num_rounds = max(1, request.rounds)
    return Speed(sum(gaps_s) / len(gaps_s), (request.output_tokens - 1) / num_rounds)


_MODEL = ModelRecord(
    name="",
    fingerprint="",
    num_layers=0,
    num_input_layers=0,
    num_output_layers=0,
    hidden_size=0,
    dtype="",
    has_real_weights=False,
)
_WORKLOAD = WorkloadRecord(
    name="", arrivals="closed", num_devices=1, num_requests=0, max_output_tokens=0, temperature=0.0
)
