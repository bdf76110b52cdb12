"""Text of a growing token sequence: never half a character, never a character too few."""

import codecs
from collections.abc import Sequence
from typing import Protocol

from device_runtime.tokenizer import Tokenizer


class Detokenizer(Protocol):
    """Tokens in, text out; the pieces joined are the tokenizer's own decoding of all tokens."""

    def push(self, token_id: int) -> str:
        """The text that is certain now; what a later token may still change is held back."""
        ...

    def flush(self) -> str:
        """What was held back, decoded as it is. Nothing may be pushed after it."""
        ...


def make_detokenizer(tokenizer: Tokenizer, prompt_ids: Sequence[int]) -> Detokenizer:
    """A detokenizer for what follows a prompt; it gives no text of the prompt itself."""
    if tokenizer.is_byte_level:
        return ByteLevelDetokenizer(tokenizer)
    return TextDetokenizer(tokenizer, _is_beginning(tokenizer, prompt_ids))


class ByteLevelDetokenizer:
    """For byte-level vocabularies: UTF-8 decoding that waits for the rest of a character."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """The characters this token completes."""
        if self._tokenizer.is_special(token_id):
            return ""
        return self._utf8.decode(self._tokenizer.token_bytes(token_id))

    def flush(self) -> str:
        """A replacement character for an unfinished one."""
        return self._utf8.decode(b"", final=True)


class TextDetokenizer:
    """For vocabularies of text with byte fallback.

    The decoder takes a run of byte tokens as a whole: one bad byte turns every byte of the run
    into a replacement character. So a run is held until another token ends it. Each token is
    decoded once, hence constant time per token.
    """

    def __init__(self, tokenizer: Tokenizer, is_beginning: bool) -> None:
        self._tokenizer = tokenizer
        self._is_beginning = is_beginning
        self._held: list[int] = []

    def push(self, token_id: int) -> str:
        """This token's text, after that of a run of bytes which it ends."""
        if self._tokenizer.is_special(token_id):
            return ""
        self._held.append(token_id)
        if self._tokenizer.is_byte_fallback(token_id):
            return ""
        return self.flush()

    def flush(self) -> str:
        """The text of what is held."""
        ids, self._held = self._held, []
        continuation = self._tokenizer.decode_continuation(ids)
        if not self._is_beginning or not continuation:
            return continuation
        self._is_beginning = False
        return self._tokenizer.decode(ids)


def _is_beginning(tokenizer: Tokenizer, prompt_ids: Sequence[int]) -> bool:
    """Whether no token of the prompt has text, so that the first generated one begins it."""
    return not any(
        tokenizer.decode_continuation([token_id])
        for token_id in reversed(prompt_ids)
        if not tokenizer.is_special(token_id)
    )
