"""What is sent: the documents and chunks of OpenAI's API, in its own field order."""

from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from device_runtime.api.answer.logprobs import TokenLogprob
from device_runtime.api.figures import HatFigures, LoneAnswers, LoneMark, RoundFigures
from device_runtime.generation.parts import AnswerEnd


class PromptTokensDetails(msgspec.Struct, frozen=True):
    """Tokens of prompts that an earlier request had left in the caches."""

    cached_tokens: int


class CompletionTokensDetails(msgspec.Struct, frozen=True):
    """Tokens of answers by what they are: those of thoughts."""

    reasoning_tokens: int


class Usage(msgspec.Struct, frozen=True):
    """Tokens of all prompts, each once, and of all choices."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails | UnsetType = UNSET
    """Of a model that thinks."""


class ChatLogprobs(msgspec.Struct, frozen=True):
    """Log probabilities in the shape of chat completions."""

    content: list[TokenLogprob]
    refusal: None = None


class CompletionLogprobs(msgspec.Struct, frozen=True):
    """Log probabilities in the shape of completions: parallel lists."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class PromptLogprob(msgspec.Struct, frozen=True):
    """A token at one place of a prompt, in vLLM's shape: so many tokens are as likely, or more."""

    logprob: float
    rank: int
    decoded_token: str


PromptLogprobs = list[dict[str, PromptLogprob] | None]


class CalledFunction(msgspec.Struct, frozen=True):
    """A function's name and its arguments as JSON; in a stream the name comes first, once."""

    arguments: str
    name: str | UnsetType = UNSET


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call of a tool."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ToolCallDelta(msgspec.Struct, frozen=True, kw_only=True):
    """What a call grew by; the id and the type come with its beginning."""

    index: int
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET
    function: CalledFunction


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True):
    """The assistant's message. With calls and no words its content is null."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    reasoning: str | UnsetType = UNSET
    """What it thought before; `reasoning_content` is the same by the name that was used before."""
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET


class ChatChoice(msgspec.Struct, frozen=True):
    """One answer of a chat completion."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: AnswerEnd | None
    token_ids: Sequence[int] | UnsetType = UNSET


class ChatDelta(msgspec.Struct, frozen=True, kw_only=True):
    """What a message grew by; the role comes with its first piece, nothing with its end."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType | None = UNSET
    reasoning: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET


class ChatChunkChoice(msgspec.Struct, frozen=True):
    """One answer's part of a chunk."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: AnswerEnd | None
    token_ids: Sequence[int] | UnsetType = UNSET


class CompletionChoice(msgspec.Struct, frozen=True):
    """One answer of a completion, or its part of a chunk."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: AnswerEnd | None
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET
    prompt_token_ids: Sequence[int] | UnsetType = UNSET
    token_ids: Sequence[int] | UnsetType = UNSET


ObjectKind = Literal["chat.completion", "chat.completion.chunk", "text_completion"]
AnswerChoice = ChatChoice | ChatChunkChoice | CompletionChoice


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a request, whole or as one event of its stream."""

    id: str
    object: ObjectKind
    created: int
    model: str
    system_fingerprint: str
    choices: Sequence[AnswerChoice]
    usage: Usage | UnsetType | None = UNSET
    """In an event None says that the numbers come at the end."""
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET
    prompt_token_ids: Sequence[int] | UnsetType = UNSET
    """Both of chat; completions have them in each choice, as vLLM does."""
    hat: HatFigures | RoundFigures | LoneMark | UnsetType = UNSET
    """What the request took, if the client wants to know; in an event also what it decided. Always
    there where the draft model answers alone."""


class SamplingDefault(msgspec.Struct, frozen=True):
    """What a field has that a request leaves out, and where that is from."""

    value: float
    source: str


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the model list, for OpenAI's clients and for Anthropic's."""

    id: str
    object: Literal["model"] = "model"
    type: Literal["model"] = "model"
    """From here to `lifecycle` as Anthropic's clients read it."""
    display_name: str
    created_at: str
    max_input_tokens: int
    max_tokens: int
    lifecycle: Literal["active"] = "active"
    created: int
    owned_by: str = "hat"
    root: str
    parent: None = None
    max_model_len: int
    sampling_defaults: dict[str, SamplingDefault]
    lossy_codecs: dict[str, str] | UnsetType = UNSET
    """Which rows may be rounded on the link, if any; then answers are not quite the model's."""
    when_cloud_gone: LoneAnswers | UnsetType = UNSET
    """There where the draft model answers alone while there is no cloud."""


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """All models, which is one under all its names."""

    object: Literal["list"] = "list"
    data: list[Model]
    has_more: Literal[False] = False
    """This and the ids are for Anthropic's clients; all models are on one page."""
    first_id: str
    last_id: str
