"""Log probabilities in the forms of OpenAI's two APIs, and a prompt's in vLLM's."""

from collections.abc import Sequence

from device_runtime.api.answer.told_prompt import PromptScores, ScoredToken
from device_runtime.api.openai.messages import (
    ChatLogprobs,
    CompletionLogprobs,
    PromptLogprob,
    PromptLogprobs,
    TokenLogprob,
    TopLogprob,
)
from device_runtime.generation.request import Token
from device_runtime.text.tokenizer import Tokenizer

# JSON has no minus infinity; OpenAI's API says -9999 for "very unlikely".
LOWEST_LOGPROB = -9999.0


class TokenTexts(dict[int, str]):
    """What each token stands for, looked up once; a part of a character is U+FFFD."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def __missing__(self, token_id: int) -> str:
        text = self[token_id] = self.tokenizer.token_bytes(token_id).decode(errors="replace")
        return text


def chat_logprobs(texts: TokenTexts, tokens: Sequence[ScoredToken]) -> ChatLogprobs:
    """One entry per token, with its bytes, since half a character has no text."""
    return ChatLogprobs([_entry(texts, scored.token) for scored in tokens])


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
            None if token.logprob is None else _finite(token.logprob) for token in all_tokens
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


def _entry(texts: TokenTexts, token: Token) -> TokenLogprob:
    token_bytes = texts.tokenizer.token_bytes
    top = [
        TopLogprob(texts[id_], _finite(logprob), list(token_bytes(id_)))
        for id_, logprob in token.top
    ]
    own_bytes = list(token_bytes(token.id))
    return TokenLogprob(texts[token.id], _finite(token.logprob), own_bytes, top)


def _by_text(texts: TokenTexts, token: Token, num_top: int) -> dict[str, float]:
    """Alternatives by their text; of several with one text the most likely counts."""
    by_text: dict[str, float] = {}
    for id_, logprob in (*token.top[:num_top], (token.id, token.logprob)):
        by_text.setdefault(texts[id_], _finite(logprob))
    return by_text


def _by_id(texts: TokenTexts, token: Token, rank: int, num_top: int) -> dict[str, PromptLogprob]:
    by_id = {str(token.id): PromptLogprob(_finite(token.logprob), rank, texts[token.id])}
    for place, (id_, logprob) in enumerate(token.top[:num_top], 1):
        by_id.setdefault(str(id_), PromptLogprob(_finite(logprob), place, texts[id_]))
    return by_id


def _finite(logprob: float | None) -> float:
    return LOWEST_LOGPROB if logprob is None else max(logprob, LOWEST_LOGPROB)
