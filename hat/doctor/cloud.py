"""What the link and the cloud behind it can do, as this device sees them."""

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

import aiohttp

from bench.live.event_reader import ask
from chunking.averages import RobustAverage
from chunking.coding import Coding
from chunking.cost import LinearTime
from chunking.line_estimator import LineEstimator
from device_runtime.config import DeviceConfig
from device_runtime.engines.engine import Rows
from device_runtime.engines.timing import some_token_ids
from device_runtime.generation.request import CloudUnavailableError
from device_runtime.link.dialing import Dialer
from device_runtime.link.link import Link
from device_runtime.link.session import LinkSession
from device_runtime.server import DeviceServer, link_config, serve_device
from hat.doctor.probe import CHUNK_ROWS, Frames, Measured, measure
from hat.doctor.rates import bytes_per_s_of_transfer, train_bytes_per_s
from process.sockets.aiohttp_socket import AiohttpSocket
from process.sockets.congestion import (
    allowed_congestion_controls,
    is_slow_after_pause,
    slow_start_after_idle,
)
from process.sockets.tcp import SentSegments
from process.world import Clock, World
from submodels.bundle.bundle import load_bundle
from submodels.manifest import ModelShape
from wire.limits import ITEM_BYTES
from wire.numbers import pack_rows

_CONNECT_S = 15.0
_LOOK_S = 0.05

_SESSION_TOKENS = 2048
"""More is not reserved in the cloud, so that a busy one has room for it."""

_LEAST_STEP_S = 1e-5

_RESTART_S = 0.2
"""The least time for which TCP waits for an acknowledgement, on Linux."""

_MOST_SHARE = 3.0
"""Attention is not as quick as the same number of multiplications with weights."""

_CHECK_PROMPT_TOKENS, _CHECK_TOKENS = 32, 17


@dataclass(frozen=True, slots=True)
class CloudStep:
    """How long the cloud computes for a frame of so many rows, at the beginning of a text."""

    num_rows: int
    seconds: float


@dataclass(frozen=True, slots=True)
class CloudFindings:
    """The cloud."""

    url: str
    steps: tuple[CloudStep, ...]
    context: LinearTime
    """What a frame takes longer for each position before it, over its rows."""
    queue_s: float
    """How long a frame typically waits behind other devices' work."""
    row_format: str
    """FP32, FP16 or BF16: the number format of rows on the link."""
    row_bytes: int
    max_context_tokens: int
    max_frame_tokens: int


@dataclass(frozen=True, slots=True)
class LinkFindings:
    """The link. Rates are of bytes of rows; None: faster than could be measured."""

    delay_s: float
    """There and back for a frame of no bytes, what both programs add included."""
    jitter_s: float
    """One frame in ten is later than the typical one by at least this."""
    up_bytes_per_s: float | None
    down_bytes_per_s: float | None
    num_sent_segments: int | None
    """None where the system does not tell; Linux does."""
    num_lost_segments: int | None
    """Those sent a second time. What is lost on the way down is not seen here."""
    congestion_control: str | None = None
    """Of what goes up; None where the system does not tell."""
    is_slow_after_pause: bool | None = None
    """Whether what goes up begins slowly again after a pause."""
    can_be_warm: bool = False
    """Whether this program could choose a congestion control that does not."""
    coding: Coding | None = None
    """What coding rows takes here and which share of their bytes it leaves; None: they go as they
    are."""


@dataclass(frozen=True, slots=True)
class Check:
    """An answer without drafts, asked of the device's own endpoint as users ask."""

    num_prompt_tokens: int
    num_tokens: int
    ttft_s: float
    token_s: float
    """Between two tokens, the typical one."""
    request_s: float
    """What the client waited for beyond what the answer took behind the endpoint."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What was asked of link and cloud to find this out."""

    seconds: float
    bytes_up: int
    bytes_down: int
    num_rows: int
    """Of hidden states, that the cloud computed."""


@dataclass(frozen=True, slots=True)
class Reached:
    """All that was learned beyond this device."""

    link: LinkFindings
    cloud: CloudFindings
    check: Check
    cost: Cost


async def examine_cloud(config: DeviceConfig, rows: Rows, world: World) -> Reached:
    """Serve as `hat device` does, measure with one session, ask for one answer, and stop.

    `rows` `[T, H]` are shallow rows as prompts have them.

    Raises:
        CloudUnavailableError: it cannot be reached, refuses this device or has no room; its reason
            is a sentence for users.
        UserError: a device cannot be served with these settings.
    """
    begun_s, clock = world.clock(), world.clock
    plain = replace(config, host="127.0.0.1", port=0, api_key=None, drafter="none", kept_sessions=0)
    dial = _WatchedDial(Dialer(link_config(config, load_bundle(config.bundle_path, "device"))))
    async with serve_device(plain, world, dial) as device:
        await _connected(device.link)
        session, measured = await _measured(device, rows, clock)
        limits = device.link.limits
        assert limits is not None, "it has been measured"
        check, answer_bytes = await _checked(device)
        coding = device.link.monitor.estimates(0).coding
        segments, congestion = dial.segments(), dial.congestion_control()
    share = _MOST_SHARE * _attention_share(device.bundle.manifest.shape)
    context = context_of(measured, share)
    cost = Cost(
        seconds=clock() - begun_s,
        bytes_up=session.carried.up + answer_bytes[0],
        bytes_down=session.carried.down + answer_bytes[1],
        num_rows=measured.num_rows + check.num_prompt_tokens + check.num_tokens - 1,
    )
    return Reached(
        replace(
            link_findings(measured, segments),
            congestion_control=congestion,
            is_slow_after_pause=is_slow_after_pause(congestion, slow_start_after_idle()),
            can_be_warm="bbr" in allowed_congestion_controls(),
            coding=coding,
        ),
        CloudFindings(
            url=config.cloud,
            steps=steps_of(measured, context),
            context=context,
            queue_s=median(trip.queue_s for trip in measured.singles),
            row_format=session.dtype.name,
            row_bytes=rows.shape[1] * ITEM_BYTES[session.dtype],
            max_context_tokens=limits.max_context_tokens,
            max_frame_tokens=limits.max_frame_tokens,
        ),
        check,
        cost,
    )


def link_findings(measured: Measured, segments: SentSegments | None) -> LinkFindings:
    """What the trips say of the link, with what the system counted."""
    up = train_bytes_per_s([(trip.arrived_s, trip.bytes_up) for trip in measured.train])
    trips_s = sorted(trip.link_s for trip in measured.singles)
    typical_s = median(trips_s)
    down = _down_bytes_per_s(measured, typical_s)
    single = measured.singles[0]
    under_way_s = single.bytes_up / up if up else 0.0
    under_way_s += single.bytes_down / down if down else 0.0
    return LinkFindings(
        delay_s=max(0.0, typical_s - under_way_s),
        jitter_s=trips_s[-1 - len(trips_s) // 10] - typical_s,
        up_bytes_per_s=up,
        down_bytes_per_s=down,
        num_sent_segments=None if segments is None else segments.num_sent,
        num_lost_segments=None if segments is None else segments.num_again,
    )


def _down_bytes_per_s(measured: Measured, round_trip_s: float) -> float | None:
    """From how much later a frame's rows all come than one of them, but for the first time.

    The cloud's TCP starts slowly again once it has sent nothing for a while.
    """
    least, _ = measured.pairs[-1]
    pauses_s = round_trip_s if least.trip_s > round_trip_s + _RESTART_S else 0.0
    longer_s = median(most.link_s - least.link_s for least, most in measured.pairs[1:])
    num_bytes = measured.pairs[-1][1].bytes_down - least.bytes_down
    return bytes_per_s_of_transfer(num_bytes, longer_s, pauses_s)


def steps_of(measured: Measured, context: LinearTime) -> tuple[CloudStep, ...]:
    """The cloud's times by rows, without what the positions before them take.

    A frame that was computed in several steps took their fixed time as often, so it counts only
    where all chunks were: then as one of the rows of its last step.
    """
    trips = [*measured.singles, *measured.grown, *measured.late, *measured.train]
    whole = [trip for trip in trips if not trip.is_split]
    if max(trip.num_rows for trip in whole) < CHUNK_ROWS:
        whole = trips
    by_size: defaultdict[int, list[float]] = defaultdict(list)
    for trip in whole:
        size = min(trip.num_rows, trip.batch_tokens)
        compute_s = trip.compute_s * size / trip.num_rows
        by_size[size].append(max(_LEAST_STEP_S, compute_s - trip.mean_context * context.of(size)))
    return tuple(CloudStep(size, median(by_size[size])) for size in sorted(by_size))


def context_of(measured: Measured, most_share: float) -> LinearTime:
    """From frames of the same size that stand early and late in the text.

    Of each the quickest counts, and no position is believed to take more than `most_share` of the
    frame: other work on the cloud's machine makes some frames late, and a prompt of thousands of
    tokens would have that a thousand times.
    """
    line = LineEstimator(RobustAverage)
    for size in {trip.num_rows for trip in measured.late}:
        early, late = (
            min((t for t in trips if t.num_rows == size), key=lambda t: t.compute_s)
            for trips in ((*measured.singles, *measured.grown), measured.late)
        )
        longer_s = max(0.0, late.compute_s - early.compute_s)
        position_s = longer_s / max(1.0, late.mean_context - early.mean_context)
        line.add(size, min(position_s, most_share * early.compute_s))
    assert line.line is not None, "there are late frames"
    return line.line


def _attention_share(shape: ModelShape) -> float:
    """Multiplications of a row with one position's key and value, over those with the weights.

    Where heads differ, those of `ModelShape` stand for all: most layers have them.
    """
    width = shape.num_attention_heads * shape.head_dim
    kv_width = shape.num_key_value_heads * shape.head_dim
    attention = shape.hidden_size * 2 * (width + kv_width)
    return 2 * width / (attention + 3 * shape.hidden_size * shape.intermediate_size)


async def _connected(link: Link) -> None:
    """Wait for a connection, or for the first reason why there is none."""
    first = link.status
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_CONNECT_S):
            while link.status is first:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(link.connected(), _LOOK_S)
    if not link.status.is_connected:
        raise CloudUnavailableError(link.status.reason or "the cloud does not answer")


async def _measured(device: DeviceServer, rows: Rows, clock: Clock) -> tuple[LinkSession, Measured]:
    """What the frames of a session say, which is closed again."""
    limits = device.link.limits
    assert limits is not None, "it is connected"
    most_tokens = min(device.runtime.max_context_tokens, _SESSION_TOKENS)
    session = device.link.open(most_tokens)
    try:
        await session.opened()
        num_rows = min(len(rows), limits.max_frame_tokens, most_tokens - 1)
        packed = pack_rows(rows[:num_rows], session.dtype)
        return session, await measure(Frames(session, packed, num_rows, clock), most_tokens)
    finally:
        session.close()


async def _checked(device: DeviceServer) -> tuple[Check, tuple[int, int]]:
    """An answer, and the bytes that crossed the link for it, up and down.

    Raises:
        CloudUnavailableError: there is none.
    """
    runtime = device.runtime
    num_prompt_tokens = min(_CHECK_PROMPT_TOKENS, runtime.max_context_tokens - _CHECK_TOKENS)
    body = {
        "prompt": some_token_ids(num_prompt_tokens, runtime.vocab_size),
        "max_tokens": _CHECK_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "include_hat_stats": True,
    }
    async with aiohttp.ClientSession() as http:
        answer = await ask(http, f"{device.url}/v1/completions", body, time.perf_counter())
    if answer.error is not None or answer.figures is None or len(answer.emissions) < 2:
        reason = runtime.ready() or f"the device's own endpoint answers {answer.error}"
        raise CloudUnavailableError(reason)
    gaps_s = [(after[0] - before[0]) / after[1] for before, after in pairwise(answer.emissions)]
    check = Check(
        num_prompt_tokens=num_prompt_tokens,
        num_tokens=answer.num_tokens,
        ttft_s=answer.emissions[0][0],
        token_s=median(gaps_s),
        request_s=max(0.0, answer.emissions[-1][0] - answer.figures.seconds["total"]),
    )
    return check, answer.crossed_bytes("split")


class _WatchedDial:
    """Opens the link's sockets, and keeps the last one for what the system counts of it."""

    def __init__(self, dialer: Dialer) -> None:
        self._dialer = dialer
        self._socket: AiohttpSocket | None = None

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[AiohttpSocket]:
        async with self._dialer() as socket:
            self._socket = socket
            yield socket

    def congestion_control(self) -> str | None:
        """Of the last socket; None where the system does not tell."""
        return None if self._socket is None else self._socket.congestion_control()

    def segments(self) -> SentSegments | None:
        """Segments sent so far; None where the system does not tell."""
        return None if self._socket is None else self._socket.sent_segments()
