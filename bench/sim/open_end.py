"""A run whose requests never cease: when to look at it, when to stop, which requests count."""

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.records import UNFINISHED, RequestRecord, SteadyRecord
from bench.sim.scenario import OpenLoad, Request
from bench.sim.steady import State, Verdict, backlog, judge


@dataclass(frozen=True, slots=True)
class _End:
    """What counts: requests that came in `[from_s, until_s]`."""

    from_s: float
    until_s: float
    verdict: Verdict


class OpenEnd:
    """Looks at the backlog after the asked duration, and twice and four times as long if need be,
    and once before, for what plainly does not keep up.

    Once settled, requests go on coming until those that count have ended, so that the last of
    them meet the same load as the first. A run that does not settle is cut off where that is
    clear.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, load: OpenLoad, requests: Sequence[Request]
    ) -> None:
        self._loop = loop
        self._load = load
        self._requests = requests
        self._arrivals_s = [request.arrival_s for request in requests]
        self._served_s: list[float] = []
        self._ended: list[RequestRecord] = []
        self._end: _End | None = None
        self._num_left = 0
        self.over = asyncio.Event()
        for factor in load.looks:
            loop.call_at(factor * load.duration_s, self._look)

    def take(self, record: RequestRecord) -> None:
        """A request has ended."""
        self._ended.append(record)
        if record.error is None:
            self._served_s.append(self._loop.time())
        if self._end is not None and self._counts(record, self._end):
            self._num_left -= 1
            self._note_if_over(self._num_left == 0)

    def records(self) -> list[RequestRecord]:
        """The requests that count; where the run was cut off, those under way as unfinished."""
        assert self._end is not None, "the run is over"
        ended = self._ended_that_count(self._end)
        return ended if self._num_left == 0 else [*ended, *self._unfinished(ended, self._end)]

    def steady(self) -> SteadyRecord:
        """For results."""
        assert self._end is not None, "the run is over"
        verdict, until_s = self._end.verdict, self._end.until_s
        return SteadyRecord(
            state=verdict.state.value,
            warm_up_s=self._end.from_s,
            until_s=until_s,
            growth_per_s=round(verdict.growth_per_s, 6),
            growth_error_per_s=round(verdict.error_per_s, 6),
            backlog=bisect_right(self._arrivals_s, until_s) - bisect_right(self._served_s, until_s),
        )

    def _ended_that_count(self, end: _End) -> list[RequestRecord]:
        return [record for record in self._ended if self._counts(record, end)]

    def _unfinished(self, ended: Sequence[RequestRecord], end: _End) -> Iterator[RequestRecord]:
        known = {record.number for record in ended}
        for request in self._requests:
            is_counted = end.from_s <= request.arrival_s <= end.until_s
            if is_counted and request.number not in known:
                yield RequestRecord(
                    number=request.number,
                    device=request.device,
                    prompt_tokens=request.prompt_tokens,
                    arrival_s=round(request.arrival_s, 9),
                    emissions=[],
                    output_sha256="",
                    error=UNFINISHED,
                )

    def _look(self) -> None:
        if self._end is not None:
            return
        now = self._loop.time()
        is_last = now >= self._load.looks[-1] * self._load.duration_s
        samples = backlog(self._arrivals_s, self._served_s, now)
        verdict = judge(samples, self._load.requests_per_s, is_last=is_last)
        if not is_last and not self._is_enough(verdict.state):
            return
        self._end = _End(verdict.warm_up_s, now, verdict)
        first = bisect_left(self._arrivals_s, verdict.warm_up_s)
        num_counted = bisect_right(self._arrivals_s, now) - first
        self._num_left = num_counted - len(self._ended_that_count(self._end))
        self._note_if_over(verdict.state is not State.SETTLED or self._num_left == 0)

    def _note_if_over(self, is_over: bool) -> None:
        if is_over:
            self.over.set()

    def _is_enough(self, state: State) -> bool:
        """Whether that verdict ends the run now; before its time only growth does."""
        is_early = self._loop.time() < self._load.duration_s
        return state is State.GROWING or (state is State.SETTLED and not is_early)

    def _counts(self, record: RequestRecord, end: _End) -> bool:
        return end.from_s <= self._arrivals_s[record.number] <= end.until_s
