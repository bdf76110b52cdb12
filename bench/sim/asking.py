"""One request on one device, from its arrival to its record, for every place a model can be."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from random import Random

import msgspec

from bench.records import RequestRecord, Span
from bench.sim.device import Device, SimWay
from bench.sim.scenario import Request, Scenario
from bench.sim.world.acceptance import NEVER, Guesses
from bench.sim.world.device_engine import ASKING
from bench.sim.world.text import prompt_ids, truth
from device_runtime.api.figures import phases_of
from device_runtime.generation.request import (
    CloudUnavailableError,
    GenerationRequest,
    OverloadedError,
    SamplingParams,
)
from device_runtime.generation.stats import GenerationStats

_GREEDY = SamplingParams(temperature=0.0)
_REQUEST_BYTES, _BYTES_PER_PROMPT_TOKEN, _EVENT_BYTES = 400, 4, 220
"""Of HTTP requests and streamed events, where these cross the link."""

WRONG = "wrong"
"""The error of an answer that is not the target's: something between the texts was mixed up."""


@dataclass(slots=True)
class _Asked:
    """What a request has done so far. Times count from its arrival."""

    request: Request
    arrival_s: float
    begun_s: float
    called_s: float = 0.0
    stats: GenerationStats = field(default_factory=GenerationStats)
    emissions: list[tuple[float, int]] = field(default_factory=list)
    error: str | None = None


class Asking:
    """Performs the requests of a scenario."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._loop = asyncio.get_running_loop()

    async def ask(self, device: Device, request: Request) -> RequestRecord:
        """One request, as its client saw it."""
        # With open arrivals only who waited for its program to be there comes later than it says.
        arrival_s = self._loop.time() if self._scenario.is_closed else request.arrival_s
        asked = _Asked(request, arrival_s, self._loop.time())
        overheads, edge = device.spec.overheads, device.edge
        if edge is not None:
            num_bytes = _REQUEST_BYTES + _BYTES_PER_PROMPT_TOKEN * request.prompt_tokens
            await _carried(edge.up, num_bytes)
        if overheads.request_s:
            await asyncio.sleep(overheads.request_s)
        asked.called_s = self._loop.time() - asked.begun_s
        is_alone = self._scenario.arm.where == "device"
        pieces = self._alone(device, asked) if is_alone else self._split(device, asked)
        arrivals: list[asyncio.Future[None]] = []
        try:
            async with aclosing(pieces):
                async for num_tokens in pieces:
                    if edge is None:
                        self._note(asked, num_tokens)
                    else:
                        arrivals.append(self._noted_far(edge.down, asked, num_tokens))
                    if overheads.emission_s:
                        # The driver goes on once the HTTP face has written the piece.
                        await asyncio.sleep(overheads.emission_s)
        except OverloadedError:
            asked.error = "overloaded"
        except CloudUnavailableError:
            asked.error = "unavailable"
        except _WrongError:
            asked.error = WRONG
        # The last pieces may still be on their way to the client.
        await asyncio.gather(*arrivals)
        if is_alone:
            asked.stats.total_s = self._loop.time() - asked.begun_s - asked.called_s
        return self._record(asked)

    def _note(self, asked: _Asked, num_tokens: int) -> None:
        """The client has a piece."""
        time_s = self._loop.time() - asked.begun_s
        asked.emissions.append((round(time_s, 9), num_tokens))

    def _noted_far(self, way: SimWay, asked: _Asked, num_tokens: int) -> "asyncio.Future[None]":
        """Have a piece noted once it has come."""
        done = _carried(way, _EVENT_BYTES)
        done.add_done_callback(lambda _: self._note(asked, num_tokens))
        return done

    async def _alone(self, device: Device, asked: _Asked) -> AsyncGenerator[int]:
        """The whole model on the device: no cloud, one token per step."""
        whole, request = device.spec.whole, asked.request
        assert whole is not None, "the device is told how long the whole model takes"
        for num_rows in (request.prompt_tokens, *(1,) * (request.output_tokens - 1)):
            await device.workers.spend(whole.of(num_rows))
            yield 1

    async def _split(self, device: Device, asked: _Asked) -> AsyncGenerator[int]:
        """The production runtime, every token of whose answer is looked at."""
        scenario, request = self._scenario, asked.request
        table = scenario.acceptance if scenario.arm.drafts == "adapter" else NEVER
        ASKING.set(Guesses(table, Random(f"{scenario.seed}/request/{request.number}")))
        ids = prompt_ids(request.number, request.prompt_tokens, request.common_tokens)
        is_kept = request.number < scenario.num_timelines
        wanted = GenerationRequest(ids, request.output_tokens, _GREEDY, wants_timeline=is_kept)
        generation = device.runtime.generate(wanted, str(request.number))
        asked.stats = generation.stats
        place = request.prompt_tokens
        async with aclosing(generation):
            async for emission in generation:
                for token in emission.tokens:
                    if token.id != truth(place):
                        raise _WrongError
                    place += 1
                yield len(emission.tokens)

    def _record(self, asked: _Asked) -> RequestRecord:
        request, emissions, stats = asked.request, asked.emissions, asked.stats
        if not self._scenario.keeps_pieces and len(emissions) > 2:
            rest = sum(count for _, count in emissions[1:])
            emissions = [emissions[0], (emissions[-1][0], rest)]
        seconds: dict[str, float] = msgspec.to_builtins(phases_of(stats))
        return RequestRecord(
            number=request.number,
            device=request.device,
            prompt_tokens=request.prompt_tokens,
            arrival_s=round(asked.arrival_s, 9),
            emissions=emissions,
            output_sha256="",
            rounds=stats.num_rounds,
            drafted_by_position=stats.drafted_by_position,
            accepted_by_position=stats.accepted_by_position,
            bytes_up=stats.bytes_up,
            bytes_down=stats.bytes_down,
            chunk_tokens=[choice.num_tokens for choice in stats.chunks],
            seconds={name: round(value, 9) for name, value in seconds.items()},
            spans=_spans(asked),
            error=asked.error,
        )


class _WrongError(Exception):
    """A token is not the target's."""


def _carried(way: SimWay, num_bytes: int) -> "asyncio.Future[None]":
    """Done when so many bytes have come."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    way.carry(bytes(num_bytes), lambda _: done.set_result(None))
    return done


def _spans(asked: _Asked) -> list[Span]:
    """The bars of a timeline that was kept, from the arrival on."""
    return [
        Span(
            lane=span.lane,
            what=span.what,
            start_s=round(asked.called_s + span.start_s, 9),
            end_s=round(asked.called_s + span.end_s, 9),
            num_tokens=span.num_tokens,
        )
        for span in asked.stats.timeline.spans(asked.stats.link_delay_s)
    ]
