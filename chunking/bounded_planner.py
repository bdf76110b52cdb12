"""Our rule: the fewest chunks, so the least cloud time, that keep the time to the first token."""

from collections.abc import Iterator
from dataclasses import dataclass

from chunking.cost import IDLE, Backlog, PipelineTimes, ttft_bound_s, ttft_s
from chunking.doubt import is_safe
from chunking.hump import growing_tail_s, hump_chunks, uniform_chunks
from chunking.planner import WAIT, Prefill

_SLACK_SHARES = ((0.5, 0.5), (0.25, 0.75), (0.75, 0.25), (0.1, 0.1))
"""How the slack is spent between front and end; which is best depends on the stages."""

_TAIL_FACTORS = (1.25, 1.5, 2.0)
"""Last chunks, as multiples of the smallest from which sizes grow backwards."""

_UNIFORM_COUNTS = (2, 3, 4, 6, 8, 12, 16)
"""Equal chunks win where two stages are about equally slow."""


@dataclass(frozen=True, slots=True)
class _Limits:
    """The largest chunk of a cut, and of those frames that a prompt is sent in uncut."""

    cap_tokens: int
    frame_tokens: int | None

    def fewest_chunks(
        self, num_tokens: int, times: PipelineTimes, backlog: Backlog = IDLE
    ) -> tuple[int, ...]:
        """One, if a frame holds so many tokens; else equal ones, or full frames and a rest."""
        frame_tokens = self.frame_tokens or num_tokens
        if num_tokens <= frame_tokens:
            return (num_tokens,)
        num_full, rest = divmod(num_tokens, frame_tokens)
        full, last = (frame_tokens,) * num_full, (rest,) * (rest > 0)
        equal = uniform_chunks(num_tokens, num_full + (rest > 0))
        return min(equal, full + last, key=lambda cut: ttft_s(cut, times, backlog))


@dataclass(frozen=True, slots=True)
class BoundedPlanner:
    """Fewest chunks with a predicted TTFT within `slack` of the lower bound, or nearest to it.

    Every chunk costs the cloud a step's fixed time and every split costs nobody else anything, so
    among cuts that are fast enough the one with the fewest chunks is best; beyond what is fast
    enough, a further chunk must save `min_gain` of a step's fixed time. Cuts are of the hump form
    (`chunking.hump`) or equal. Never used is a cut that is predicted slower than as few chunks as
    frames allow, nor one with which the whole prompt would be slower by the share `doubt[1]` than
    uncut, if each estimate were off by the factor `doubt[0]` (`chunking.doubt`).

    A chunk is capped, for it cannot be overtaken on the uplink and not be revised: at
    `max_chunk_tokens`, and at `max_chunk_s` of uplink unless that were less than the prompt's
    `max_pieces`-th part. While enough is on the way (`Prefill.can_wait_with`), it waits.

    Until the stages were measured, chunks of `first_tokens` go up and none behind them before a
    reply has come. They differ in size, since lines need two sizes; the first is small, for all
    stages wait for it; and they bridge the round trip until something is known. A prompt of
    `whole_tokens` goes up whole, one of twice as many in halves.
    """

    slack: float = 0.015
    min_gain: float = 0.25
    doubt: tuple[float, float] = (2.0, 0.15)
    max_chunk_tokens: int = 512
    max_chunk_s: float = 0.25
    max_pieces: int = 8
    first_tokens: tuple[int, ...] = (32, 64, 128)
    whole_tokens: int = 64

    def next_chunk_tokens(self, prefill: Prefill) -> int:
        """The first chunk of the best cut of what is left, or `WAIT`."""
        times = prefill.estimates.times()
        if times is None:
            return self._unmeasured(prefill)
        limits = self._limits(prefill.num_tokens, times, prefill.max_chunk_tokens)
        left = prefill.num_remaining_tokens
        chunk = self._plan(left, times, prefill.backlog, limits, prefill.sent)[0]
        if prefill.can_wait_with(chunk):
            return WAIT
        return chunk

    def plan(
        self, num_tokens: int, times: PipelineTimes, backlog: Backlog = IDLE
    ) -> tuple[int, ...]:
        """The whole cut as it looks now; at least one token."""
        return self._plan(num_tokens, times, backlog, self._limits(num_tokens, times, None))

    def _unmeasured(self, prefill: Prefill) -> int:
        """The next of `first_tokens`, of what is left half at most, or `WAIT`; no short rest."""
        if prefill.num_in_flight >= len(self.first_tokens):
            return WAIT
        left = prefill.num_remaining_tokens
        half = -(-left // 2)
        number = max(len(prefill.sent), prefill.num_in_flight)
        if number == 0 and half <= self.whole_tokens:
            return left if left <= self.whole_tokens else half
        size = self.first_tokens[min(number, len(self.first_tokens) - 1)]
        return left if left <= self.whole_tokens else min(size, half)

    def _plan(
        self,
        num_tokens: int,
        times: PipelineTimes,
        backlog: Backlog,
        limits: _Limits,
        sent: tuple[int, ...] = (),
    ) -> tuple[int, ...]:
        fewest = limits.fewest_chunks(num_tokens, times, backlog)
        fewest_s = ttft_s(fewest, times, backlog)
        allowed_s = (1.0 + self.slack) * ttft_bound_s(num_tokens, times, backlog)
        if fewest[0] <= limits.cap_tokens and fewest_s <= allowed_s:
            return fewest
        uncut = limits.fewest_chunks(sum(sent) + num_tokens, times)
        cap_tokens = limits.cap_tokens
        while True:
            for cut in self._ranked(num_tokens, times, backlog, cap_tokens):
                if ttft_s(cut, times, backlog) > fewest_s:
                    continue
                if is_safe(sent + cut, uncut, times, self.doubt):
                    return cut
            if cap_tokens >= fewest[0]:
                return fewest
            cap_tokens = min(2 * cap_tokens, fewest[0])

    def _ranked(
        self, num_tokens: int, times: PipelineTimes, backlog: Backlog, cap: int
    ) -> list[tuple[int, ...]]:
        """What is compared, the best first."""
        cuts = [
            (ttft_s(cut, times, backlog), cut)
            for cut in self._cuts(num_tokens, times, backlog, cap)
        ]
        best_s = min(seconds for seconds, _ in cuts)
        allowed_s = (1.0 + self.slack) * ttft_bound_s(num_tokens, times, backlog)
        if best_s > allowed_s:
            allowed_s = best_s * (1.0 + self.slack)
        chunk_s = self.min_gain * times.cloud.fixed_s
        ranked = sorted(
            (max(seconds, allowed_s) + len(cut) * chunk_s, len(cut), seconds, cut)
            for seconds, cut in cuts
        )
        return [cut for *_, cut in ranked]

    def _cuts(
        self, num_tokens: int, times: PipelineTimes, backlog: Backlog, cap: int
    ) -> list[tuple[int, ...]]:
        """What is compared; all within the cap."""
        slack_s = self.slack * ttft_bound_s(num_tokens, times, backlog)
        humps = [
            hump_chunks(num_tokens, times, backlog, cap, (head * slack_s, tail * slack_s))
            for head, tail in _SLACK_SHARES
        ]
        chunk_s = self.min_gain * times.cloud.fixed_s
        if chunk_s > slack_s:
            humps.append(hump_chunks(num_tokens, times, backlog, cap, (chunk_s, chunk_s)))
        if (tail_s := growing_tail_s(times)) is not None:
            head_s = 0.5 * slack_s
            ends = [(head_s, factor * tail_s) for factor in _TAIL_FACTORS]
            humps += [hump_chunks(num_tokens, times, backlog, cap, end) for end in ends]
        found = {cut for cut in humps if cut is not None}
        # Small ends save a little waiting, which a long fixed time of a step may outweigh.
        found |= {joined for cut in found for joined in _with_joined_ends(cut, cap)}
        least = -(-num_tokens // cap)
        counts = {least, *(n for n in _UNIFORM_COUNTS if least < n <= num_tokens)}
        equal = [uniform_chunks(num_tokens, count) for count in sorted(counts)]
        return [*found, *equal]

    def _limits(self, num_tokens: int, times: PipelineTimes, frame_tokens: int | None) -> _Limits:
        """For a prompt of so many tokens."""
        by_count = -(-num_tokens // self.max_pieces)
        cap_tokens = self.max_chunk_tokens
        if times.uplink_token_s * cap_tokens > self.max_chunk_s:
            by_time = int(self.max_chunk_s / times.uplink_token_s)
            cap_tokens = max(1, min(cap_tokens, max(by_count, by_time)))
        if frame_tokens is not None:
            cap_tokens = min(cap_tokens, frame_tokens)
        return _Limits(cap_tokens, frame_tokens)


def _with_joined_ends(cut: tuple[int, ...], cap_tokens: int) -> Iterator[tuple[int, ...]]:
    """The cut with its first two chunks as one, and with its last two."""
    if len(cut) > 2:
        if cut[0] + cut[1] <= cap_tokens:
            yield (cut[0] + cut[1], *cut[2:])
        if cut[-2] + cut[-1] <= cap_tokens:
            yield (*cut[:-2], cut[-2] + cut[-1])
