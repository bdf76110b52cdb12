"""How many tokens to draft, as the session sees it; who decides is in the drafting folder."""

from typing import Protocol


class DraftLength(Protocol):
    """Says how many tokens the next draft may have; learns from every round."""

    def num_tokens(self) -> int:
        """The most tokens worth drafting now; 0 to decode plainly."""
        ...

    def may_follow(self, num_drafted: int, num_asked: int) -> bool:
        """Whether it is worth a try to send another draft behind the one made last.

        That one has `num_drafted` tokens, at least one, and could have had `num_asked`.
        """
        ...

    def on_round(self, num_drafted: int, num_accepted: int, round_s: float | None) -> None:
        """Take the outcome of a round that was behind no other.

        `round_s` runs from the drafting to the decision; None where other rounds took part of it.
        """
        ...


class FixedDraftLength:
    """Always the same number."""

    def __init__(self, num_tokens: int) -> None:
        self._num_tokens = num_tokens

    def num_tokens(self) -> int:
        return self._num_tokens

    def may_follow(self, num_drafted: int, num_asked: int) -> bool:
        """Whether the drafter gave all that it was asked for."""
        return num_drafted == num_asked

    def on_round(self, num_drafted: int, num_accepted: int, round_s: float | None) -> None:
        """Nothing to learn."""
