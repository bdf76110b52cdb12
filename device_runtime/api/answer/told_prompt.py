"""What an answer says of its prompt: its ids, and how likely the model found its tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

from device_runtime.generation.request import RankedToken, Token
from device_runtime.text.detokenizer import make_detokenizer
from device_runtime.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token with log probabilities and the place in the answer where its text begins."""

    token: Token
    offset: int


@dataclass(frozen=True, slots=True)
class PromptScores:
    """Log probabilities of a prompt, and where the text of each token begins; the first has none.

    The others come with the number of tokens that were as likely or more.
    """

    first: ScoredToken
    others: tuple[ScoredToken, ...]
    ranks: tuple[int, ...]

    @property
    def all(self) -> tuple[ScoredToken, ...]:
        """The prompt's tokens."""
        return (self.first, *self.others)


def prompt_scores(
    tokenizer: Tokenizer, prompt_ids: Sequence[int], ranked: Sequence[RankedToken]
) -> PromptScores:
    """What was found out of a prompt; takes as long as decoding it twice."""
    tokens = [Token(prompt_ids[0]), *(each.token for each in ranked)]
    detokenizer, num_decoded = make_detokenizer(tokenizer, ()), 0
    scored: list[ScoredToken] = []
    for token in tokens:
        before = num_decoded
        num_decoded += len(detokenizer.push(token.id))
        own_text = tokenizer.token_bytes(token.id).decode(errors="replace")
        if tokenizer.is_special(token.id):
            own_text = ""
        # Text before its own was held back until this token came.
        scored.append(ScoredToken(token, max(before, num_decoded - len(own_text))))
    return PromptScores(scored[0], tuple(scored[1:]), tuple(each.rank for each in ranked))
