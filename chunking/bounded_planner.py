"""Our rule: the fewest chunks, so the least cloud time, that keep the time to the first token."""

from dataclasses import dataclass

from chunking.cost import IDLE, Backlog, PipelineTimes, ttft_bound_s, ttft_s
from chunking.hump import hump_chunks, uniform_chunks
from chunking.planner import WAIT, Prefill

_SLACK_SHARES = ((0.5, 0.5), (0.25, 0.75), (0.75, 0.25), (0.1, 0.1))
"""How the slack is spent between front and end; which is best depends on the stages."""

_UNIFORM_COUNTS = (2, 3, 4, 6, 8, 12, 16)
"""Equal chunks win where two stages are about equally slow."""


@dataclass(frozen=True, slots=True)
class BoundedPlanner:
    """Fewest chunks with a predicted TTFT within `slack` of the lower bound, or nearest to it.

    Every chunk costs the cloud a step's fixed time and every split costs nobody else anything, so
    among cuts that are fast enough the one with the fewest chunks is best. Cuts are of the hump
    form (`chunking.hump`) or equal; a cut that is predicted slower than one chunk is never used.

    A chunk is capped, for it cannot be overtaken on the uplink and not be revised: at
    `max_chunk_tokens`, and at `max_chunk_s` of uplink unless that were less than the prompt's
    `max_pieces`-th part. While enough is on the way (`Prefill.can_wait_with`), it waits.

    Until the stages were measured, two chunks of `first_tokens` are on the way at a time.
    """

    slack: float = 0.015
    max_chunk_tokens: int = 512
    max_chunk_s: float = 0.25
    max_pieces: int = 8
    first_tokens: int = 64
    max_unmeasured_in_flight: int = 2

    def next_chunk_tokens(self, prefill: Prefill) -> int:
        """The first chunk of the best cut of what is left, or `WAIT`."""
        times = prefill.estimates.times()
        if times is None:
            if prefill.num_in_flight >= self.max_unmeasured_in_flight:
                return WAIT
            return min(self.first_tokens, prefill.num_remaining_tokens)
        cap = self._cap_tokens(prefill.num_tokens, times)
        chunk = self.plan(prefill.num_remaining_tokens, times, prefill.backlog, cap)[0]
        if prefill.can_wait_with(chunk):
            return WAIT
        return chunk

    def plan(
        self,
        num_tokens: int,
        times: PipelineTimes,
        backlog: Backlog = IDLE,
        cap_tokens: int | None = None,
    ) -> tuple[int, ...]:
        """The whole cut as it looks now; at least one token."""
        cap = self._cap_tokens(num_tokens, times) if cap_tokens is None else cap_tokens
        whole = (num_tokens,)
        whole_s = ttft_s(whole, times, backlog)
        allowed_s = (1.0 + self.slack) * ttft_bound_s(num_tokens, times, backlog)
        if num_tokens <= cap and whole_s <= allowed_s:
            return whole
        cuts = [
            (ttft_s(cut, times, backlog), cut)
            for cut in self._cuts(num_tokens, times, backlog, cap)
        ]
        best_s = min(seconds for seconds, _ in cuts)
        limit_s = min(whole_s, allowed_s if best_s <= allowed_s else best_s * (1.0 + self.slack))
        fit = [(len(cut), seconds, cut) for seconds, cut in cuts if seconds <= limit_s]
        return min(fit)[2] if fit else whole

    def _cuts(
        self, num_tokens: int, times: PipelineTimes, backlog: Backlog, cap: int
    ) -> list[tuple[int, ...]]:
        """What is compared; all within the cap."""
        slack_s = self.slack * ttft_bound_s(num_tokens, times, backlog)
        humps = [
            hump_chunks(num_tokens, times, backlog, cap, (head * slack_s, tail * slack_s))
            for head, tail in _SLACK_SHARES
        ]
        least = -(-num_tokens // cap)
        counts = {least, *(n for n in _UNIFORM_COUNTS if least < n <= num_tokens)}
        equal = [uniform_chunks(num_tokens, count) for count in sorted(counts)]
        return [cut for cut in humps if cut is not None] + equal

    def _cap_tokens(self, num_tokens: int, times: PipelineTimes) -> int:
        """The largest chunk for a prompt of so many tokens."""
        by_count = -(-num_tokens // self.max_pieces)
        if times.uplink_token_s * self.max_chunk_tokens <= self.max_chunk_s:
            return self.max_chunk_tokens
        by_time = int(self.max_chunk_s / times.uplink_token_s)
        return max(1, min(self.max_chunk_tokens, max(by_count, by_time)))
