"""A run whose requests never cease: when to look at it, when to stop, which requests count."""

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence

from bench.records import UNFINISHED, RequestRecord, SteadyRecord
from bench.sim.scenario import OpenLoad, Request
from bench.sim.steady import State, Verdict, backlog, judge


class OpenEnd:
    """Looks at the backlog after the asked duration, and twice and four times as long if need be,
    and once before, for what plainly does not keep up.

    Once settled, requests go on coming until those that count have ended, so that the last of
    them meet the same load as the first. A run that does not settle is cut off where that is
    clear. `end` is called then.
    """

    def __init__(
        self, load: OpenLoad, requests: Sequence[Request], end: Callable[[], None]
    ) -> None:
        self._load = load
        self._requests = requests
        self._call_end = end
        self._loop = asyncio.get_running_loop()
        self._arrivals_s = [request.arrival_s for request in requests]
        self._served_s: list[float] = []
        self._ended: dict[int, RequestRecord] = {}
        self._verdict: Verdict | None = None
        self._until_s = 0.0
        self._counted = range(0)
        """The numbers of the requests that count, once that is known."""
        self._num_left = 0
        for factor in load.looks:
            self._loop.call_at(factor * load.duration_s, self._look)

    def take(self, record: RequestRecord) -> None:
        """A request has ended."""
        self._ended[record.number] = record
        if record.error is None:
            self._served_s.append(self._loop.time())
        if record.number in self._counted:
            self._num_left -= 1
            if self._num_left == 0:
                self._call_end()

    def records(self) -> list[RequestRecord]:
        """The requests that count; where the run was cut off, those under way as unfinished."""
        return [
            self._ended.get(number) or _unfinished(self._requests[number])
            for number in self._counted
        ]

    def steady(self) -> SteadyRecord:
        """For results."""
        verdict, until_s = self._verdict, self._until_s
        assert verdict is not None, "the run is over"
        return SteadyRecord(
            state=verdict.state.value,
            warm_up_s=verdict.warm_up_s,
            until_s=until_s,
            growth_per_s=round(verdict.growth_per_s, 6),
            growth_error_per_s=round(verdict.error_per_s, 6),
            backlog=bisect_right(self._arrivals_s, until_s) - bisect_right(self._served_s, until_s),
        )

    def _look(self) -> None:
        if self._verdict is not None:
            return
        now, load = self._loop.time(), self._load
        is_early, is_last = now < load.duration_s, now >= load.looks[-1] * load.duration_s
        samples = backlog(self._arrivals_s, self._served_s, now)
        verdict = judge(samples, load.requests_per_s, is_last=is_last)
        is_settled = verdict.state is State.SETTLED
        # Before its time only growth ends a run.
        if not (is_last or verdict.state is State.GROWING or (is_settled and not is_early)):
            return
        self._verdict, self._until_s = verdict, now
        first = bisect_left(self._arrivals_s, verdict.warm_up_s)
        self._counted = range(first, bisect_right(self._arrivals_s, now))
        self._num_left = sum(number not in self._ended for number in self._counted)
        if not is_settled or self._num_left == 0:
            self._call_end()


def _unfinished(request: Request) -> RequestRecord:
    return RequestRecord(
        number=request.number,
        device=request.device,
        prompt_tokens=request.prompt_tokens,
        arrival_s=round(request.arrival_s, 9),
        emissions=[],
        output_sha256="",
        error=UNFINISHED,
    )
