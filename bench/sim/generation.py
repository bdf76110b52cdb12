"""One request on one device, from its arrival to its record, for every place a model can be."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

import msgspec

from bench.records import RequestRecord
from bench.sim.acceptance import NEVER, Guesses, Text
from bench.sim.device import Device, Found
from bench.sim.device_engine import SimEngine, sampler
from bench.sim.device_link import Channels
from bench.sim.driver import Parts, SimDriver
from bench.sim.kernel import Process
from bench.sim.medusa import TreeDrafter
from bench.sim.scenario import Request, Scenario
from bench.sim.timeline import Timeline
from chunking.chooser import ChunkChooser
from device_runtime.api.figures import phases_of
from device_runtime.drafting.choice import Drafting, choose_drafting
from device_runtime.generation.request import (
    CloudUnavailableError,
    GenerationRequest,
    SamplingParams,
)
from device_runtime.generation.stats import GenerationStats
from device_runtime.generation.tokens import Emission
from device_runtime.link.session import MAX_UNANSWERED_FRAMES
from device_runtime.runtime.chunk_planning import chunk_chooser
from device_runtime.session.draft_length import FixedDraftLength
from device_runtime.session.session import Session, SessionLimits

_GREEDY = SamplingParams(temperature=0.0)
_REQUEST_BYTES, _BYTES_PER_PROMPT_TOKEN, _EVENT_BYTES = 400, 4, 220
"""Of HTTP requests and streamed events, where these cross the link."""


@dataclass(slots=True)
class Counted:
    """What a request has done so far."""

    request: Request
    arrival_s: float
    emissions: list[tuple[float, int]]
    stats: GenerationStats
    timeline: Timeline
    error: str | None = None


class Asking:
    """Performs requests of a scenario; each device's state is in its `Device`."""

    def __init__(self, scenario: Scenario, done: Callable[[Request, RequestRecord], None]) -> None:
        self._scenario = scenario
        self._done = done

    def run(self, device: Device, request: Request, edge: Channels | None) -> Process[None]:
        """One request; `edge` is the link to a model that is wholly in the cloud."""
        kernel = device.kernel
        is_kept = request.number < self._scenario.num_timelines
        counted = Counted(
            request,
            kernel.now,
            [],
            GenerationStats(num_prompt_tokens=request.prompt_tokens),
            Timeline(kernel.now, is_kept),
        )
        link = self._scenario.devices[request.device].link
        counted.timeline.delays(link.delay_s, link.delay_s)
        if edge is not None:
            yield from self._cross(device, edge, request)
        if device.overheads.request_s:
            yield device.overheads.request_s
        called_s = kernel.now
        if device.places.num_waiting >= device.config.max_queue and not device.places.is_free:
            counted.error = "overloaded"
        else:
            yield from device.places.enter()
            counted.stats.queue_s = kernel.now - called_s
            try:
                yield from self._generate(device, counted, edge)
            except CloudUnavailableError:
                counted.error = "unavailable"
            device.places.leave()
        counted.stats.total_s = kernel.now - called_s
        # The last pieces may still be on their way to the client.
        expected = 0 if counted.error else request.output_tokens
        while sum(count for _, count in counted.emissions) < expected:
            yield _LOOK_AGAIN_S
        self._done(request, _record(counted, self._scenario))

    def _cross(self, device: Device, edge: Channels, request: Request) -> Process[None]:
        """The request's way up, and the time it takes."""
        num_bytes = _REQUEST_BYTES + _BYTES_PER_PROMPT_TOKEN * request.prompt_tokens
        has_come: list[bool] = []
        edge.uplink.send(num_bytes, lambda: has_come.append(True))
        while not has_come:
            yield _LOOK_AGAIN_S

    def _generate(self, device: Device, counted: Counted, edge: Channels | None) -> Process[None]:
        request = counted.request

        def emit(num_tokens: int) -> None:
            if edge is None:
                self._note(device, counted, num_tokens)
            else:
                edge.downlink.send(_EVENT_BYTES, lambda: self._note(device, counted, num_tokens))

        if self._scenario.arm.where == "device":
            yield from self._alone(device, request, emit)
        else:
            yield from self._split(device, counted, emit)

    def _note(self, device: Device, counted: Counted, num_tokens: int) -> None:
        """The client has a piece."""
        time_s = device.kernel.now - counted.arrival_s
        if counted.stats.first_token_s is None:
            counted.stats.first_token_s = time_s
        counted.emissions.append((round(time_s, 9), num_tokens))

    def _alone(
        self, device: Device, request: Request, emit: Callable[[int], None]
    ) -> Process[None]:
        """The whole model on the device: no cloud, one token per step."""
        whole = self._scenario.devices[request.device].whole
        assert whole is not None, "the device is told how long the whole model takes"

        def prefill(engine: SimEngine) -> None:
            engine.spend(whole.of(request.prompt_tokens))

        def decode(engine: SimEngine) -> None:
            engine.spend(whole.of(1))

        yield from device.run(prefill)
        emit(1)
        for _ in range(request.output_tokens - 1):
            yield from device.run(decode)
            emit(1)

    def _split(
        self, device: Device, counted: Counted, emit: Callable[[int], None]
    ) -> Process[None]:
        """The production session, from its place to its last token."""
        scenario, request, stats = self._scenario, counted.request, counted.stats
        draws = Random(f"{scenario.seed}/request/{request.number}")
        text = Text(request.number, request.prompt_tokens)
        table = scenario.acceptance if scenario.arm.drafts == "adapter" else NEVER
        guesses = Guesses(text, table, draws)
        started_s = device.kernel.now
        num_reserved = request.prompt_tokens + request.output_tokens - 1
        asked = GenerationRequest(text.prompt_ids, request.output_tokens, _GREEDY)

        def take(emission: Emission) -> None:
            emit(len(emission.tokens))

        def begin(found: Found) -> Process[tuple[SimDriver, float]]:
            stats.num_reused_tokens = found.num_cached_tokens
            drafting = self._drafting(device, text, draws)
            limits = self._limits(device)
            planner = self._planner(device, limits)
            stats.chunks = planner.choices
            begun = (found.num_cached_tokens, found.place.next_epoch)
            session = Session(asked, limits, planner, drafting.length, *begun)
            driver = SimDriver(
                Parts(device, session, found.place, text, drafting, stats, counted.timeline, take)
            )
            yield from driver.begin()
            return driver, device.kernel.now

        driver, begun_s = yield from device.find_place(text, guesses, num_reserved, begin)
        stats.wait_s += device.kernel.now - begun_s
        work_s = stats.input_s + stats.send_s + stats.wait_s
        stats.open_s = max(0.0, device.kernel.now - started_s - work_s)
        place, before = driver.place, driver.place.bytes_before
        try:
            yield from driver.run()
        except CloudUnavailableError:
            device.release(place)
            raise
        stats.bytes_up = place.stream.bytes_up - before[0]
        stats.bytes_down = place.stream.bytes_down - before[1]
        device.keep(place, text, driver.num_valid_tokens, driver.next_epoch)

    def _limits(self, device: Device) -> SessionLimits:
        link_limits = device.link.limits
        assert link_limits is not None, "connected before the first request"
        return SessionLimits(
            max_context_tokens=device.max_context_tokens,
            max_frame_tokens=link_limits.max_frame_tokens,
            max_frames_in_flight=MAX_UNANSWERED_FRAMES,
            feeds_output_layers=self._scenario.arm.returns_all_rows,
        )

    def _planner(self, device: Device, limits: SessionLimits) -> ChunkChooser:
        monitor, row_bytes = device.link.monitor, self._scenario.cloud.row_bytes
        return chunk_chooser(
            device.config,
            lambda: monitor.estimates(row_bytes),
            device.kernel.clock,
            limits.max_frame_tokens,
        )

    def _drafting(self, device: Device, text: Text, draws: Random) -> Drafting:
        scenario = self._scenario
        if scenario.arm.drafts == "medusa":
            assert scenario.tree is not None, "told of its tree"
            tree = TreeDrafter(text, scenario.tree.right, draws)
            length = FixedDraftLength(scenario.tree.num_nodes)
            no_draft = choose_drafting(device.config, None, sampler(), frozenset()).drafter
            return Drafting(no_draft, length, tree.as_adapter())
        limits = device.engine.draft_limits
        drafting = choose_drafting(device.config, limits, sampler(), frozenset())
        if scenario.arm.drafts_to_the_end and limits is not None:
            drafting = replace(drafting, length=FixedDraftLength(limits.max_tokens))
        return drafting


_LOOK_AGAIN_S = 0.0002


def _record(counted: Counted, scenario: Scenario) -> RequestRecord:
    stats, request = counted.stats, counted.request
    emissions = counted.emissions
    if not scenario.keeps_pieces and len(emissions) > 2:
        rest = sum(count for _, count in emissions[1:])
        emissions = [emissions[0], (emissions[-1][0], rest)]
    seconds: dict[str, float] = msgspec.to_builtins(phases_of(stats))
    return RequestRecord(
        number=request.number,
        device=request.device,
        prompt_tokens=request.prompt_tokens,
        arrival_s=round(counted.arrival_s, 9),
        emissions=emissions,
        output_sha256="",
        rounds=stats.num_rounds,
        drafted_by_position=stats.drafted_by_position,
        accepted_by_position=stats.accepted_by_position,
        bytes_up=stats.bytes_up,
        bytes_down=stats.bytes_down,
        chunk_tokens=[choice.num_tokens for choice in stats.chunks],
        seconds={name: round(value, 9) for name, value in seconds.items()},
        spans=counted.timeline.spans,
        error=counted.error,
    )
