"""Prompts as token ids, whatever form they came in."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from device_runtime.api.errors import invalid, unsupported
from device_runtime.api.requests import MAX_PROMPTS, ContentPart, Message
from device_runtime.chat_template import ChatTemplate, ChatTemplateError
from device_runtime.tokenizer import MANY_TOKENS, Tokenizer

# Longer texts take the tokenizer several milliseconds, in which streams would stand still.
_LONG_TEXT_CHARACTERS = 10_000
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}

Prompt = str | list[int]


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """How a conversation is rendered. `add_special_tokens` None: as the template needs it."""

    add_generation_prompt: bool = True
    add_special_tokens: bool | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)


async def decode_ids(
    tokenizer: Tokenizer, ids: Sequence[int], skip_special_tokens: bool = True
) -> str:
    """The text of token ids, without holding up the event loop for long."""
    if len(ids) < MANY_TOKENS:
        return tokenizer.decode(ids, skip_special_tokens)
    return await asyncio.to_thread(tokenizer.decode, ids, skip_special_tokens)


async def encode_text(tokenizer: Tokenizer, text: str, add_special_tokens: bool) -> list[int]:
    """Token ids of a text, without holding up the event loop for long."""
    if len(text) < _LONG_TEXT_CHARACTERS:
        return tokenizer.encode(text, add_special_tokens)
    return await asyncio.to_thread(tokenizer.encode, text, add_special_tokens)


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
    lists = [item for item in prompt if isinstance(item, list)]
    if len(texts) == len(prompt):
        return list(texts)
    if len(lists) == len(prompt):
        return list(lists)
    raise invalid(
        "prompt", "prompt: expected only texts, only token ids, or only lists of token ids"
    )


async def encode_prompt(
    tokenizer: Tokenizer, prompt: Prompt, add_special_tokens: bool, vocab_size: int
) -> list[int]:
    """Token ids of one prompt of a completion.

    Raises:
        ApiError: 400, no token at all, or a token id outside the vocabulary.
    """
    if isinstance(prompt, str):
        prompt = await encode_text(tokenizer, prompt, add_special_tokens)
    check_ids(prompt, vocab_size, "prompt")
    return prompt


def check_ids(ids: Sequence[int], vocab_size: int, param: str) -> None:
    """Whether a model can read these; a tokenizer may know tokens that the model does not.

    Raises:
        ApiError: 400, no token at all, or a token id outside the vocabulary.
    """
    if not ids:
        raise invalid(param, f"{param}: expected at least one token, got none")
    if max(ids) >= vocab_size:
        raise invalid(param, f"{param}: expected token ids below {vocab_size}, got {max(ids)}")


async def encode_chat(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    messages: Sequence[Message],
    options: ChatOptions,
) -> list[int]:
    """Token ids of a conversation as the model was trained to read it.

    Raises:
        ApiError: 400, a message or part that is not understood, or refused by the template.
    """
    reserved = template.reserved_names & options.variables.keys()
    if reserved:
        name = f"chat_template_kwargs.{min(reserved)}"
        raise invalid(name, f"{name} is not for the request to set")
    plain = [_plain_message(message, place) for place, message in enumerate(messages)]
    try:
        chat = template.render(plain, options.add_generation_prompt, options.variables)
    except ChatTemplateError as error:
        raise invalid("messages", str(error), code="chat_template_failed") from error
    add_special_tokens = options.add_special_tokens
    if add_special_tokens is None:
        add_special_tokens = chat.add_special_tokens
    return await encode_text(tokenizer, chat.text, add_special_tokens)


def _plain_message(message: Message, place: int) -> dict[str, Any]:
    """The message as templates know it: its content is one text."""
    where = f"messages[{place}]"
    role = _ROLES.get(message.role)
    if role is None:
        came = f"expected one of {', '.join(_ROLES)}, got {message.role[:40]!r}"
        raise invalid(f"{where}.role", f"{where}.role: {came}")
    for name in ("tool_calls", "function_call", "audio"):
        if getattr(message, name):
            raise unsupported(f"{where}.{name}", f"{where}.{name} is not supported here")
    plain = {"role": role, "content": _text_of(message, where)}
    if message.name is not None:
        plain["name"] = message.name
    if message.reasoning_content is not None:
        plain["reasoning_content"] = message.reasoning_content
    return plain


def _text_of(message: Message, where: str) -> str:
    if isinstance(message.content, str):
        return message.content
    if message.content is None:
        if message.role == "assistant":
            return ""
        raise invalid(f"{where}.content", f"{where}.content: expected text, got null")
    parts = enumerate(message.content)
    return "\n".join(_part_text(part, f"{where}.content[{place}]") for place, part in parts)


def _part_text(part: ContentPart, where: str) -> str:
    if part.type != "text":
        message = f"{where}.type: expected 'text', got {part.type[:40]!r}; only text is supported"
        raise unsupported(f"{where}.type", message)
    if part.text is None:
        raise invalid(f"{where}.text", f"{where}.text: this field is required", "missing_field")
    return part.text
