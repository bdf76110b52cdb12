"""Decided tokens become pieces of an answer: text, log probabilities, why it ended."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from msgspec import UNSET, UnsetType

from device_runtime.api.answer.told_prompt import PromptScores, ScoredToken
from device_runtime.api.figures import RoundFigures, TokenText
from device_runtime.api.job.plan import Choice
from device_runtime.generation.parts import AnswerEnd, Part, Reader, joined
from device_runtime.generation.request import Emission, FinishReason, Origin, Token
from device_runtime.text.detokenizer import make_detokenizer
from device_runtime.text.stop_strings import StopMatcher
from device_runtime.text.tokenizer import Tokenizer


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
    finish_reason: AnswerEnd | None = None
    rounds: RoundFigures | UnsetType = UNSET
    """What the rounds since the piece before decided, for choices that want it."""
    parts: tuple[Part, ...] = ()
    """What the text is made of, once that is read: text that may begin a mark comes later."""
    stop: str = ""
    """The stop string that ended the answer, if one did."""
    token_ids: tuple[int, ...] = ()
    """All tokens decided since the piece before, for choices that want them."""
    prompt_ids: Sequence[int] = ()
    prompt: PromptScores | None = None
    """Both in the first piece, if they were asked for."""
    is_alone: bool = False
    """The draft model says it, without the cloud."""


def read_with(reader: Reader, piece: Piece) -> Piece:
    """The piece with what its text is made of."""
    parts = [*reader.read(piece.text)]
    if piece.finish_reason is None or piece.finish_reason == "tool_calls":
        return replace(piece, parts=tuple(parts))
    more, reason = reader.end(piece.finish_reason)
    return replace(piece, parts=(*parts, *more), finish_reason=reason)


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
        parts=joined(part for piece in pieces for part in piece.parts),
        stop=last.stop,
        token_ids=tuple(id_ for piece in pieces for id_ in piece.token_ids),
        prompt_ids=pieces[0].prompt_ids,
        prompt=pieces[0].prompt,
        is_alone=last.is_alone,
    )


class Transcript:
    """The answer of one choice as it grows.

    A stop token counts as generated but has neither text nor log probabilities in the answer. A
    stop string is cut off with everything after it, and so are the tokens that begin there. A
    choice may want either.
    """

    def __init__(self, choice: Choice, tokenizer: Tokenizer, shows_marks: bool = False) -> None:
        self._choice = choice
        self._shows_marks = shows_marks
        self._tokenizer = tokenizer
        self._detokenizer = make_detokenizer(tokenizer, choice.generation.prompt_ids)
        self._matcher = StopMatcher(choice.stops)
        self._num_tokens = 0
        self._num_decoded = self._num_shown = len(choice.echo)
        self._text: list[str] = [choice.echo]
        self._unshown: list[ScoredToken] = []
        self._is_first = True
        self._stop = ""
        self._rounds = _Rounds() if choice.wants_rounds else None
        self._token_ids: list[int] = []
        self._is_alone = False
        self.prompt: PromptScores | None = None
        """Told with the first piece; before the text of the answer if that repeats the prompt."""

    def push(self, emission: Emission) -> Piece | None:
        """What these tokens add, or None while nothing of it is certain.

        After a piece with a finish reason nothing may be pushed.
        """
        reason = emission.finish_reason
        self._is_alone = emission.is_alone
        if self._rounds is not None:
            self._rounds.add(emission, is_first=self._num_tokens == 0)
        tokens = emission.tokens
        if reason == "stop" and not self._choice.includes_stop:
            tokens = tokens[:-1]
        for index, token in enumerate(tokens):
            if self._append(token, emission.origin(index)):
                return self._piece("stop", is_cut=True)
        if reason == "stop" and not self._choice.includes_stop:
            self._count(emission.tokens[-1])
            self._end_scores(emission.tokens[-1])
        if reason is not None and self._show(self._detokenizer.flush()):
            return self._piece("stop", is_cut=True)
        return self._piece(reason)

    def _append(self, token: Token, origin: Origin) -> bool:
        """Take one token; whether its text completed a stop string."""
        self._count(token)
        before = self._num_decoded
        text = self._decoded(token.id)
        self._num_decoded += len(text)
        if self._choice.generation.num_logprobs is not None or self._rounds is not None:
            own_text = self._tokenizer.token_bytes(token.id).decode(errors="replace")
            # Text before its own was held back until this token came.
            offset = max(before, self._num_decoded - len(own_text))
            if self._choice.generation.num_logprobs is not None:
                self._unshown.append(ScoredToken(token, offset))
            if self._rounds is not None:
                self._rounds.begin(offset, origin)
        return self._show(text)

    def _count(self, token: Token) -> None:
        self._num_tokens += 1
        if self._choice.tells_ids:
            self._token_ids.append(token.id)

    def _end_scores(self, stop: Token) -> None:
        """Behind a scored prompt every token has an entry, as programs that score texts expect."""
        if self._choice.scores_echo:
            self._unshown.append(ScoredToken(stop, self._num_decoded))

    def _decoded(self, token_id: int) -> str:
        """The text that a token makes certain; a mark's name is read where marks are."""
        text = self._detokenizer.push(token_id)
        shows = self._shows_marks or self._choice.shows_special
        if shows and self._tokenizer.is_special(token_id):
            text += self._tokenizer.token_bytes(token_id).decode(errors="replace")
        return text

    def _show(self, text: str) -> bool:
        """Pass decoded text on; whether it completed a stop string."""
        if self._num_tokens <= self._choice.generation.min_tokens:
            self._text.append(self._matcher.pass_by(text))
            return False
        matched = self._matcher.push(text)
        self._text.append(matched.text)
        if self._choice.includes_stop:
            self._text.append(matched.stop)
        self._stop = matched.stop
        return matched.is_stopped

    def _piece(self, reason: FinishReason | None, is_cut: bool = False) -> Piece | None:
        if reason is not None and not is_cut:
            self._text.append(self._matcher.flush())
        text = "".join(self._text)
        # The echo of a prompt must wait for the first token of the answer.
        if reason is None and (not text or (self._is_first and text == self._choice.echo)):
            return None
        self._text.clear()
        rounds = self._rounds.take(text) if self._rounds is not None else UNSET
        self._num_shown += len(text) - (len(self._choice.echo) if self._is_first else 0)
        tokens = self._take_tokens(takes_all=reason is not None and not is_cut)
        is_first, self._is_first = self._is_first, False
        num_tokens, stop = self._num_tokens, self._stop
        ids, self._token_ids = tuple(self._token_ids), []
        tells_ids = self._choice.tells_ids
        return Piece(
            self._choice.index,
            text,
            (*self._prompt_tokens(), *tokens) if is_first else tokens,
            num_tokens,
            is_first,
            reason,
            rounds,
            stop=stop,
            token_ids=ids,
            prompt_ids=self._choice.generation.prompt_ids if is_first and tells_ids else (),
            prompt=self.prompt if is_first else None,
            is_alone=self._is_alone,
        )

    def _prompt_tokens(self) -> tuple[ScoredToken, ...]:
        """Those of a prompt that is repeated with them, whose text the answer begins with."""
        if self.prompt is None or not self._choice.scores_echo:
            return ()
        end = len(self._choice.echo)
        return tuple(replace(token, offset=min(token.offset, end)) for token in self.prompt.all)

    def _take_tokens(self, takes_all: bool) -> tuple[ScoredToken, ...]:
        """The tokens whose text begins in what has been shown."""
        num_taken = len(self._unshown)
        if not takes_all:
            num_taken = sum(token.offset < self._num_shown for token in self._unshown)
        taken = tuple(self._unshown[:num_taken])
        del self._unshown[:num_taken]
        return taken


class _Rounds:
    """What rounds decided and no piece has said yet; text is cut where its tokens begin."""

    def __init__(self) -> None:
        self._num_rounds = self._num_drafted = self._num_accepted = 0
        self._is_alone = False
        self._begins: deque[tuple[int, Origin]] = deque()
        self._origin: Origin = "prompt"
        self._num_taken = 0

    def add(self, emission: Emission, is_first: bool) -> None:
        """A round was decided; the first emission of an answer is none."""
        self._num_rounds += not (is_first or emission.is_alone)
        self._is_alone = emission.is_alone
        self._num_drafted += emission.num_drafted
        self._num_accepted += emission.num_accepted

    def begin(self, offset: int, origin: Origin) -> None:
        """The text of the next token begins at this character of the answer."""
        self._begins.append((offset, origin))

    def take(self, text: str) -> RoundFigures:
        """All since the last call; `text` is what the answer grew by."""
        figures = RoundFigures(
            rounds=self._num_rounds,
            drafted_tokens=self._num_drafted,
            accepted_tokens=self._num_accepted,
            tokens=list(self._cut(text)),
            answered_by="draft" if self._is_alone else UNSET,
        )
        self._num_rounds = self._num_drafted = self._num_accepted = 0
        return figures

    def _cut(self, text: str) -> Iterator[TokenText]:
        start, end = self._num_taken, self._num_taken + len(text)
        while self._begins and self._begins[0][0] < end:
            offset, origin = self._begins.popleft()
            if offset > self._num_taken:
                yield TokenText(text[self._num_taken - start : offset - start], self._origin)
            self._num_taken, self._origin = max(self._num_taken, offset), origin
        if self._num_taken < end:
            yield TokenText(text[self._num_taken - start :], self._origin)
        self._num_taken = end
