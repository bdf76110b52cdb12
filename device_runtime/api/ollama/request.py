"""What clients of Ollama's API send, and the same as a conversation of the chat API's."""

import re
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from msgspec import Meta, Struct

from device_runtime.api.errors import invalid, unsupported
from device_runtime.api.request.body import MAX_MESSAGES, ChatRequest, CompletionRequest, Message
from device_runtime.api.request.formats import JsonSchemaFormat, ResponseFormat
from device_runtime.api.request.places import Places
from device_runtime.api.request.tool_fields import FunctionCall, ToolCall, Tools

PLACES: Places = {
    re.compile(r"stop(?=:)"): "options.stop",
    re.compile(r"response_format\.json_schema\.schema"): "format",
    re.compile("max_tokens(?= ended)"): "num_predict",
}
"""Fields of the chat API as this one calls them."""

_TAG = ":latest"

_OTHER_SAMPLERS = {"mirostat": 0, "tfs_z": 1, "typical_p": 1}
"""Options of other ways to sample, with the value that means nothing."""


class Options(Struct, frozen=True):
    """`options`; those about memory and hardware are not this request's to say."""

    temperature: Annotated[float, Meta(ge=0.0, le=2.0)] | None = None
    top_p: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    num_predict: Annotated[int, Meta(ge=-2, le=2**31 - 1)] | None = None
    stop: str | list[Annotated[str, Meta(min_length=1)]] | None = None
    repeat_penalty: Annotated[float, Meta(gt=0.0, le=10.0)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2.0, le=2.0)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2.0, le=2.0)] | None = None
    mirostat: float | None = None
    tfs_z: float | None = None
    typical_p: float | None = None


class Called(Struct, frozen=True):
    """A function of an earlier call; its arguments are an object."""

    name: str
    arguments: Any = None


class Call(Struct, frozen=True):
    """A call in an earlier answer."""

    function: Called
    id: str | None = None


class Turn(Struct, frozen=True):
    """An entry of `messages`."""

    role: Annotated[str, Meta(extra_json_schema={"enum": ["system", "user", "assistant", "tool"]})]
    content: str | None = None
    images: Any = None
    thinking: str | None = None
    tool_calls: list[Call] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class CommonFields(Struct, frozen=True, kw_only=True):
    """Fields of both kinds of request. Answers are streamed unless told otherwise."""

    model: str | None = None
    stream: bool | None = None
    format: Any = None
    options: Options | None = None
    think: bool | str | None = None
    logprobs: bool | None = None

    @property
    def is_streamed(self) -> bool:
        """Whether the answer comes in pieces."""
        return self.stream is not False


class OllamaChatRequest(CommonFields, frozen=True, kw_only=True):
    """The body of POST /api/chat. Without messages a client only wants the model loaded."""

    messages: Annotated[list[Turn], Meta(max_length=MAX_MESSAGES)] | None = None
    tools: Tools | None = None


class GenerateRequest(CommonFields, frozen=True, kw_only=True):
    """The body of POST /api/generate."""

    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    raw: bool | None = None
    images: Any = None
    context: Any = None


class ShowRequest(Struct, frozen=True, kw_only=True):
    """The body of POST /api/show."""

    model: str | None = None
    name: str | None = None
    verbose: bool | None = None


class RawPrompt(CompletionRequest, frozen=True, kw_only=True):
    """A text that is continued as it is, for as long as there is room."""

    default_tokens: ClassVar[int | None] = None


def served_name(model: str | None, names: Sequence[str]) -> str | None:
    """A model's name without the tag that clients of Ollama put behind it, unless it has one."""
    return model if model is None or model in names else model.removesuffix(_TAG)


def chat_of(request: OllamaChatRequest) -> ChatRequest:
    """The same in the chat API's words.

    Raises:
        ApiError: 400, something that is not text, calls or results.
    """
    messages = [
        _message(turn, f"messages[{place}]") for place, turn in enumerate(request.messages or ())
    ]
    return _chat(request, messages, request.tools)


def prompt_of(request: GenerateRequest) -> ChatRequest | CompletionRequest:
    """A text as one turn of a conversation, or as it is if it is raw.

    Raises:
        ApiError: 400, something that is not supported.
    """
    for name in ("suffix", "template", "images", "context"):
        if getattr(request, name):
            raise unsupported(name, f"{name} is not supported here; leave it out")
    if request.raw:
        if request.system:
            raise invalid("system", "system: not allowed beside raw, which is sent as it is")
        chat = _chat(request, [Message("user", "")], None)
        common = {name: getattr(chat, name) for name in _SHARED}
        return RawPrompt(prompt=request.prompt or "", **common)
    messages = [Message("user", request.prompt or "")]
    if request.system:
        messages.insert(0, Message("system", request.system))
    return _chat(request, messages, None)


_SHARED = (
    "model",
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "response_format",
    "stream",
    "include_hat_stats",
)


def _chat(request: CommonFields, messages: Sequence[Message], tools: Tools | None) -> ChatRequest:
    options = request.options or Options()
    _check(request, options)
    wanted = options.num_predict
    thinks = request.think
    return ChatRequest(
        model=request.model,
        messages=list(messages),
        # An answer that the client has begun goes on.
        continue_final_message=_has_begun(messages[-1]) or None,
        tools=tools or None,
        # A negative number is no bound.
        max_tokens=wanted if wanted is not None and wanted > 0 else None,
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=options.top_k,
        min_p=options.min_p,
        seed=options.seed,
        stop=options.stop or None,
        repetition_penalty=options.repeat_penalty,
        presence_penalty=options.presence_penalty,
        frequency_penalty=options.frequency_penalty,
        response_format=_format(request.format),
        reasoning_effort=thinks if isinstance(thinks, str) else None,
        chat_template_kwargs=None if thinks is None else {"enable_thinking": bool(thinks)},
        stream=request.is_streamed,
        # Every answer says how long its parts took.
        include_hat_stats=True,
    )


def _has_begun(last: Message) -> bool:
    return last.role == "assistant" and not last.tool_calls


def _check(request: CommonFields, options: Options) -> None:
    """Refuse what would change the answer and is not there."""
    for name, neutral in _OTHER_SAMPLERS.items():
        if getattr(options, name) not in (None, neutral):
            where = f"options.{name}"
            message = f"{where} is not supported here; leave it out or send {neutral}"
            raise unsupported(where, message)
    if request.logprobs:
        raise unsupported("logprobs", "logprobs is not supported here; /v1/chat/completions has it")


def _format(given: Any) -> ResponseFormat | None:
    if given is None or given == "":
        return None
    if given == "json":
        return ResponseFormat("json_object")
    if not isinstance(given, dict):
        raise invalid("format", 'format: expected "json" or a JSON schema')
    return ResponseFormat("json_schema", JsonSchemaFormat(schema=given))


def _message(turn: Turn, where: str) -> Message:
    if turn.images:
        message = f"{where}.images: only text is supported here"
        raise unsupported(f"{where}.images", message)
    calls = [
        ToolCall(FunctionCall(call.function.name, call.function.arguments or {}), call.id)
        for call in turn.tool_calls or ()
    ]
    return Message(
        turn.role,
        turn.content or "",
        name=turn.tool_name,
        reasoning=turn.thinking,
        tool_calls=calls or None,
        tool_call_id=turn.tool_call_id,
    )
