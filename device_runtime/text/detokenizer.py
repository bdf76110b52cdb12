"""Text of a growing token sequence: never half a character, never a character too few."""

import codecs
from collections.abc import Sequence
from itertools import islice, takewhile
from typing import Protocol

from device_runtime.text.tokenizer import Tokenizer

_LONGEST_CHARACTER_BYTES = 4
_REPLACEMENT = "\ufffd"


class Detokenizer(Protocol):
    """Tokens in, text out; the pieces joined are the tokenizer's own decoding of all tokens.

    Only bytes that are no character by the end are left out, U+FFFD in the decoding; and a
    character that the prompt has begun comes whole.
    """

    def push(self, token_id: int) -> str:
        """The text that is certain now; what a later token may still change is held back."""
        ...

    def flush(self) -> str:
        """What was held back and is whole. Nothing may be pushed after it."""
        ...


def make_detokenizer(tokenizer: Tokenizer, prompt_ids: Sequence[int]) -> Detokenizer:
    """A detokenizer for what follows a prompt; it gives no text of the prompt itself."""
    begun = _begun_character(tokenizer, prompt_ids)
    if tokenizer.is_byte_level:
        return _WithoutEndingMarks(ByteLevelDetokenizer(tokenizer, begun))
    held = _last_spoken(tokenizer, prompt_ids, len(begun))
    is_beginning = _is_beginning(tokenizer, prompt_ids)
    return _WithoutEndingMarks(TextDetokenizer(tokenizer, is_beginning, held))


def whole_text(tokenizer: Tokenizer, token_ids: Sequence[int]) -> str:
    """The decoding of a sequence without a character that it only begins."""
    begun = _begun_character(tokenizer, token_ids)
    if not begun:
        return tokenizer.decode(token_ids)
    if tokenizer.is_byte_level:
        return tokenizer.decode(token_ids).removesuffix(_REPLACEMENT)
    return tokenizer.decode(_last_spoken(tokenizer, token_ids, len(token_ids))[: -len(begun)])


class _WithoutEndingMarks:
    """Replacement characters wait for other text behind them, as they do in vLLM."""

    def __init__(self, inner: Detokenizer) -> None:
        self._inner = inner
        self._num_held = 0

    def push(self, token_id: int) -> str:
        """The text up to its last character."""
        text = self._inner.push(token_id)
        shown = text.rstrip(_REPLACEMENT)
        if not shown:
            self._num_held += len(text)
            return ""
        shown = _REPLACEMENT * self._num_held + shown
        self._num_held = len(text) - len(text.rstrip(_REPLACEMENT))
        return shown

    def flush(self) -> str:
        """The text that is left, up to its last character."""
        shown = self._inner.flush().rstrip(_REPLACEMENT)
        return _REPLACEMENT * self._num_held + shown if shown else ""


class ByteLevelDetokenizer:
    """For byte-level vocabularies: UTF-8 decoding that waits for the rest of a character."""

    def __init__(self, tokenizer: Tokenizer, begun: bytes = b"") -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._utf8.decode(begun)

    def push(self, token_id: int) -> str:
        """The characters this token completes."""
        if self._tokenizer.is_special(token_id):
            return ""
        return self._utf8.decode(self._tokenizer.token_bytes(token_id))

    def flush(self) -> str:
        """Nothing: what is held is an unfinished character."""
        return ""


class TextDetokenizer:
    """For vocabularies of text with byte fallback.

    The decoder takes a run of byte tokens as a whole: one bad byte turns every byte of the run
    into a replacement character. So a run is held until another token ends it. Each token is
    decoded once, hence constant time per token.
    """

    def __init__(self, tokenizer: Tokenizer, is_beginning: bool, begun: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._is_beginning = is_beginning
        self._held = list(begun)

    def push(self, token_id: int) -> str:
        """This token's text, after that of a run of bytes which it ends."""
        if self._tokenizer.is_special(token_id):
            return ""
        self._held.append(token_id)
        if self._tokenizer.is_byte_fallback(token_id):
            return ""
        return self._take(len(self._held))

    def flush(self) -> str:
        """The text of what is held, without an unfinished character."""
        held = b"".join(map(self._tokenizer.token_bytes, self._held))
        return self._take(len(held) - len(_unfinished(held)))

    def _take(self, num_tokens: int) -> str:
        """The text of so many tokens; nothing is held after it."""
        ids, self._held = self._held[:num_tokens], []
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


def _begun_character(tokenizer: Tokenizer, token_ids: Sequence[int]) -> bytes:
    """The bytes of a character that a sequence ends in the middle of."""
    last = _last_spoken(tokenizer, token_ids, _LONGEST_CHARACTER_BYTES)
    if not tokenizer.is_byte_level:
        last = list(takewhile(tokenizer.is_byte_fallback, last[::-1]))[::-1]
    return _unfinished(b"".join(map(tokenizer.token_bytes, last)))


def _last_spoken(tokenizer: Tokenizer, token_ids: Sequence[int], most: int) -> list[int]:
    """The last tokens that are part of the text, at most so many."""
    spoken = (token_id for token_id in reversed(token_ids) if not tokenizer.is_special(token_id))
    return list(islice(spoken, most))[::-1]


def _unfinished(data: bytes) -> bytes:
    """What UTF-8 ends in the middle of."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    decoder.decode(data)
    return decoder.getstate()[0]
