"""The two ways of OpenAI's API to write an answer down: as the assistant's message, or as text."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

from msgspec import UNSET

from device_runtime.api.response.messages import (
    AnswerChoice,
    ChatChoice,
    ChatChunkChoice,
    ChatDelta,
    ChatLogprobs,
    ChatMessage,
    CompletionChoice,
    CompletionLogprobs,
    ObjectKind,
    TokenLogprob,
    TopLogprob,
)
from device_runtime.api.response.transcript import Piece
from device_runtime.generation.request import Token
from device_runtime.text.tokenizer import Tokenizer

# JSON has no minus infinity; OpenAI's API says -9999 for "very unlikely".
LOWEST_LOGPROB = -9999.0


class AnswerShape(Protocol):
    """How the choices of one answer are written."""

    prefix: ClassVar[str]
    """What the ids of answers begin with."""
    document: ClassVar[ObjectKind]
    event: ClassVar[ObjectKind]

    def choice(self, whole: Piece) -> AnswerChoice:
        """A choice of a document, from all of its pieces as one."""
        ...

    def part(self, piece: Piece) -> AnswerChoice:
        """A choice of an event: what it grew by, or its end, which stands alone."""
        ...


@dataclass(frozen=True, slots=True)
class ChatShape:
    """Answers as assistant messages."""

    prefix: ClassVar[str] = "chatcmpl"
    document: ClassVar[ObjectKind] = "chat.completion"
    event: ClassVar[ObjectKind] = "chat.completion.chunk"

    tokenizer: Tokenizer
    has_logprobs: bool

    def choice(self, whole: Piece) -> ChatChoice:
        message = ChatMessage(content=whole.text)
        return ChatChoice(whole.index, message, self._logprobs(whole), whole.finish_reason)

    def part(self, piece: Piece) -> ChatChunkChoice:
        """The first of a choice carries the role, so it never comes before a token."""
        if piece.finish_reason is not None:
            return ChatChunkChoice(piece.index, ChatDelta(), None, piece.finish_reason)
        delta = ChatDelta(role="assistant" if piece.is_first else UNSET, content=piece.text)
        return ChatChunkChoice(piece.index, delta, self._logprobs(piece), None)

    def _logprobs(self, piece: Piece) -> ChatLogprobs | None:
        """One entry per token, with its bytes, since half a character has no text."""
        if not self.has_logprobs:
            return None
        return ChatLogprobs([self._entry(scored.token) for scored in piece.tokens])

    def _entry(self, token: Token) -> TokenLogprob:
        tokenizer = self.tokenizer
        top = [
            TopLogprob(_text(tokenizer, id_), _finite(logprob), list(tokenizer.token_bytes(id_)))
            for id_, logprob in token.top
        ]
        own_bytes = list(tokenizer.token_bytes(token.id))
        return TokenLogprob(_text(tokenizer, token.id), _finite(token.logprob), own_bytes, top)


@dataclass(frozen=True, slots=True)
class CompletionShape:
    """Answers as text."""

    prefix: ClassVar[str] = "cmpl"
    document: ClassVar[ObjectKind] = "text_completion"
    event: ClassVar[ObjectKind] = "text_completion"

    tokenizer: Tokenizer
    has_logprobs: bool

    def choice(self, whole: Piece) -> CompletionChoice:
        return CompletionChoice(whole.index, whole.text, self._logprobs(whole), whole.finish_reason)

    def part(self, piece: Piece) -> CompletionChoice:
        if piece.finish_reason is not None:
            return CompletionChoice(piece.index, "", None, piece.finish_reason)
        return self.choice(piece)

    def _logprobs(self, piece: Piece) -> CompletionLogprobs | None:
        """Parallel lists; the chosen token is always among the alternatives."""
        if not self.has_logprobs:
            return None
        tokenizer, tokens = self.tokenizer, [scored.token for scored in piece.tokens]
        return CompletionLogprobs(
            tokens=[_text(tokenizer, token.id) for token in tokens],
            token_logprobs=[_finite(token.logprob) for token in tokens],
            top_logprobs=[_by_text(tokenizer, token) for token in tokens],
            text_offset=[scored.offset for scored in piece.tokens],
        )


def join_pieces(pieces: Sequence[Piece]) -> Piece:
    """The pieces of one choice, at least one, as a single piece."""
    last = pieces[-1]
    return Piece(
        index=last.index,
        text="".join(piece.text for piece in pieces),
        tokens=tuple(token for piece in pieces for token in piece.tokens),
        num_tokens=last.num_tokens,
        is_first=True,
        finish_reason=last.finish_reason,
    )


def with_end(piece: Piece) -> Sequence[Piece]:
    """A piece as a stream sends it: the end of a choice stands alone, after its last text.

    Many clients take a chunk with a finish reason to be empty, as OpenAI's is.
    """
    if piece.finish_reason is None:
        return (piece,)
    end = replace(piece, text="", tokens=(), is_first=False)
    if not (piece.text or piece.tokens or piece.is_first):
        return (end,)
    return (replace(piece, finish_reason=None), replace(end, rounds=UNSET))


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
