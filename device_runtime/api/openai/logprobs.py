"""Log probabilities in the forms of OpenAI's two APIs, and a prompt's in vLLM's."""

from collections.abc import Sequence

from device_runtime.api.answer.logprobs import TokenTexts, entry_of, finite
from device_runtime.api.answer.told_prompt import PromptScores, ScoredToken
from device_runtime.api.openai.messages import (
    ChatLogprobs,
    CompletionLogprobs,
    PromptLogprob,
    PromptLogprobs,
)
from device_runtime.generation.request import Token


def chat_logprobs(texts: TokenTexts, tokens: Sequence[ScoredToken]) -> ChatLogprobs:
    """One entry per token, with its bytes, since half a character has no text."""
    return ChatLogprobs([entry_of(texts, scored.token) for scored in tokens])


def completion_logprobs(
    texts: TokenTexts, tokens: Sequence[ScoredToken], num_top: int
) -> CompletionLogprobs:
    """Parallel lists; the chosen token is always among the alternatives.

    A prompt's first token has neither: nothing stands before it.
    """
    all_tokens = [scored.token for scored in tokens]
    return CompletionLogprobs(
        tokens=[texts[token.id] for token in all_tokens],
        token_logprobs=[
            None if token.logprob is None else finite(token.logprob) for token in all_tokens
        ],
        top_logprobs=[
            None if token.logprob is None else _by_text(texts, token, num_top)
            for token in all_tokens
        ],
        text_offset=[scored.offset for scored in tokens],
    )


def prompt_logprobs(texts: TokenTexts, scores: PromptScores, num_top: int) -> PromptLogprobs:
    """For each token of the prompt its alternatives and itself, by their ids."""
    pairs = zip(scores.others, scores.ranks, strict=True)
    return [None, *(_by_id(texts, each.token, rank, num_top) for each, rank in pairs)]


def _by_text(texts: TokenTexts, token: Token, num_top: int) -> dict[str, float]:
    """Alternatives by their text; of several with one text the most likely counts."""
    by_text: dict[str, float] = {}
    for id_, logprob in (*token.top[:num_top], (token.id, token.logprob)):
        by_text.setdefault(texts[id_], finite(logprob))
    return by_text


def _by_id(texts: TokenTexts, token: Token, rank: int, num_top: int) -> dict[str, PromptLogprob]:
    by_id = {str(token.id): PromptLogprob(finite(token.logprob), rank, texts[token.id])}
    for place, (id_, logprob) in enumerate(token.top[:num_top], 1):
        by_id.setdefault(str(id_), PromptLogprob(finite(logprob), place, texts[id_]))
    return by_id
