"""Prompts as token ids, whatever form they came in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from device_runtime.api.errors import ApiError, TooLongError, invalid, unsupported
from device_runtime.api.request.body import MAX_PROMPTS, ContentPart, Message
from device_runtime.api.request.json_body import check_depth, json_within
from device_runtime.api.request.tool_fields import ToolCall
from device_runtime.api.service import Service
from device_runtime.calling.history import for_template
from device_runtime.calling.words import told_in_words
from device_runtime.text.chat_template import (
    DEVELOPER,
    ChatTemplate,
    ChatTemplateError,
    RenderedChat,
)
from device_runtime.text.control_tokens import ControlTokenError
from device_runtime.text.detokenizer import whole_text
from device_runtime.text.tokenizer import TextTooLongError, encode_within

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}

Prompt = str | list[int]


@dataclass(frozen=True, slots=True)
class EncodedChat:
    """A conversation's text, and its token ids; `begun` is what the answer has said already."""

    text: str
    ids: list[int]
    begun: str = ""


@dataclass(frozen=True, slots=True)
class Opening:
    """How the answer to a conversation begins: as a turn of its own, or where the last one ends."""

    is_prompted: bool = True
    """Whether the template opens the assistant's turn."""
    continues: bool = False
    """Whether the last message goes on instead."""


class OpeningFields(Protocol):
    """The fields of a request that say so."""

    @property
    def messages(self) -> Sequence[Message] | None:
        """The conversation."""
        ...

    @property
    def add_generation_prompt(self) -> bool | None:
        """Whether a turn is opened; None: it is, unless the last message goes on."""
        ...

    @property
    def continue_final_message(self) -> bool | None:
        """Whether the last message goes on."""
        ...


def opening_of(fields: OpeningFields) -> Opening:
    """How the answer begins.

    Raises:
        ApiError: 400, both are wanted, or there is nothing of the assistant's to go on with.
    """
    if not fields.continue_final_message:
        return Opening(fields.add_generation_prompt is not False)
    name = "continue_final_message"
    if fields.add_generation_prompt:
        raise invalid(name, f"{name}: not together with add_generation_prompt")
    last = fields.messages[-1] if fields.messages else None
    if last is None or last.role != "assistant" or last.tool_calls:
        expected = "expected a last message of the assistant, without calls"
        came = "none" if last is None else "calls" if last.tool_calls else repr(last.role[:40])
        raise invalid(name, f"{name}: {expected}, got {came}")
    return Opening(is_prompted=False, continues=True)


def split_prompts(prompt: str | Sequence[str | int | list[int]]) -> list[Prompt]:
    """The prompts of a completion: one text, one list of ids, or a list of either.

    Raises:
        ApiError: 400, the forms are mixed, or there are too many.
    """
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt[0], int):
        ids = [item for item in prompt if isinstance(item, int)]
        if len(ids) == len(prompt):
            return [ids]
    if len(prompt) > MAX_PROMPTS:
        raise invalid(
            "prompt", f"prompt: expected at most {MAX_PROMPTS} prompts, got {len(prompt)}"
        )
    texts = [item for item in prompt if isinstance(item, str)]
    if len(texts) == len(prompt):
        return list(texts)
    lists = [item for item in prompt if isinstance(item, list)]
    if len(lists) == len(prompt):
        return list(lists)
    raise invalid(
        "prompt", "prompt: expected only texts, only token ids, or only lists of token ids"
    )


async def encode_texts(
    service: Service, texts: Sequence[str], add_special_tokens: bool, param: str
) -> list[list[int]]:
    """Token ids of texts, in a thread; what is far beyond the context is not tokenised whole.

    `param` names the field they came in.

    Raises:
        ApiError: 400 `context_length_exceeded`.
        OverloadedError: too many texts wait already.
    """
    tokenizer, max_tokens = service.tokenizer, service.generator.max_context_tokens

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens)

    def encode_all() -> list[list[int]]:
        return [list(encode_within(encode, text, max_tokens)) for text in texts]

    try:
        return await service.text_work.tokenize(sum(map(len, texts)), encode_all)
    except TextTooLongError as error:
        raise _far_too_long(max_tokens, error.num_tokens, param) from error


async def encode_prompts(
    service: Service, prompts: Sequence[Prompt], add_special_tokens: bool
) -> list[list[int]]:
    """Token ids of the prompts of a completion.

    Raises:
        ApiError: 400, no token at all, a token id outside the vocabulary, or far too long a text.
        OverloadedError: too many texts wait already.
    """
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    encoded = iter(await encode_texts(service, texts, add_special_tokens, "prompt"))
    ids = [next(encoded) if isinstance(prompt, str) else prompt for prompt in prompts]
    for each in ids:
        check_ids(each, service.generator.vocab_size, "prompt")
    return ids


def check_ids(ids: Sequence[int], vocab_size: int, param: str) -> None:
    """Whether a model can read these; a tokenizer may know tokens that the model does not.

    Raises:
        ApiError: 400, no token at all, or a token id outside the vocabulary.
    """
    if not ids:
        raise invalid(param, f"{param}: expected at least one token, got none")
    if max(ids) >= vocab_size:
        raise invalid(param, f"{param}: expected token ids below {vocab_size}, got {max(ids)}")


async def text_of(service: Service, prompt: Prompt, ids: list[int]) -> str:
    """The text of a prompt, for the answer that repeats it.

    Raises:
        OverloadedError: too many texts wait already.
    """
    if isinstance(prompt, str):
        return prompt
    tokenizer = service.tokenizer
    return await service.text_work.tokenize(len(ids), lambda: whole_text(tokenizer, ids))


async def encode_chat(
    service: Service,
    messages: Sequence[Message],
    *,
    opening: Opening,
    add_special_tokens: bool | None,
    variables: Mapping[str, Any],
    tools: Sequence[Mapping[str, Any]] = (),
) -> EncodedChat:
    """A conversation as the model was trained to read it.

    `add_special_tokens` None: as the template needs it. Tools are the template's to tell of; where
    it knows of none, they are told in the system's words, and calls and results as text.

    Raises:
        ApiError: 400, a message or part that is not understood, refused by the template, or far
            too long.
        OverloadedError: too many conversations wait already.
    """
    template = service.template
    reserved = template.reserved_names & variables.keys()
    if reserved:
        name = f"chat_template_kwargs.{min(reserved)}"
        raise invalid(name, f"{name} is not for the request to set")
    plain = await _plain_messages(service, messages)
    told, tools = _told(service, plain, tools)
    _check_words(template, told)

    def render() -> RenderedChat:
        return template.render(told, opening.is_prompted, variables, tools, opening.continues)

    try:
        chat = await service.text_work.render(render)
    except ChatTemplateError as error:
        raise invalid("messages", str(error), code="chat_template_failed") from error
    if add_special_tokens is None:
        add_special_tokens = chat.add_special_tokens
    [ids] = await encode_texts(service, [chat.text], add_special_tokens, "messages")
    return EncodedChat(chat.text, ids, _text_of(plain[-1]) if opening.continues else "")


async def _plain_messages(service: Service, messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages as templates know them; what users say without control tokens, if so set."""
    roles = _ROLES
    if service.template.knows_developer:
        roles = {**_ROLES, DEVELOPER: DEVELOPER}
    plain = [_plain_message(message, place, roles) for place, message in enumerate(messages)]
    control = service.control_tokens
    if control is None:
        return plain

    def without() -> list[dict[str, Any]]:
        return [control.without_in(message) for message in plain]

    num_characters = sum(len(_text_of(message)) for message in plain)
    try:
        return await service.text_work.tokenize(num_characters, without)
    except ControlTokenError as error:
        raise invalid("messages", f"messages: {error}") from error


def _text_of(message: Mapping[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)


def _told(
    service: Service,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
) -> tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]]:
    """Messages and tools as the template is to have them."""
    telling, layout = service.telling, service.call_layout
    if telling.by_template is None:
        return told_in_words(messages, tools, layout, telling.has_system), ()
    return for_template(messages, layout, telling.by_template), tools


def _check_words(template: ChatTemplate, messages: Sequence[Mapping[str, Any]]) -> None:
    """The user's words may not vanish: an answer to nothing looks like an answer."""
    if "user" in template.leaves_out and any(
        message["role"] == "user" and message["content"] for message in messages
    ):
        reason = "the model's chat template leaves out what the user says"
        raise invalid("messages", reason, code="chat_template_failed")


def _far_too_long(max_tokens: int, num_tokens: int, param: str) -> ApiError:
    message = (
        f"This model's maximum context length is {max_tokens} tokens. However, the first part of "
        f"your prompt alone has {num_tokens} tokens. Please reduce the length of the prompt."
    )
    return TooLongError(param, message, num_tokens, max_tokens)


def _plain_message(message: Message, place: int, roles: Mapping[str, str]) -> dict[str, Any]:
    """The message as templates know it: its content is a text, or parts that are texts."""
    where = f"messages[{place}]"
    role = roles.get(message.role)
    if role is None:
        came = f"expected one of {', '.join(_ROLES)}, got {message.role[:40]!r}"
        raise invalid(f"{where}.role", f"{where}.role: {came}")
    for name in ("function_call", "audio"):
        if getattr(message, name):
            raise unsupported(f"{where}.{name}", f"{where}.{name} is not supported here")
    plain: dict[str, Any] = {"role": role, "content": _content_of(message, where)}
    if message.name is not None:
        plain["name"] = message.name
    if message.tool_calls:
        if message.role != "assistant":
            expected = f"{where}.tool_calls: only allowed in the assistant's messages"
            raise invalid(f"{where}.tool_calls", expected)
        calls = enumerate(message.tool_calls)
        plain["tool_calls"] = [_plain_call(c, f"{where}.tool_calls[{n}]") for n, c in calls]
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    thoughts = message.reasoning if message.reasoning is not None else message.reasoning_content
    if thoughts is not None:
        # The names by which templates know them; transformers gives all three as well.
        plain |= dict.fromkeys(("reasoning_content", "reasoning", "thinking"), thoughts)
    return plain


def _plain_call(call: ToolCall, where: str) -> dict[str, Any]:
    """A call as templates know it: its arguments are an object.

    Raises:
        ApiError: 400, arguments that are none.
    """
    arguments = call.function.arguments
    if isinstance(arguments, str):
        try:
            arguments = json_within(arguments) if arguments else {}
        except ValueError:
            arguments = None
    elif arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        where = f"{where}.function.arguments"
        raise invalid(where, f"{where}: expected a JSON object as a text")
    check_depth(arguments, f"{where}.function.arguments")
    function = {"name": call.function.name, "arguments": arguments}
    return {"type": "function", "id": call.id or "", "function": function}


def _content_of(message: Message, where: str) -> str | list[dict[str, str]]:
    if isinstance(message.content, str):
        return message.content
    if message.content is None:
        if message.role == "assistant":
            return message.refusal or ""
        raise invalid(f"{where}.content", f"{where}.content: expected text, got null")
    parts = enumerate(message.content)
    texts = [_part_text(part, f"{where}.content[{place}]") for place, part in parts]
    return [{"type": "text", "text": text} for text in texts]


def _part_text(part: ContentPart, where: str) -> str:
    if part.type == "refusal" and part.refusal is not None:
        return part.refusal
    if part.type != "text":
        message = f"{where}.type: expected 'text', got {part.type[:40]!r}; only text is supported"
        raise unsupported(f"{where}.type", message)
    if part.text is None:
        raise invalid(f"{where}.text", f"{where}.text: this field is required", "missing_field")
    return part.text
