"""Decided tokens become pieces of an answer: text, log probabilities, why it ended."""

from collections.abc import Sequence
from dataclasses import dataclass

from device_runtime.api.job.plan import Choice
from device_runtime.generation.request import Emission, FinishReason, Token
from device_runtime.text.detokenizer import make_detokenizer
from device_runtime.text.stop_strings import StopMatcher
from device_runtime.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token with log probabilities and the place in the answer where its text begins."""

    token: Token
    offset: int


@dataclass(frozen=True, slots=True)
class Piece:
    """What an answer grew by. `num_tokens` counts all tokens of the choice so far.

    `tokens` are those whose text begins in this piece, none unless log probabilities were asked
    for. The last piece of a choice has a finish reason.
    """

    index: int
    text: str
    tokens: tuple[ScoredToken, ...]
    num_tokens: int
    is_first: bool
    finish_reason: FinishReason | None = None


class Transcript:
    """The answer of one choice as it grows.

    A stop token counts as generated but has neither text nor log probabilities in the answer. A
    stop string is cut off with everything after it, and so are the tokens that begin there.
    """

    def __init__(self, choice: Choice, tokenizer: Tokenizer) -> None:
        self._choice = choice
        self._tokenizer = tokenizer
        self._detokenizer = make_detokenizer(tokenizer, choice.generation.prompt_ids)
        self._matcher = StopMatcher(choice.stops)
        self._num_tokens = 0
        self._num_decoded = self._num_shown = len(choice.echo)
        self._text: list[str] = [choice.echo]
        self._unshown: list[ScoredToken] = []
        self._is_first = True

    def push(self, emission: Emission) -> Piece | None:
        """What these tokens add, or None while nothing of it is certain.

        After a piece with a finish reason nothing may be pushed.
        """
        reason = emission.finish_reason
        for token in _without_stop_token(emission):
            if self._append(token):
                return self._piece("stop", is_cut=True)
        if reason == "stop":
            self._num_tokens += 1
        if reason is not None and self._show(self._detokenizer.flush()):
            return self._piece("stop", is_cut=True)
        return self._piece(reason)

    def _append(self, token: Token) -> bool:
        """Take one token; whether its text completed a stop string."""
        self._num_tokens += 1
        before = self._num_decoded
        text = self._detokenizer.push(token.id)
        self._num_decoded += len(text)
        if self._choice.generation.num_logprobs is not None:
            own_text = self._tokenizer.token_bytes(token.id).decode(errors="replace")
            # Text before its own was held back until this token came.
            offset = max(before, self._num_decoded - len(own_text))
            self._unshown.append(ScoredToken(token, offset))
        return self._show(text)

    def _show(self, text: str) -> bool:
        """Pass decoded text on; whether it completed a stop string."""
        if self._num_tokens <= self._choice.generation.min_tokens:
            self._text.append(self._matcher.pass_by(text))
            return False
        matched = self._matcher.push(text)
        self._text.append(matched.text)
        return matched.is_stopped

    def _piece(self, reason: FinishReason | None, is_cut: bool = False) -> Piece | None:
        if reason is not None and not is_cut:
            self._text.append(self._matcher.flush())
        text = "".join(self._text)
        # The echo of a prompt must wait for the first token of the answer.
        if reason is None and (not text or (self._is_first and text == self._choice.echo)):
            return None
        self._text.clear()
        self._num_shown += len(text) - (len(self._choice.echo) if self._is_first else 0)
        tokens = self._take_tokens(takes_all=reason is not None and not is_cut)
        piece = Piece(self._choice.index, text, tokens, self._num_tokens, self._is_first, reason)
        self._is_first = False
        return piece

    def _take_tokens(self, takes_all: bool) -> tuple[ScoredToken, ...]:
        """The tokens whose text begins in what has been shown."""
        num_taken = len(self._unshown)
        if not takes_all:
            num_taken = sum(token.offset < self._num_shown for token in self._unshown)
        taken = tuple(self._unshown[:num_taken])
        del self._unshown[:num_taken]
        return taken


def _without_stop_token(emission: Emission) -> Sequence[Token]:
    return emission.tokens[:-1] if emission.finish_reason == "stop" else emission.tokens
