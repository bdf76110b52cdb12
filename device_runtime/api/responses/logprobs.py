"""Log probabilities of words, one entry for each token, as the Responses API has them."""

from collections.abc import Iterator, Sequence
from typing import Any

from device_runtime.api.answer.told_prompt import ScoredToken
from device_runtime.text.tokenizer import Tokenizer

# JSON has no minus infinity; OpenAI's API says -9999 for "very unlikely".
_LOWEST = -9999.0

Entry = dict[str, Any]


def entries_of(tokenizer: Tokenizer, scored: Sequence[ScoredToken]) -> Iterator[Entry]:
    """Entries with alternatives, most likely first. Half a character has bytes and no text."""
    for each in scored:
        top = [_entry(tokenizer, *pair) for pair in each.token.top]
        yield {**_entry(tokenizer, each.token.id, each.token.logprob), "top_logprobs": top}


def _entry(tokenizer: Tokenizer, token_id: int, logprob: float | None) -> Entry:
    own = tokenizer.token_bytes(token_id)
    told = _LOWEST if logprob is None else max(logprob, _LOWEST)
    return {"token": own.decode(errors="replace"), "logprob": told, "bytes": list(own)}
