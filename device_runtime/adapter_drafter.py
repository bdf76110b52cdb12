"""Drafting with the engine's adapter, by the target's own rule of choice."""

from collections.abc import Sequence

from device_runtime.engine import DeviceEngine, DraftRequest, Rows, SequenceId
from device_runtime.sampling import LogitsError, Sampler


class AdapterDrafter:
    """Drafts of one generation; used on the engine's thread.

    A drafted token is what the sampler would choose at its position from the draft model's logits:
    the likeliest when greedy, else with the position's noise, which the target will use too.
    """

    def __init__(self, sampler: Sampler, stop_token_ids: frozenset[int]) -> None:
        self._sampler = sampler
        self._stop_token_ids = stop_token_ids

    def propose(
        self, engine: DeviceEngine, sequence: SequenceId, text: Sequence[int], num_tokens: int
    ) -> tuple[int, ...]:
        """At most `num_tokens` tokens that may follow the text, whose last token is not cached."""
        assert engine.draft_limits is not None, "chosen only for engines with an adapter"
        num_tokens = min(num_tokens, engine.draft_limits.max_tokens)
        token_ids, position = (text[-1],), len(text) - 1
        request = DraftRequest(token_ids, position, num_tokens, self._choose, self._stop_token_ids)
        return engine.draft(sequence, request)

    def _choose(self, logits: Rows, draft: Sequence[int]) -> int | None:
        """The sampler's choice; none where it finds nothing to choose, as a draft may leave out."""
        try:
            return self._sampler.choose(logits, draft)
        except LogitsError:
            return None
