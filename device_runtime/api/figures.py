"""What a request took, for the client that asks: counts, bytes, and where the time went."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from chunking.cost import LinearTime
from chunking.estimates import Estimates
from device_runtime.generation.request import Origin
from device_runtime.generation.stats import DraftCounts, GenerationStats
from device_runtime.generation.timeline import Span


class PhaseSeconds(msgspec.Struct, frozen=True, kw_only=True):
    """Where the time of a request went, in seconds, summed over its choices.

    `queue`: waiting for a turn on the device. `open`: making room on both sides, as far as no
    chunk is worked on or under way meanwhile. `draft`: drafting tokens. `input`: input submodel.
    `send`: handing rows to the link. `link`: under way up and down. `cloud_queue`,
    `cloud_compute`: what the cloud measured. `verify`: output submodel and choice of tokens.
    `recovery`: getting a lost cloud back. `loop`: everything else, such as the event loop and a
    client that reads slowly.
    """

    queue: float
    open: float
    draft: float
    input: float
    send: float
    link: float
    cloud_queue: float
    cloud_compute: float
    verify: float
    recovery: float
    loop: float
    total: float


class KnownState(msgspec.Struct, frozen=True, kw_only=True):
    """What was known of device, link and cloud when a chunk was chosen; None: not measured yet.

    A step of n tokens was expected to take `cloud_step_s[0] + n * cloud_step_s[1]`, the device's
    part of a chunk the same with `prefill_s`.
    """

    uplink_bytes_per_s: float | None
    downlink_bytes_per_s: float | None
    delay_s: float | None
    cloud_queue_s: float | None
    cloud_step_s: tuple[float, float] | None
    prefill_s: tuple[float, float] | None
    draft_token_s: float | None


class LoneMark(msgspec.Struct, frozen=True):
    """The `hat` field of whatever tells a part of an answer that the draft model gives alone."""

    answered_by: Literal["draft"] = "draft"


class LoneAnswers(msgspec.Struct, frozen=True, kw_only=True):
    """What answers while there is no cloud, and what was measured of it when it was trained."""

    answered_by: Literal["draft"] = "draft"
    tokens_per_round: float | None = None
    """Greedy on held-out text, with drafts of `draft_tokens`; None: the adapter does not say."""
    draft_tokens: int
    acceptance: float | None = None
    """The share of its tokens that the model itself would have written, where all before were its
    own: the one that gives so many tokens per round. Behind the draft model's text it is less."""


class TokenText(msgspec.Struct, frozen=True):
    """The text of one token of an answer, and how the token came about."""

    text: str
    origin: Origin


class RoundFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The `hat` field of an event: what the rounds since the event before it decided.

    `rounds` are verifications; the first token of an answer comes from its prompt, not from one.
    The texts of `tokens` joined are the text of the event: a text that is held back comes later,
    and the rest of a token's text, without a beginning, has that token's origin.
    """

    rounds: int
    drafted_tokens: int
    accepted_tokens: int
    tokens: list[TokenText]
    answered_by: Literal["draft"] | UnsetType = UNSET
    """There where no model has judged what the draft model says."""


class HatFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The `hat` field of an answer: sums over its choices.

    `rounds` are verifications of drafts, an empty draft included. Entry i of the lists is about
    the (i + 1)-th drafted token of a round. `drafted_by` has drafted and accepted tokens by
    drafter, but for rounds that were sent behind others or interrupted. `pipelined_rows` were
    sent behind a draft that was not decided yet, and `stale_rows` of them were of no use.
    `saved_bytes_up` and `saved_bytes_down` are what coded rows took less than RAW ones;
    `lossy_rows_up` and `lossy_rows_down` were rounded.
    `link_delay_s` is the least time that a reply took beyond what the cloud spent on it, there
    and back; None without one. `first_token_s` counts from the request's way into the runtime;
    it is that of the quickest choice. `chunk_tokens` are the sizes of the chunks, choice after
    choice, and `known` is from the last of them. `timeline` is there when asked for, and is
    that of the first choice. `answered_by` is `draft` where there was no cloud and the draft
    model answered alone, `both` where it did so for some choices.
    """

    answered_by: Literal["cloud", "draft", "both"]
    rounds: int
    chunks: int
    chunk_tokens: list[int]
    known: KnownState | None
    reused_prompt_tokens: int
    drafted_tokens: int
    accepted_tokens: int
    drafted_by_position: list[int]
    accepted_by_position: list[int]
    drafted_by: dict[str, DraftCounts]
    pipelined_rows: int
    stale_rows: int
    bytes_up: int
    bytes_down: int
    saved_bytes_up: int
    saved_bytes_down: int
    lossy_rows_up: int
    lossy_rows_down: int
    recoveries: int
    link_delay_s: float | None
    first_token_s: float | None
    seconds: PhaseSeconds
    timeline: list[Span] | UnsetType = UNSET


def phases_of(stats: GenerationStats) -> PhaseSeconds:
    """The time of one generation; the cloud's measures are cut to what was waited for it."""
    cloud_compute = min(stats.cloud_compute_s, stats.wait_s)
    cloud_queue = min(stats.cloud_queue_s, stats.wait_s - cloud_compute)
    device = stats.queue_s + stats.open_s + stats.draft_s + stats.input_s + stats.output_s
    known = device + stats.send_s + stats.wait_s + stats.recovery_s
    return PhaseSeconds(
        queue=stats.queue_s,
        open=stats.open_s,
        draft=stats.draft_s,
        input=stats.input_s,
        send=stats.send_s,
        link=stats.wait_s - cloud_compute - cloud_queue,
        cloud_queue=cloud_queue,
        cloud_compute=cloud_compute,
        verify=stats.output_s,
        recovery=stats.recovery_s,
        loop=max(0.0, stats.total_s - known),
        total=max(stats.total_s, known),
    )


def figures_of(choices: Sequence[GenerationStats]) -> HatFigures:
    """The figures of a request from those of its choices, at least one, all ended."""
    delays = [stats.link_delay_s for stats in choices if stats.link_delay_s is not None]
    chunks = [chunk for stats in choices for chunk in stats.chunks]
    firsts = [stats.first_token_s for stats in choices if stats.first_token_s is not None]
    return HatFigures(
        answered_by=_answered_by(choices),
        rounds=sum(stats.num_rounds for stats in choices),
        chunks=sum(stats.num_chunks for stats in choices),
        chunk_tokens=[chunk.num_tokens for chunk in chunks],
        known=_known(chunks[-1].estimates) if chunks else None,
        reused_prompt_tokens=sum(stats.num_reused_tokens for stats in choices),
        drafted_tokens=sum(stats.num_drafted_tokens for stats in choices),
        accepted_tokens=sum(stats.num_accepted_tokens for stats in choices),
        drafted_by_position=_summed([stats.drafted_by_position for stats in choices]),
        accepted_by_position=_summed([stats.accepted_by_position for stats in choices]),
        pipelined_rows=sum(stats.num_behind_rows for stats in choices),
        stale_rows=sum(stats.num_stale_rows for stats in choices),
        drafted_by=_by_drafter([stats.drafted_by for stats in choices]),
        bytes_up=sum(stats.bytes_up for stats in choices),
        bytes_down=sum(stats.bytes_down for stats in choices),
        saved_bytes_up=sum(stats.saved_up for stats in choices),
        saved_bytes_down=sum(stats.saved_down for stats in choices),
        lossy_rows_up=sum(stats.lossy_up for stats in choices),
        lossy_rows_down=sum(stats.lossy_down for stats in choices),
        recoveries=sum(stats.num_recoveries for stats in choices),
        link_delay_s=_rounded(min(delays, default=None)),
        first_token_s=_rounded(min(firsts, default=None)),
        seconds=_seconds([phases_of(stats) for stats in choices]),
        timeline=_timeline(choices[0]),
    )


LONE_HEADERS: Mapping[str, str] = MappingProxyType({"X-Hat-Answered-By": "draft"})
"""Headers of an answer that the draft model gives alone, or of which it gives a choice."""


def timing_headers(figures: HatFigures) -> dict[str, str]:
    """Response headers: the rounds, and the times as browsers and proxies show them.

    Source: W3C, "Server Timing", section 2; durations are in milliseconds.
    """
    seconds = msgspec.structs.asdict(figures.seconds)
    timing = ", ".join(f"{name};dur={1000 * value:.3f}" for name, value in seconds.items())
    lone = {} if figures.answered_by == "cloud" else LONE_HEADERS
    return {"X-Hat-Rounds": str(figures.rounds), "Server-Timing": timing, **lone}


def _answered_by(choices: Sequence[GenerationStats]) -> Literal["cloud", "draft", "both"]:
    num_alone = sum(stats.is_alone for stats in choices)
    if num_alone == 0:
        return "cloud"
    return "draft" if num_alone == len(choices) else "both"


def _known(estimates: Estimates) -> KnownState:
    return KnownState(
        uplink_bytes_per_s=_rounded(estimates.uplink_bytes_per_s),
        downlink_bytes_per_s=_rounded(estimates.downlink_bytes_per_s),
        delay_s=_rounded(estimates.delay_s),
        cloud_queue_s=_rounded(estimates.cloud_queue_s),
        cloud_step_s=_line(estimates.cloud_step),
        prefill_s=_line(estimates.prefill),
        draft_token_s=_rounded(estimates.draft_token_s),
    )


def _timeline(stats: GenerationStats) -> list[Span] | UnsetType:
    if not stats.timeline.is_kept:
        return UNSET
    return [
        replace(span, start_s=round(span.start_s, 6), end_s=round(span.end_s, 6))
        for span in stats.timeline.spans(stats.link_delay_s)
    ]


def _line(time: LinearTime | None) -> tuple[float, float] | None:
    return None if time is None else (round(time.fixed_s, 9), round(time.token_s, 9))


def _seconds(choices: Sequence[PhaseSeconds]) -> PhaseSeconds:
    names = PhaseSeconds.__struct_fields__
    return PhaseSeconds(
        **{name: round(sum(getattr(each, name) for each in choices), 6) for name in names}
    )


def _summed(lists: Sequence[Sequence[int]]) -> list[int]:
    """Sums by position; a shorter list counts as zeros beyond its end."""
    length = max(len(each) for each in lists)
    return [sum(each[i] for each in lists if i < len(each)) for i in range(length)]


def _by_drafter(choices: Sequence[Mapping[str, DraftCounts]]) -> dict[str, DraftCounts]:
    """Sums by drafter."""
    sums: dict[str, DraftCounts] = {}
    for choice in choices:
        for name, counts in choice.items():
            total = sums.setdefault(name, DraftCounts())
            total.drafted += counts.drafted
            total.accepted += counts.accepted
    return sums


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
