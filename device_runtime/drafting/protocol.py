"""What every way to draft has in common. A wrong guess costs time and never changes the output."""

from collections.abc import Sequence
from typing import Protocol

from device_runtime.engines.engine import Rows, SequenceId, Workers
from device_runtime.session.actions import ComputeAndSend


class Drafter(Protocol):
    """Guesses how one generation's text goes on, from its prompt to its last round.

    Rounds follow each other: `propose`, `work` while the proposal is verified, `decided`. Whatever
    needs the engine goes through the workers; `sequence` is the generation's place there.
    """

    def begin(self, prompt_ids: Sequence[int]) -> None:
        """Take the prompt; on the engine's thread, before the first `decided`."""
        ...

    def decided(self, token_ids: Sequence[int], deep: Rows) -> None:
        """Take a round's tokens: accepted ones of the proposal, then one of the target's own.

        On the engine's thread. `deep` `[H]` is the row that the last token was chosen from.
        """
        ...

    async def propose(
        self,
        workers: Workers,
        sequence: SequenceId,
        text: Sequence[int],
        num_tokens: int,
        num_undecided: int = 0,
    ) -> tuple[int, ...]:
        """At most `num_tokens` tokens that may follow the text; none if there is nothing to say.

        The last `num_undecided` tokens of the text are drafts that are sent and not yet decided:
        what is proposed is of use if they stay. `decided` still comes for each of their rounds.
        """
        ...

    async def work(self, workers: Workers, sequence: SequenceId, sent: ComputeAndSend) -> bool:
        """Do a piece of work while the cloud computes; whether there may be more to do.

        `sent` is the frame that was sent last. A piece takes about as long as a draft at most, so
        that a reply which comes meanwhile hardly waits.
        """
        ...

    @property
    def num_ahead_tokens(self) -> int:
        """Tokens drafted by `work` so far."""
        ...


class NoDrafter:
    """Plain decoding, one token per round; and what a drafter does that needs no engine."""

    num_ahead_tokens = 0

    def begin(self, prompt_ids: Sequence[int]) -> None:
        """Nothing to remember."""

    def decided(self, token_ids: Sequence[int], deep: Rows) -> None:
        """Nothing to remember."""

    async def propose(
        self,
        workers: Workers,
        sequence: SequenceId,
        text: Sequence[int],
        num_tokens: int,
        num_undecided: int = 0,
    ) -> tuple[int, ...]:
        return ()

    async def work(self, workers: Workers, sequence: SequenceId, sent: ComputeAndSend) -> bool:
        return False
