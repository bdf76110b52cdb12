"""The two ways of OpenAI's API to write an answer down: as the assistant's message, or as text."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Protocol

import msgspec
from msgspec import UNSET, UnsetType

from device_runtime.api.answer.logprobs import TokenTexts
from device_runtime.api.answer.shape import COMMENT, EVENT_STREAM, Begun, Counts
from device_runtime.api.answer.transcript import Piece
from device_runtime.api.errors import ApiError
from device_runtime.api.figures import HatFigures, LoneMark, RoundFigures
from device_runtime.api.openai.extras import OfPrompt, WantedExtras
from device_runtime.api.openai.logprobs import chat_logprobs, completion_logprobs
from device_runtime.api.openai.messages import (
    Answer,
    AnswerChoice,
    CalledFunction,
    ChatChoice,
    ChatChunkChoice,
    ChatDelta,
    ChatLogprobs,
    ChatMessage,
    CompletionChoice,
    CompletionLogprobs,
    CompletionTokensDetails,
    ObjectKind,
    PromptTokensDetails,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from device_runtime.api.request.body import StreamOptions
from device_runtime.generation.parts import Call, Thought, Words, joined

_DONE = b"data: [DONE]\n\n"


class ChoiceShape(Protocol):
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

    def of_prompt(self, piece: Piece) -> OfPrompt:
        """What the answer says of its prompt beside its choices, by the first piece of one."""
        ...


@dataclass(frozen=True, slots=True)
class OpenAIShape:
    """An `AnswerShape`: answers with choices, and streams of chunks that end with `[DONE]`."""

    headers: ClassVar = EVENT_STREAM
    ping: ClassVar = COMMENT

    choices: ChoiceShape
    options: StreamOptions
    """Of a stream."""

    def document(
        self, begun: Begun, wholes: Sequence[Piece], counts: Counts, figures: HatFigures | None
    ) -> Answer:
        return self._answer(
            begun,
            self.choices.document,
            [self.choices.choice(whole) for whole in wholes],
            usage_of(counts),
            figures or UNSET,
            self.choices.of_prompt(wholes[0]),
        )

    def piece(self, begun: Begun, piece: Piece, counts: Callable[[], Counts]) -> bytes:
        usage: Usage | UnsetType | None = UNSET
        if self.options.include_usage:
            usage = usage_of(counts()) if self.options.continuous_usage_stats else None
        has_grown = piece.parts or piece.tokens or piece.token_ids or piece.is_first
        if not has_grown and piece.finish_reason is None:
            # Its text may begin a mark, so nothing of it is certain.
            return b""
        kind = self.choices.event
        return b"".join(
            _event(
                self._answer(
                    begun,
                    kind,
                    [self.choices.part(part)],
                    usage,
                    part.rounds,
                    self.choices.of_prompt(part),
                )
            )
            for part in _told_apart(piece)
        )

    def end(self, begun: Begun, counts: Counts, figures: HatFigures | None) -> bytes:
        if not self.options.include_usage and figures is None:
            return _DONE
        usage = usage_of(counts) if self.options.include_usage else UNSET
        last = self._answer(begun, self.choices.event, [], usage, figures or UNSET)
        return _event(last) + _DONE

    def failure(self, error: ApiError) -> bytes:
        return b"data: " + error.encode() + b"\n\n"

    def _answer(
        self,
        begun: Begun,
        kind: ObjectKind,
        choices: Sequence[AnswerChoice],
        usage: Usage | UnsetType | None,
        hat: HatFigures | RoundFigures | LoneMark | UnsetType,
        prompt: OfPrompt | None = None,
    ) -> Answer:
        if begun.is_alone and hat is UNSET:
            hat = LoneMark()
        return Answer(
            id=f"{self.choices.prefix}-{begun.request_id}",
            object=kind,
            created=begun.created,
            model=begun.model,
            system_fingerprint=begun.system_fingerprint,
            choices=choices,
            usage=usage,
            hat=hat,
            prompt_logprobs=UNSET if prompt is None else prompt.logprobs,
            prompt_token_ids=UNSET if prompt is None else prompt.token_ids,
        )


@dataclass(frozen=True, slots=True)
class ChatShape:
    """Answers as assistant messages."""

    prefix: ClassVar[str] = "chatcmpl"
    document: ClassVar[ObjectKind] = "chat.completion"
    event: ClassVar[ObjectKind] = "chat.completion.chunk"

    texts: TokenTexts
    wanted: WantedExtras

    def choice(self, whole: Piece) -> ChatChoice:
        calls = [
            ToolCall(id=call.id, function=CalledFunction(call.arguments, call.name))
            for call in _calls(whole)
        ]
        words = _words(whole)
        content = None if calls and not words else words
        thoughts = _thoughts(whole) or UNSET
        message = ChatMessage(
            content=content,
            reasoning=thoughts,
            reasoning_content=thoughts,
            tool_calls=calls or UNSET,
        )
        ids = self.wanted.ids_of(whole)
        return ChatChoice(whole.index, message, self._logprobs(whole), whole.finish_reason, ids)

    def part(self, piece: Piece) -> ChatChunkChoice:
        """The first of a choice carries the role, so it never comes before a token."""
        ids = self.wanted.ids_of(piece)
        if piece.finish_reason is not None:
            return ChatChunkChoice(piece.index, ChatDelta(), None, piece.finish_reason, ids)
        calls = [_grown(call) for call in _calls(piece)]
        thoughts = _thoughts(piece) or UNSET
        words: str | UnsetType | None = _words(piece)
        if (calls or thoughts) and not words:
            words = None if piece.is_first else UNSET
        role: Literal["assistant"] | UnsetType = "assistant" if piece.is_first else UNSET
        delta = ChatDelta(
            role=role,
            content=words,
            reasoning=thoughts,
            reasoning_content=thoughts,
            tool_calls=calls or UNSET,
        )
        return ChatChunkChoice(piece.index, delta, self._logprobs(piece), None, ids)

    def of_prompt(self, piece: Piece) -> OfPrompt:
        return self.wanted.of_prompt(self.texts, piece)

    def _logprobs(self, piece: Piece) -> ChatLogprobs | None:
        if self.wanted.num_logprobs is None:
            return None
        return chat_logprobs(self.texts, piece.tokens)


@dataclass(frozen=True, slots=True)
class CompletionShape:
    """Answers as text."""

    prefix: ClassVar[str] = "cmpl"
    document: ClassVar[ObjectKind] = "text_completion"
    event: ClassVar[ObjectKind] = "text_completion"

    texts: TokenTexts
    wanted: WantedExtras

    def choice(self, whole: Piece) -> CompletionChoice:
        prompt = self.wanted.of_prompt(self.texts, whole)
        return CompletionChoice(
            whole.index,
            whole.text,
            self._logprobs(whole),
            whole.finish_reason,
            prompt.logprobs,
            prompt.token_ids,
            self.wanted.ids_of(whole),
        )

    def part(self, piece: Piece) -> CompletionChoice:
        if piece.finish_reason is not None:
            ids = self.wanted.ids_of(piece)
            return CompletionChoice(piece.index, "", None, piece.finish_reason, token_ids=ids)
        return self.choice(piece)

    def of_prompt(self, piece: Piece) -> OfPrompt:
        """Nothing: it is told in the choices."""
        return OfPrompt()

    def _logprobs(self, piece: Piece) -> CompletionLogprobs | None:
        if self.wanted.num_logprobs is None:
            return None
        return completion_logprobs(self.texts, piece.tokens, self.wanted.num_logprobs)


def _told_apart(piece: Piece) -> Iterator[Piece]:
    """A piece as a stream sends it: one call in an event at most, and a choice's end alone.

    Some clients read only the first call of an event, and many take one with a finish reason to be
    empty, as OpenAI's is.
    """
    calls = _calls(piece)
    rest = replace(piece, text="", parts=(), tokens=(), is_first=False)
    is_end = piece.finish_reason is not None
    if not is_end or piece.parts or piece.text or piece.tokens or piece.is_first:
        said = [part for part in piece.parts if not isinstance(part, Call)]
        yield replace(piece, parts=(*said, *calls[:1]), finish_reason=None)
        rest = replace(rest, rounds=UNSET, token_ids=())
    for call in calls[1:]:
        yield replace(rest, parts=(call,), finish_reason=None)
    if is_end:
        yield rest


def usage_of(counts: Counts) -> Usage:
    """What `usage` says."""
    num_all = counts.num_prompt + counts.num_generated
    thought = counts.num_thought
    return Usage(
        counts.num_prompt,
        counts.num_generated,
        num_all,
        PromptTokensDetails(counts.num_cached),
        CompletionTokensDetails(thought) if thought is not None else UNSET,
    )


def _thoughts(piece: Piece) -> str:
    return "".join(part.text for part in piece.parts if isinstance(part, Thought))


def _calls(piece: Piece) -> list[Call]:
    """What each call grew by, as one."""
    return [part for part in joined(piece.parts) if isinstance(part, Call)]


def _grown(call: Call) -> ToolCallDelta:
    if not call.is_begin:
        return ToolCallDelta(index=call.index, function=CalledFunction(call.arguments))
    return ToolCallDelta(
        index=call.index,
        id=call.id,
        type="function",
        function=CalledFunction(call.arguments, call.name),
    )


def _words(piece: Piece) -> str:
    return "".join(part.text for part in piece.parts if isinstance(part, Words))


def _event(answer: Answer) -> bytes:
    return b"data: " + msgspec.json.encode(answer) + b"\n\n"
