"""One request on one device, from its arrival to its record, for every place a model can be."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from random import Random

import msgspec

from bench.records import RequestRecord, Span
from bench.sim.device import Device
from bench.sim.scenario import Request
from bench.sim.world.acceptance import NEVER, Guesses
from bench.sim.world.engine import ASKING
from bench.sim.world.text import prompt_ids, truth
from device_runtime.api.figures import phases_of
from device_runtime.generation.request import (
    CloudUnavailableError,
    GenerationRequest,
    OverloadedError,
    SamplingParams,
)
from device_runtime.generation.stats import GenerationStats
from process.sockets.memory import Way

_GREEDY = SamplingParams(temperature=0.0)
_REQUEST_BYTES, _BYTES_PER_PROMPT_TOKEN, _EVENT_BYTES = 400, 4, 220
"""Of HTTP requests and streamed events, where these cross the link."""


class Asking:
    """A request as its client sees it, who asks now. Times count from then."""

    def __init__(self, device: Device, request: Request) -> None:
        self._device = device
        self._request = request
        self._loop = asyncio.get_running_loop()
        self._begun_s = self._loop.time()
        self._called_s = 0.0
        self._stats = GenerationStats()
        self._emissions: list[tuple[float, int]] = []

    async def record(self) -> RequestRecord:
        """Ask, and say what came."""
        error = None
        try:
            await self._answer()
        except OverloadedError:
            error = "overloaded"
        except CloudUnavailableError:
            error = "unavailable"
        except _WrongError:
            error = "wrong"
        return self._told(error)

    async def _answer(self) -> None:
        device, request = self._device, self._request
        overheads, edge = device.spec.overheads, device.edge
        if edge is not None:
            num_bytes = _REQUEST_BYTES + _BYTES_PER_PROMPT_TOKEN * request.prompt_tokens
            await _carried(edge[0], num_bytes)
        if overheads.request_s:
            await asyncio.sleep(overheads.request_s)
        self._called_s = self._elapsed_s()
        is_alone = device.scenario.arm.where == "device"
        arrivals: list[asyncio.Future[None]] = []
        try:
            async with aclosing(self._alone() if is_alone else self._split()) as pieces:
                async for num_tokens in pieces:
                    if edge is None:
                        self._note(num_tokens)
                    else:
                        arrivals.append(self._noted_far(edge[1], num_tokens))
                    if overheads.emission_s:
                        # The driver goes on once the HTTP face has written the piece.
                        await asyncio.sleep(overheads.emission_s)
        finally:
            # The last pieces may still be on their way to the client.
            await asyncio.gather(*arrivals)
        if is_alone:
            self._stats.total_s = self._elapsed_s() - self._called_s

    def _elapsed_s(self) -> float:
        return self._loop.time() - self._begun_s

    def _note(self, num_tokens: int) -> None:
        """The client has a piece."""
        self._emissions.append((round(self._elapsed_s(), 9), num_tokens))

    def _noted_far(self, way: Way, num_tokens: int) -> "asyncio.Future[None]":
        """Have a piece noted once it has come."""
        done = _carried(way, _EVENT_BYTES)
        done.add_done_callback(lambda _: self._note(num_tokens))
        return done

    async def _alone(self) -> AsyncGenerator[int]:
        """The whole model on the device: no cloud, one token per step."""
        whole, request = self._device.spec.whole, self._request
        assert whole is not None, "the device is told how long the whole model takes"
        for num_rows in (request.prompt_tokens, *(1,) * (request.output_tokens - 1)):
            await self._device.workers.spend(whole.of(num_rows))
            yield 1

    async def _split(self) -> AsyncGenerator[int]:
        """The production runtime, every token of whose answer is looked at."""
        scenario, request = self._device.scenario, self._request
        table = scenario.acceptance if scenario.arm.has_drafts else NEVER
        ASKING.set(Guesses(table, Random(f"{scenario.seed}/request/{request.number}")))
        ids = prompt_ids(request.number, request.prompt_tokens, request.common_tokens)
        is_kept = request.number < scenario.num_timelines
        wanted = GenerationRequest(ids, request.output_tokens, _GREEDY, wants_timeline=is_kept)
        generation = self._device.runtime.generate(wanted, str(request.number))
        self._stats = generation.stats
        place = request.prompt_tokens
        async with aclosing(generation):
            async for emission in generation:
                for token in emission.tokens:
                    if token.id != truth(place):
                        raise _WrongError
                    place += 1
                yield len(emission.tokens)

    def _told(self, error: str | None) -> RequestRecord:
        scenario, request, stats = self._device.scenario, self._request, self._stats
        # With open arrivals only who waited for its program to be there comes later than it says.
        arrival_s = self._begun_s if scenario.is_closed else request.arrival_s
        emissions = self._emissions
        if scenario.open_load is not None and len(emissions) > 2:
            rest = sum(count for _, count in emissions[1:])
            emissions = [emissions[0], (emissions[-1][0], rest)]
        seconds: dict[str, float] = msgspec.to_builtins(phases_of(stats))
        return RequestRecord(
            number=request.number,
            device=request.device,
            prompt_tokens=request.prompt_tokens,
            arrival_s=round(arrival_s, 9),
            emissions=emissions,
            output_sha256="",
            rounds=stats.num_rounds,
            drafted_by_position=stats.drafted_by_position,
            accepted_by_position=stats.accepted_by_position,
            pipelined_rows=stats.num_behind_rows,
            stale_rows=stats.num_stale_rows,
            bytes_up=stats.bytes_up,
            bytes_down=stats.bytes_down,
            chunk_tokens=[choice.num_tokens for choice in stats.chunks],
            seconds={name: round(value, 9) for name, value in seconds.items()},
            spans=self._spans(),
            error=error,
        )

    def _spans(self) -> list[Span]:
        """The bars of a timeline that was kept, from the arrival on."""
        return [
            Span(
                lane=span.lane,
                what=span.what,
                start_s=round(self._called_s + span.start_s, 9),
                end_s=round(self._called_s + span.end_s, 9),
                num_tokens=span.num_tokens,
            )
            for span in self._stats.timeline.spans(self._stats.link_delay_s)
        ]


class _WrongError(Exception):
    """A token is not the target's: something between the texts was mixed up."""


def _carried(way: Way, num_bytes: int) -> "asyncio.Future[None]":
    """Done when so many bytes have come."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    way.carry(bytes(num_bytes), lambda _: done.set_result(None))
    return done
