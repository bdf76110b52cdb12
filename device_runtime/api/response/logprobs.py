"""Log probabilities in the two shapes of OpenAI's API."""

from collections.abc import Sequence

from device_runtime.api.response.messages import (
    ChatLogprobs,
    CompletionLogprobs,
    TokenLogprob,
    TopLogprob,
)
from device_runtime.api.response.transcript import ScoredToken
from device_runtime.generation.tokens import Token
from device_runtime.text.tokenizer import Tokenizer

# JSON has no minus infinity; OpenAI's API says -9999 for "very unlikely".
LOWEST_LOGPROB = -9999.0


def chat_logprobs(tokenizer: Tokenizer, tokens: Sequence[ScoredToken]) -> ChatLogprobs:
    """One entry per token, with its bytes, since half a character has no text."""
    return ChatLogprobs([_chat_entry(tokenizer, scored.token) for scored in tokens])


def completion_logprobs(tokenizer: Tokenizer, tokens: Sequence[ScoredToken]) -> CompletionLogprobs:
    """Parallel lists; the chosen token is always among the alternatives."""
    return CompletionLogprobs(
        tokens=[_text(tokenizer, scored.token.id) for scored in tokens],
        token_logprobs=[_finite(scored.token.logprob) for scored in tokens],
        top_logprobs=[_by_text(tokenizer, scored.token) for scored in tokens],
        text_offset=[scored.offset for scored in tokens],
    )


def _chat_entry(tokenizer: Tokenizer, token: Token) -> TokenLogprob:
    top = [
        TopLogprob(_text(tokenizer, id_), _finite(logprob), list(tokenizer.token_bytes(id_)))
        for id_, logprob in token.top
    ]
    own_bytes = list(tokenizer.token_bytes(token.id))
    return TokenLogprob(_text(tokenizer, token.id), _finite(token.logprob), own_bytes, top)


def _by_text(tokenizer: Tokenizer, token: Token) -> dict[str, float]:
    """Alternatives by their text; of several with one text the most likely counts."""
    by_text: dict[str, float] = {}
    for id_, logprob in (*token.top, (token.id, token.logprob)):
        by_text.setdefault(_text(tokenizer, id_), _finite(logprob))
    return by_text


def _text(tokenizer: Tokenizer, token_id: int) -> str:
    return tokenizer.token_bytes(token_id).decode(errors="replace")


def _finite(logprob: float | None) -> float:
    return LOWEST_LOGPROB if logprob is None else max(logprob, LOWEST_LOGPROB)
