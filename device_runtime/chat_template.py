"""A conversation as one text, by the model's own template."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import msgspec
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from submodels.errors import BundleError

PLAIN_TEMPLATE = "{{ messages | map(attribute='content') | join('\\n') }}"
"""For a model without a template, so a base model: it continues the messages, one per line."""

_RENDER_ERRORS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)

_RESERVED_NAMES = ("messages", "add_generation_prompt", "tools", "documents")

TEMPLATE_FILE = "chat_template.jinja"
CONFIG_FILE = "tokenizer_config.json"


class ChatTemplateError(ValueError):
    """The template cannot render this conversation; the message says why and is safe to show."""


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """The text of a conversation, and whether the tokenizer still has to add special tokens."""

    text: str
    add_special_tokens: bool


class ChatTemplate:
    """A compiled template with the names and functions that templates of models rely on.

    Source of these names: "Chat templates" in the documentation of transformers.
    """

    def __init__(
        self,
        source: str | None,
        special_tokens: Mapping[str, str],
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        """Compile a template; None is the plain one.

        Raises:
            ChatTemplateError: it does not compile.
        """
        self.is_plain = source is None
        self._special_tokens = dict(special_tokens)
        environment = _environment(now)
        try:
            self._template = environment.from_string(PLAIN_TEMPLATE if source is None else source)
        except jinja2.TemplateError as error:
            raise ChatTemplateError(f"the chat template does not compile: {error}") from error

    @property
    def reserved_names(self) -> frozenset[str]:
        """Names a client may not set, since they are this side's to set."""
        return frozenset({*_RESERVED_NAMES, *self._special_tokens})

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> RenderedChat:
        """The conversation as the model was trained to read it.

        A model's template writes its special tokens itself, so the tokenizer must add none: the
        beginning would be there twice. The plain template leaves them to the tokenizer.

        Raises:
            ChatTemplateError: the template refused the messages or failed on them.
        """
        names: dict[str, Any] = {"tools": None, "documents": None}
        names |= {**(variables or {}), **self._special_tokens}
        try:
            text = self._template.render(
                names, messages=list(messages), add_generation_prompt=add_generation_prompt
            )
        except _RENDER_ERRORS as error:
            raise ChatTemplateError(f"the model's chat template failed: {error}") from error
        return RenderedChat(text, add_special_tokens=self.is_plain)


def load_chat_template(folder: Path) -> ChatTemplate:
    """The template of a bundle: chat_template.jinja, else tokenizer_config.json's, else plain.

    Raises:
        BundleError: the files cannot be read, or the template does not compile.
    """
    try:
        config = _read_config(folder / CONFIG_FILE)
        template_path = folder / TEMPLATE_FILE
        if template_path.is_file():
            source: str | None = template_path.read_text(encoding="utf-8")
        else:
            source = _default_template(config.get("chat_template"))
        return ChatTemplate(source, _special_tokens(config))
    except (OSError, UnicodeDecodeError, msgspec.DecodeError, ChatTemplateError) as error:
        raise BundleError(f"{folder}: {error}") from error


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])


def _default_template(value: object) -> str | None:
    """The template of a tokenizer configuration: a string, or a list of named ones."""
    if isinstance(value, list):
        named = {entry.get("name"): entry.get("template") for entry in value}
        value = named.get("default")
    if value is None or isinstance(value, str):
        return value
    raise ChatTemplateError(f"expected a chat template as text, got {type(value).__name__}")


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """`bos_token` and the like, which are strings or objects with their content."""
    tokens = {}
    for name, value in config.items():
        content = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(content, str):
            tokens[name] = content
    return tokens


def _environment(now: Callable[[], datetime]) -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationBlock]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda pattern: now().strftime(pattern)
    return environment


class _GenerationBlock(Extension):
    """`{% generation %}` marks the assistant's words for training; here it is transparent."""

    tags = {"generation"}  # noqa: RUF012  (as the library declares it)

    def parse(self, parser: Parser) -> list[Node]:
        """The statements inside the block."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> str:
    raise jinja2.TemplateError(message)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without the HTML escapes of jinja2's own filter."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
