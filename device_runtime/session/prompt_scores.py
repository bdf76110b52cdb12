"""How likely a model finds its prompt: which rows say it, and what they have said so far."""

from collections.abc import Sequence

from device_runtime.generation.request import GenerationRequest, RankedToken
from device_runtime.session.actions import Score


class PromptScores:
    """Of one generation. A row says how likely the token behind it is, so the last row says none.

    What a lost cloud makes come again takes the place of what was said before.
    """

    def __init__(self, request: GenerationRequest) -> None:
        self.are_wanted = request.num_prompt_logprobs is not None
        self._prompt_ids = tuple(request.prompt_ids) if self.are_wanted else ()
        self._scored: list[RankedToken] = []

    def scored_by(self, first_row: int, end: int) -> list[Score]:
        """What to do with the rows that came, of the positions `[first_row, end)`."""
        next_ids = self._prompt_ids[first_row + 1 : end + 1]
        return [Score(first_row, next_ids)] if next_ids else []

    def take(self, position: int, tokens: Sequence[RankedToken]) -> None:
        """The tokens behind the rows from `position` on."""
        self._scored[position:] = tokens

    def told(self) -> tuple[RankedToken, ...] | None:
        """All of them, once; the prompt's first token is none of them. None: nobody asked."""
        if not self.are_wanted:
            return None
        told, self._scored = tuple(self._scored), []
        self.are_wanted, self._prompt_ids = False, ()
        return told
