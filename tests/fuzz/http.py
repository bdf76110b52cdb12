"""Bodies of requests: any of them is a request, or a refusal by name that its API can write down.

Bytes choose the API and its fields, and values for them: right ones, wrong ones, and whole texts of
JSON that is none. What a body means is read on into the words of the chat API.
"""

import json
from collections.abc import Callable
from typing import Any

import msgspec

from device_runtime.api.anthropic.chat import chat_of as chat_of_messages
from device_runtime.api.anthropic.request import CountRequest, MessagesRequest
from device_runtime.api.anthropic.shape import envelope as anthropic_envelope
from device_runtime.api.errors import ApiError
from device_runtime.api.job.prompts import split_prompts
from device_runtime.api.ollama.request import (
    GenerateRequest,
    OllamaChatRequest,
    ShowRequest,
    prompt_of,
)
from device_runtime.api.ollama.request import chat_of as chat_of_ollama
from device_runtime.api.ollama.shape import envelope as ollama_envelope
from device_runtime.api.request.body import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
    decode_request,
)
from device_runtime.api.request.tool_fields import offer_of
from device_runtime.api.responses.conversation import placed
from device_runtime.api.responses.plan import chat_of as chat_of_response
from device_runtime.api.responses.request import ResponsesRequest
from tests.fuzz.draws import Draws

Kind = type[msgspec.Struct]


def _chat(request: ChatRequest) -> None:
    offer_of(request)


def _response(request: ResponsesRequest) -> None:
    _chat(chat_of_response(request, list(placed((), request.input))))


def _messages(request: CountRequest) -> None:
    _chat(chat_of_messages(request))
    _chat(chat_of_messages(request, folds_system=True))


def _ollama(request: OllamaChatRequest) -> None:
    # Without messages it is asked to load the model, and nothing more is read.
    if request.messages:
        _chat(chat_of_ollama(request))


READERS: dict[Kind, Callable[[Any], object]] = {
    ChatRequest: _chat,
    CompletionRequest: lambda request: split_prompts(request.prompt),
    TokenizeRequest: lambda request: None,
    DetokenizeRequest: lambda request: None,
    ResponsesRequest: _response,
    MessagesRequest: _messages,
    CountRequest: _messages,
    OllamaChatRequest: _ollama,
    GenerateRequest: prompt_of,
    ShowRequest: lambda request: None,
}
KINDS = list(READERS)
FIELDS = {kind: [field.encode_name for field in msgspec.structs.fields(kind)] for kind in KINDS}
ENVELOPES = (ApiError.encode, anthropic_envelope, ollama_envelope)

WORDS = (
    *("user", "assistant", "system", "tool", "developer", "text", "hello", "", "auto", "none"),
    *("function", "json_object", "json_schema", "object", "string", "required", "any", "\ud800"),
    *("input_text", "output_text", "message", "function_call", "function_call_output", "tool_use"),
    *(
        "tool_result",
        "thinking",
        "reasoning",
        "item_reference",
        "image",
        "call_1",
        "{}",
        '{"a": 1}',
    ),
    *("[DONE]", "\0", "<|im_end|>", "1" * 400, "none ", "detailed", "enabled", "disabled", "json"),
)
NAMES = (
    *("role", "content", "type", "text", "name", "id", "function", "arguments", "parameters"),
    *("tool_calls", "tool_call_id", "call_id", "output", "input", "properties", "schema", "strict"),
    *("tool_use_id", "thinking", "summary", "format", "options", "num_predict", "stop", "items"),
    *("json_schema", "description", "input_schema", "budget_tokens", "is_error", "signature"),
)
NUMBERS = (0, 1, -1, 7, 2**31, 2**63, -(2**63), 10**400, 0.5, 1.0, 1e308, -0.0)
ODD = (b"NaN", b"1e999", b"-", b"{", b"[", b'"', b"\xff", b"\xef\xbb\xbf{}", b"\\ud800", b"nul")
MAX_DEPTH = 5


def _value(draws: Draws, depth: int = 0) -> Any:
    what = draws.number(0, 9 if depth < MAX_DEPTH else 5)
    match what:
        case 0:
            return None
        case 1:
            return draws.flag()
        case 2:
            return draws.pick(NUMBERS)
        case 3 | 4:
            return draws.pick(WORDS)
        case 5:
            return draws.noise(8).decode("latin-1")
        case 6:
            return [_value(draws, depth + 1) for _ in range(draws.number(0, 3))]
        case 7:
            return [_message(draws, depth + 1) for _ in range(draws.number(1, 3))]
        case _:
            names = [draws.pick(NAMES) for _ in range(draws.number(0, 4))]
            return {name: _value(draws, depth + 1) for name in names}


def _message(draws: Draws, depth: int) -> dict[str, Any]:
    """What most APIs have in lists: something with a role or a type, and with content."""
    made = {"role": draws.pick(WORDS[:5]), "content": _value(draws, depth)}
    if draws.one_in(2):
        made["type"] = draws.pick(WORDS)
    for _ in range(draws.number(0, 2)):
        made[draws.pick(NAMES)] = _value(draws, depth)
    return made


def json_of(value: Any, is_ascii: bool) -> bytes:
    """A value as clients write it, halves of characters as well."""
    return json.dumps(value, ensure_ascii=is_ascii).encode(errors="surrogatepass")


def body_of(draws: Draws, kind: Kind) -> bytes:
    """A body for this kind of request."""
    fields = {draws.pick(FIELDS[kind]): _value(draws) for _ in range(draws.number(0, 5))}
    for name in ("messages", "input", "prompt", "model", "max_tokens"):
        if name in FIELDS[kind] and draws.flag():
            words = {"model": "story", "max_tokens": 5, "prompt": "Once"}
            fields[name] = words.get(name) or [_message(draws, 1)]
    body = json_of(fields, draws.flag())
    if draws.one_in(8):
        place = draws.number(0, len(body))
        body = body[:place] + draws.pick(ODD) + body[place:]
    return draws.mutated(body) if draws.one_in(8) else body


def check(data: bytes) -> int:
    """Read a body; one.

    Raises:
        Exception: something else than an ApiError of a client's fault escaped.
    """
    draws = Draws(bytes(data))
    kind = draws.pick(KINDS)
    error = _refusal(draws, kind)
    if error is not None:
        assert 400 <= error.status < 500, error.status
        for envelope in ENVELOPES:
            assert isinstance(json.loads(envelope(error)), dict)
    return 1


def _refusal(draws: Draws, kind: Kind) -> ApiError | None:
    try:
        READERS[kind](decode_request(body_of(draws, kind), kind))
    except ApiError as error:
        return error
    return None


def seeds() -> list[bytes]:
    """Bytes to begin with."""
    return [bytes((place * 31 + number) % 256 for place in range(120)) for number in range(16)]


def mutated(data: bytes) -> bytes:
    """As they are: every byte is a choice."""
    return data
