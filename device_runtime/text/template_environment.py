"""Chat templates as jinja2 runs them: the names that models rely on, in its sandbox.

A template is part of a downloaded model, so it may do anything: it runs in a process of its own
(`template_process`), which alone imports this.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

_NOT_THE_TEMPLATES_WORDS = (MemoryError, RecursionError)


@dataclass
class Clock:
    """The time that templates are told; set before each of them is rendered."""

    now: datetime

    def strftime(self, pattern: str) -> str:
        """The time as templates want it written."""
        return self.now.strftime(pattern)


def make_environment(clock: Clock) -> ImmutableSandboxedEnvironment:
    """Names and functions of templates.

    Source: "Chat templates" in the documentation of transformers, and its `chat_template_utils`.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationBlock]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = clock.strftime
    return environment


def render(template: jinja2.Template, variables: Mapping[str, Any]) -> str:
    """The text of a template."""
    return template.render(variables)


def reason_of(error: Exception) -> str:
    """Why a template failed: in its own words, or by what ran out."""
    if isinstance(error, _NOT_THE_TEMPLATES_WORDS):
        return {
            MemoryError: "it takes too much memory",
            RecursionError: "it calls itself too often",
        }[type(error)]
    if isinstance(error, jinja2.TemplateError):
        return str(error)
    return str(error) or type(error).__name__


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
