"""Log probabilities of an answer's tokens, as both of OpenAI's chat APIs have them."""

import msgspec

from device_runtime.generation.request import Token
from device_runtime.text.tokenizer import Tokenizer

# JSON has no minus infinity; OpenAI's API says -9999 for "very unlikely".
_LOWEST = -9999.0


class TopLogprob(msgspec.Struct, frozen=True):
    """An alternative at one place of an answer."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(msgspec.Struct, frozen=True):
    """A token of an answer with its alternatives, most likely first."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class TokenTexts(dict[int, str]):
    """What each token stands for, looked up once; a part of a character is U+FFFD."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def __missing__(self, token_id: int) -> str:
        text = self[token_id] = self.tokenizer.token_bytes(token_id).decode(errors="replace")
        return text


def entry_of(texts: TokenTexts, token: Token) -> TokenLogprob:
    """A token with its alternatives; half a character has bytes and no text."""
    token_bytes = texts.tokenizer.token_bytes
    top = [
        TopLogprob(texts[id_], finite(logprob), list(token_bytes(id_)))
        for id_, logprob in token.top
    ]
    own_bytes = list(token_bytes(token.id))
    return TokenLogprob(texts[token.id], finite(token.logprob), own_bytes, top)


def finite(logprob: float | None) -> float:
    """A log probability as JSON can have it."""
    return _LOWEST if logprob is None else max(logprob, _LOWEST)
