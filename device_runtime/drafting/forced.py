"""Drafts of what a grammar forces: they cost nothing, and all of them are right.

Where a grammar leaves no choice its tokens are the whole draft, as long as a frame takes them, in
one round and without a step of anybody's. Elsewhere another drafter speaks.
"""

from collections.abc import Sequence

from device_runtime.drafting.protocol import Drafter
from device_runtime.engines.engine import Rows, SequenceId, Workers
from device_runtime.generation.grammar import Constraint
from device_runtime.generation.stats import DraftCounts
from device_runtime.session.actions import ComputeAndSend
from device_runtime.session.draft_length import DraftLength


class ForcedDrafter:
    """The drafts of one generation and their lengths: a `Drafter` and a `DraftLength`."""

    def __init__(self, constraint: Constraint, drafter: Drafter, length: DraftLength) -> None:
        self._constraint = constraint
        self._drafter = drafter
        self._length = length
        self._forced: tuple[int, ...] = ()
        """Behind what is decided."""
        self._is_forced = False
        """Whether the draft made last was."""
        self._was_forced = False
        """Whether the one was that is behind no other."""
        self.counts = DraftCounts()
        """What came of forced tokens, but for those behind undecided rounds."""

    @property
    def num_ahead_tokens(self) -> int:
        """Tokens drafted while a verification was under way."""
        return self._drafter.num_ahead_tokens

    def begin(self, prompt_ids: Sequence[int]) -> None:
        self._drafter.begin(prompt_ids)

    def decided(self, token_ids: Sequence[int], deep: Rows) -> None:
        self._forced = self._constraint.forced()
        self._drafter.decided(token_ids, deep)

    async def propose(
        self,
        workers: Workers,
        sequence: SequenceId,
        text: Sequence[int],
        num_tokens: int,
        num_undecided: int = 0,
    ) -> tuple[int, ...]:
        forced = self._forced
        if num_undecided:
            undecided = tuple(text[len(text) - num_undecided :])
            forced = await workers.run(lambda _: self._constraint.forced(undecided))
        self._is_forced = len(forced) > 0
        if not num_undecided:
            self._was_forced = self._is_forced
        if forced:
            return forced[:num_tokens]
        return await self._drafter.propose(workers, sequence, text, num_tokens, num_undecided)

    async def work(self, workers: Workers, sequence: SequenceId, sent: ComputeAndSend) -> bool:
        return await self._drafter.work(workers, sequence, sent)

    def num_tokens(self) -> int:
        """The most tokens that the next draft may have."""
        return max(len(self._forced), self._length.num_tokens())

    def may_follow(self, num_drafted: int, num_asked: int) -> bool:
        """A forced draft is right, so what is behind it is of use."""
        return self._is_forced or self._length.may_follow(num_drafted, num_asked)

    def on_round(self, num_drafted: int, num_accepted: int, round_s: float | None) -> None:
        """Learn from a round; from one whose draft was forced there is nothing to learn."""
        if self._was_forced:
            self.counts.drafted += num_drafted
            self.counts.accepted += num_accepted
        self._length.on_round(num_drafted, num_accepted, round_s)
