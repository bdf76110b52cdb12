"""A way through a grammar with drafts is the same as a fresh one that consumes tokens in order."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from llguidance import LLMatcher

from device_runtime.generation.grammar import GrammarError
from device_runtime.grammar.compiling import CompiledGrammar, Grammars
from device_runtime.grammar.wanted import Json, OneOf, Regex, Wanted, Written
from device_runtime.text.tokenizer import Tokenizer, load_tokenizer
from tests.support.examples import at_most
from tests.support.reference import STORIES

END, VOCAB_SIZE = 2, 512
WANTED: Sequence[Wanted] = (
    Json(
        {
            "type": "object",
            "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
            "required": ["name", "age"],
            "additionalProperties": False,
        }
    ),
    Json({"anyOf": [{"enum": ["red", "green"]}, {"type": "array", "items": {"type": "null"}}]}),
    Regex("(a|b){2,5}c+"),
    OneOf(("yes", "yes, please", "no")),
    Written('root ::= "(" root ")" | "x"'),
)


@lru_cache(maxsize=1)
def tokenizer() -> Tokenizer:
    return load_tokenizer(STORIES)


@lru_cache(maxsize=1)
def grammars() -> Grammars:
    return Grammars(tokenizer().as_json(), VOCAB_SIZE, (END,))


def fresh(grammar: CompiledGrammar, tokens: Sequence[int]) -> LLMatcher | None:
    """A matcher that has consumed the tokens; None where it refuses one."""
    matcher = grammar.matcher.deep_copy()
    return matcher if matcher.consume_tokens(list(tokens)) else None


def mask_of(matcher: LLMatcher | None) -> np.ndarray:
    if matcher is None:
        return np.zeros(VOCAB_SIZE, dtype=bool)
    packed = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
    return np.unpackbits(packed, bitorder="little")[:VOCAB_SIZE].astype(bool)


class GrammarWalk(RuleBasedStateMachine):
    """Questions about drafts, right and wrong ones, between commits."""

    @initialize(wanted=st.sampled_from(WANTED))
    def begin(self, wanted: Wanted) -> None:
        grammar = grammars().compile(wanted)
        assert isinstance(grammar, CompiledGrammar)
        self.grammar, self.constraint = grammar, grammar.start()
        self.committed: list[int] = []

    def draft(self, data: st.DataObject) -> list[int]:
        """Tokens that are mostly allowed, one behind the other."""
        draft: list[int] = []
        for _ in range(data.draw(st.integers(0, 5))):
            allowed = np.flatnonzero(mask_of(fresh(self.grammar, [*self.committed, *draft])))
            ids = [*map(int, allowed[:8]), *map(int, allowed[-3:]), 300]
            draft.append(data.draw(st.sampled_from(ids)))
            if draft[-1] == END:
                break
        return draft

    @rule(data=st.data())
    def look(self, data: st.DataObject) -> None:
        draft = self.draft(data)
        expected = mask_of(None if END in draft else fresh(self.grammar, [*self.committed, *draft]))
        assert (self.constraint.allowed(draft) == expected).all()

    @rule(data=st.data())
    def count(self, data: st.DataObject) -> None:
        draft, tokens = self.draft(data), self.draft(data)
        num = self.constraint.num_valid(draft, tokens)
        text = [*self.committed, *draft]
        if END in draft or fresh(self.grammar, text) is None:
            assert num == 0
            return
        assert fresh(self.grammar, [*text, *tokens[:num]]) is not None
        if num < len(tokens) and END not in tokens[:num]:
            assert fresh(self.grammar, [*text, *tokens[: num + 1]]) is None

    @rule(data=st.data())
    def force(self, data: st.DataObject) -> None:
        draft = self.draft(data)
        text = [*self.committed, *draft]
        for token in self.constraint.forced(draft):
            assert np.flatnonzero(mask_of(fresh(self.grammar, text))).tolist() == [token]
            text.append(token)

    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        allowed = np.flatnonzero(self.constraint.allowed())
        going_on = [int(token) for token in allowed if token != END]
        if not going_on:
            assert allowed.tolist() == [END]
            return
        token = data.draw(st.sampled_from(going_on))
        self.constraint.commit(token)
        self.committed.append(token)

    @rule()
    def commit_what_is_refused(self) -> None:
        refused = np.flatnonzero(~self.constraint.allowed())
        other = self.grammar.start()
        for token in self.committed:
            other.commit(token)
        if len(refused):
            with pytest.raises(GrammarError):
                other.commit(int(refused[0]))


TestGrammarWalk = GrammarWalk.TestCase
TestGrammarWalk.settings = settings(max_examples=at_most(60), stateful_step_count=20)
