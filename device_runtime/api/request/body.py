"""What clients may send, and how it is read: types and ranges of every field that is understood.

Fields not named here or in `refused_fields` are ignored, as clients of many servers send them.
`null` is the same as leaving a field out.
"""

import asyncio
import gc
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import msgspec
from aiohttp import hdrs, web
from aiohttp.http import HttpVersion11
from msgspec import Meta, Struct

from device_runtime.api.errors import ApiError, invalid
from device_runtime.api.request.formats import FREE_FIELDS, FormatFields
from device_runtime.api.request.json_body import (
    with_whole_characters,
    with_whole_numbers,
    without_mark,
)
from device_runtime.api.request.refused_fields import check_refused
from device_runtime.api.request.tool_fields import ToolCall, Tools
from process.listening.patient_handler import unproven

# Bounds on counts and lengths, checked while decoding, before anything is allocated for them.
MAX_N = 128
MAX_PROMPTS = 64
MAX_MESSAGES = 4096
MAX_PARTS = 256
MAX_CALLS = 512
MAX_STOP_TOKEN_IDS = 256
MAX_LOGIT_BIASES = 1024
MAX_ALLOWED_TOKEN_IDS = 1 << 18
MAX_BAD_WORDS = 256
MAX_TOP_LOGPROBS = 20
MAX_TEMPLATE_VARIABLES = 64

TIMELINE = "timeline"
"""The value of `include_hat_stats` that asks for the timeline beside the figures."""

ROUNDS = "rounds"
"""The value that asks for the timeline, and in a stream for what each round decided."""

_Penalty = Annotated[float, Meta(ge=-2.0, le=2.0)]
_NumTokens = Annotated[int, Meta(ge=1, le=2**31 - 1)]
_NumTopLogprobs = Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)]
_Stop = Annotated[str, Meta(min_length=1)]
_TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
# Checked where messages are read, with more to say about it; here it is only described.
_Role = Annotated[
    str,
    Meta(extra_json_schema={"enum": ["system", "developer", "user", "assistant", "tool"]}),
]
_AllowedIds = Annotated[list[_TokenId], Meta(min_length=1, max_length=MAX_ALLOWED_TOKEN_IDS)]
_BadWord = Annotated[str, Meta(min_length=1, max_length=256)]
_BadWords = Annotated[list[_BadWord], Meta(max_length=MAX_BAD_WORDS)]


class StreamOptions(Struct, frozen=True):
    """What a stream says about usage: a last event with it, or every event with it."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class CommonFields(FormatFields, frozen=True, kw_only=True):
    """Fields of both kinds of request."""

    model: str | None = None
    max_tokens: _NumTokens | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    temperature: Annotated[float, Meta(ge=0.0, le=2.0)] | None = None
    top_p: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    repetition_penalty: Annotated[float, Meta(gt=0.0, le=10.0)] | None = None
    logit_bias: Annotated[dict[str, Any], Meta(max_length=MAX_LOGIT_BIASES)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_N)] | None = None
    stop: _Stop | list[_Stop] | None = None
    stop_token_ids: Annotated[list[_TokenId], Meta(max_length=MAX_STOP_TOKEN_IDS)] | None = None
    ignore_eos: bool | None = None
    allowed_token_ids: _AllowedIds | None = None
    bad_words: _BadWords | None = None
    prompt_logprobs: _NumTopLogprobs | None = None
    skip_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    return_token_ids: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    include_hat_stats: bool | Literal["timeline", "rounds"] | None = None
    store: bool | None = None
    add_special_tokens: bool | None = None


class ContentPart(Struct, frozen=True):
    """A part of a message's content; only text is understood, that of a refusal too."""

    type: str
    text: str | None = None
    refusal: str | None = None


class Message(Struct, frozen=True):
    """A message of a conversation. What is not supported is named so that it can be refused."""

    role: _Role
    content: str | Annotated[list[ContentPart], Meta(max_length=MAX_PARTS)] | None = None
    name: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: Annotated[list[ToolCall], Meta(max_length=MAX_CALLS)] | None = None
    tool_call_id: str | None = None
    function_call: Any = None
    audio: Any = None


Messages = Annotated[list[Message], Meta(min_length=1, max_length=MAX_MESSAGES)]
TemplateVariables = Annotated[dict[str, Any], Meta(max_length=MAX_TEMPLATE_VARIABLES)]


class ChatRequest(CommonFields, frozen=True, kw_only=True):
    """The body of POST /v1/chat/completions."""

    prompt_field: ClassVar[str] = "messages"
    default_tokens: ClassVar[int | None] = None
    """So many are generated unless the client says how many; None: what the context holds."""

    messages: Messages
    tools: Tools | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    max_completion_tokens: _NumTokens | None = None
    logprobs: bool | None = None
    top_logprobs: _NumTopLogprobs | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: TemplateVariables | None = None
    reasoning_effort: str | None = None
    enable_thinking: bool | None = None

    @property
    def asked_tokens(self) -> int | None:
        """How many tokens the client wants; None: as many as there is room for."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def num_logprobs(self) -> int | None:
        """How many alternatives of each token; None: no log probabilities at all."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def num_prompt_logprobs(self) -> int | None:
        """The same of the prompt."""
        return self.prompt_logprobs

    @property
    def is_echo_scored(self) -> bool:
        """Whether log probabilities are those of the prompt too, as they cannot be here."""
        return False

    @property
    def template_variables(self) -> dict[str, Any]:
        """What the template is told of thoughts by the fields' names, unless it is told already.

        Most templates know a switch and no effort, so no effort turns it off.
        """
        variables = dict(self.chat_template_kwargs or {})
        if self.enable_thinking is not None:
            variables.setdefault("enable_thinking", self.enable_thinking)
        if self.reasoning_effort == "none":
            variables.setdefault("enable_thinking", False)
        if self.reasoning_effort is not None:
            variables.setdefault("reasoning_effort", self.reasoning_effort)
        return variables


class CompletionRequest(CommonFields, frozen=True, kw_only=True):
    """The body of POST /v1/completions."""

    prompt_field: ClassVar[str] = "prompt"
    default_tokens: ClassVar[int | None] = 16
    """As OpenAI has it for completions; chat has none."""

    max_tokens: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    """0 asks about the prompt alone."""
    prompt: str | Annotated[list[str | _TokenId | list[_TokenId]], Meta(min_length=1)]
    logprobs: _NumTopLogprobs | None = None
    echo: bool | None = None

    @property
    def asked_tokens(self) -> int | None:
        """How many tokens the client wants; None: the default."""
        return self.max_tokens

    @property
    def num_logprobs(self) -> int | None:
        """How many alternatives of each token; None: no log probabilities at all."""
        return self.logprobs

    @property
    def is_echo_scored(self) -> bool:
        """Whether log probabilities are those of the prompt too: it is part of the text."""
        return bool(self.echo) and self.logprobs is not None

    @property
    def num_prompt_logprobs(self) -> int | None:
        """How many alternatives of each token of the prompt; None: nobody asks."""
        if not self.is_echo_scored:
            return self.prompt_logprobs
        return max(self.logprobs or 0, self.prompt_logprobs or 0)


class TokenizeRequest(Struct, frozen=True, kw_only=True):
    """The body of POST /tokenize: a text or a conversation."""

    model: str | None = None
    prompt: str | None = None
    messages: Messages | None = None
    tools: Tools | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: TemplateVariables | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(Struct, frozen=True, kw_only=True):
    """The body of POST /detokenize."""

    model: str | None = None
    tokens: list[_TokenId]


RequestT = TypeVar("RequestT", bound=Struct)

# A longer body can hold enough to keep streams and probes waiting while it is looked through.
_LONG_BODY_BYTES = 32 << 10

# What templates see is left as it came, and so are schemas.
_FREE_FIELDS = FREE_FIELDS | {
    "chat_template_kwargs",
    "format",
    "output_config",
    "output_format",
    "text",
    "tools",
}


async def read_request(request: web.Request, kind: type[RequestT], within_s: float) -> RequestT:
    """The body as a request. Any content type but a form with files is read as JSON.

    Raises:
        ApiError: 400, 408 or 415.
        HTTPRequestEntityTooLarge: the body is longer than the server takes.
    """
    if request.content_type.startswith("multipart/"):
        message = f"expected application/json, got {request.content_type[:60]}"
        raise ApiError(415, message, code="unsupported_media_type")
    _ask_for_body(request)
    try:
        with unproven(request):
            async with asyncio.timeout(within_s):
                body = await request.read()
    except TimeoutError as error:
        message = f"the request body did not come within {within_s:g} s"
        raise ApiError(408, message, code="request_timeout") from error
    except web.RequestPayloadError as error:
        message = "the request body ended too early, or does not fit its Transfer-Encoding"
        raise invalid(None, message, code="invalid_body") from error
    if len(body) < _LONG_BODY_BYTES:
        return decode_request(body, kind)
    return await asyncio.to_thread(_decode_long, body, kind)


def _ask_for_body(request: web.Request) -> None:
    """Tell a client that waits for it to go on.

    Raises:
        HTTPRequestEntityTooLarge: its body would be longer than the server takes. A client that
            does not wait is told later: it would not read the answer while it sends.
    """
    waits = request.version >= HttpVersion11 and hdrs.EXPECT in request.headers
    if waits and request.transport is not None and not request.content.is_eof():
        num_bytes = request.content_length or 0
        if num_bytes > request.client_max_size:
            raise web.HTTPRequestEntityTooLarge(request.client_max_size, num_bytes)
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def _decode_long(body: bytes, kind: type[RequestT]) -> RequestT:
    """The request in a long body, in a thread.

    The decoder keeps Python's interpreter lock, and what makes it slow is the collector: for each
    of half a million empty lists it would look at all the others again.
    """
    was_collecting = gc.isenabled()
    gc.disable()
    try:
        return decode_request(body, kind)
    finally:
        if was_collecting:
            gc.enable()


def decode_request(body: bytes, kind: type[RequestT]) -> RequestT:
    """The request in a body.

    Raises:
        ApiError: 400: no JSON object, a known field of a wrong type or out of range, or a field
            that is refused because it would change the meaning of the answer.
    """
    body = without_mark(body)
    try:
        try:
            return _decode(body, kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            repaired = with_whole_characters(body)
            if repaired == body or isinstance(error, msgspec.ValidationError):
                raise
            return _decode(repaired, kind)
    except msgspec.ValidationError as error:
        raise _described(str(error), with_whole_characters(body)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f"the request body is not valid JSON: {error}"
        raise invalid(None, message, code="invalid_json") from error


def _decode(body: bytes, kind: type[RequestT]) -> RequestT:
    """The request in a body of JSON; errors are those of msgspec."""
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    check_refused(fields, is_chat=kind is ChatRequest)
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        if "got `float`" not in str(error):
            raise
    known = {field.name for field in msgspec.structs.fields(kind)}
    return msgspec.convert(
        {name: _value(name, raw) for name, raw in fields.items() if name in known}, kind
    )


def _value(name: str, raw: msgspec.Raw) -> Any:
    """A field's value; where it is the request's, whole numbers are integers."""
    try:
        value = msgspec.json.decode(raw)
    except msgspec.ValidationError as error:
        problem = str(error).partition(" - at `")[0]
        raise msgspec.ValidationError(f"{problem} - at `$.{name}`") from error
    return value if name in _FREE_FIELDS else with_whole_numbers(value)


def _described(problem: str, body: bytes) -> ApiError:
    """The validator's words, with the field first and what came last."""
    problem, _, path = problem.partition(" - at `")
    path = path.rstrip("`").removeprefix("key` in `").removeprefix("$").removeprefix(".")
    path = path.removesuffix("[...]")
    if not path:
        if "missing required field" in problem:
            name = problem.split("`")[1]
            return invalid(name, f"{name}: this field is required", code="missing_field")
        return invalid(None, f"the request body: {_lowered(problem)}")
    came = _came(body, path)
    if came or ", got " not in problem:
        problem = problem.partition(", got ")[0] + came
    return invalid(path, f"{path}: {_lowered(problem)}")


def _lowered(problem: str) -> str:
    return problem[:1].lower() + problem[1:]


def _came(body: bytes, path: str) -> str:
    """The number at a plain path, as it was written, for an error about its range."""
    value = bytes(msgspec.json.decode(body, type=dict[str, msgspec.Raw]).get(path, msgspec.Raw()))
    is_number = value[:1].isdigit() or value[:1] == b"-"
    return f", got {value.decode()}" if is_number and len(value) <= 40 else ""
