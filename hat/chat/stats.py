"""What an answer took, from the last event of its stream."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hat.quantities import count, number, seconds, share


@dataclass(frozen=True, slots=True)
class AnswerStats:
    """The device's own figures of one answer."""

    num_prompt_tokens: int
    num_reused_tokens: int
    """Those of the prompt that were in the caches already."""
    num_tokens: int
    num_rounds: int
    num_drafted: int
    num_accepted: int
    first_token_s: float | None
    total_s: float

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens after the first over the time that they took; None: there were none."""
        if self.first_token_s is None or self.num_tokens < 2 or self.total_s <= self.first_token_s:
            return None
        return (self.num_tokens - 1) / (self.total_s - self.first_token_s)

    def line(self) -> str:
        """All of it in one line."""
        parts = [
            f"{count(self.num_tokens, 'token')}, {number(self.tokens_per_s)} per second",
            f"first after {seconds(self.first_token_s)}",
            count(self.num_rounds, "round"),
            f"drafted tokens accepted: {share(self.num_accepted, self.num_drafted)}",
            f"prompt tokens reused: {share(self.num_reused_tokens, self.num_prompt_tokens)}",
        ]
        return "; ".join(parts)


def stats_of(event: Mapping[str, Any]) -> AnswerStats | None:
    """The figures that an event carries, if it does.

    Raises:
        LookupError, TypeError: it has them in another shape.
    """
    figures, usage = event.get("hat"), event.get("usage")
    if figures is None or usage is None:
        return None
    return AnswerStats(
        num_prompt_tokens=usage["prompt_tokens"],
        num_reused_tokens=figures["reused_prompt_tokens"],
        num_tokens=usage["completion_tokens"],
        num_rounds=figures["rounds"],
        num_drafted=figures["drafted_tokens"],
        num_accepted=figures["accepted_tokens"],
        first_token_s=figures["first_token_s"],
        total_s=figures["seconds"]["total"],
    )
