"""A way through a grammar by llguidance's matcher, which walks with drafts and walks back."""

from collections.abc import Sequence
from itertools import takewhile

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

from device_runtime.generation.grammar import GrammarError


class MatcherConstraint:
    """A `Constraint` by a matcher of its own, at the beginning of its grammar.

    The matcher is behind what is committed and behind `_ahead`, the draft of the last question:
    from one question to the next only what differs is walked back and forth.
    """

    def __init__(self, matcher: LLMatcher, vocab_size: int, end_ids: tuple[int, ...]) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._end_ids = end_ids
        self._ahead: list[int] = []

    def allowed(self, draft: Sequence[int] = ()) -> NDArray[np.bool_]:
        if not self._go(draft):
            return np.zeros(self._vocab_size, dtype=np.bool_)
        packed = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        bits = np.unpackbits(packed, count=self._vocab_size, bitorder="little")
        return bits.view(np.bool_)

    def forced(self, draft: Sequence[int] = ()) -> tuple[int, ...]:
        if not self._go(draft):
            return ()
        forced = tuple(self._matcher.compute_ff_tokens())
        # Behind a whole text stands an end. Which one is a choice where there are several.
        if len(self._end_ids) == 1 and self._is_whole((*draft, *forced)):
            return (*forced, *self._end_ids)
        return forced

    def num_valid(self, draft: Sequence[int], tokens: Sequence[int]) -> int:
        if not self._go(draft):
            return 0
        # The matcher counts an end in one state and not in another, so ends are looked at here.
        end = next((n for n, token in enumerate(tokens) if token in self._end_ids), len(tokens))
        num_valid = int(self._matcher.validate_tokens(list(tokens[:end])))
        if num_valid < end or end == len(tokens):
            return num_valid
        return end + bool(self.allowed((*draft, *tokens[:end]))[tokens[end]])

    def commit(self, token_id: int) -> None:
        if self._ahead[:1] == [token_id]:
            del self._ahead[0]
            return
        self._go(())
        if not self._matcher.consume_token(token_id):
            self._check()
            raise GrammarError("the grammar of the answer does not allow what was chosen")

    def _is_whole(self, draft: Sequence[int]) -> bool:
        return self._go(draft) and self._matcher.is_stopped()

    def _go(self, draft: Sequence[int]) -> bool:
        """Walk behind a draft; whether the grammar allows all of it, and something behind it."""
        if any(token in self._end_ids for token in draft):
            return False
        pairs = zip(self._ahead, draft, strict=False)
        num_same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        if num_same < len(self._ahead):
            self._matcher.rollback(len(self._ahead) - num_same)
            del self._ahead[num_same:]
        further = list(draft[num_same:])
        if further:
            num_more = self._matcher.try_consume_tokens(further)
            self._ahead += further[:num_more]
        self._check()
        return len(self._ahead) == len(draft)

    def _check(self) -> None:
        if self._matcher.is_error():
            # Its own words tell of the grammar, and of what was written so far.
            reason = "the grammar of the answer became too complex to be followed"
            raise GrammarError(reason)
