"""A conversation as one text, by the model's own template."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from device_runtime.text.content_forms import ContentForm, Message, find_forms, in_form
from device_runtime.text.continued import UnwrittenError, cut_at_mark, with_mark
from device_runtime.text.template_process import (
    TemplateEndlessError,
    TemplateLimits,
    TemplateProcessError,
    TemplateProcesses,
)
from submodels.bundle.model_files import ModelFiles, model_files
from submodels.checkpoint.named_templates import joined
from submodels.checkpoint.special_tokens import TOKENIZER_CONFIG_FILE, named_special_tokens
from submodels.errors import BundleError

_RESERVED_NAMES = ("messages", "add_generation_prompt", "tools", "documents")

DEVELOPER = "developer"
"""A role beside the system's that some models were trained on."""

TEMPLATE_FILE = "chat_template.jinja"
PROCESSOR_TEMPLATE_FILE = "chat_template.json"
"""Where checkpoints with a processor for pictures have it; some of them have it there only."""

_log = logging.getLogger(__name__)


class ChatTemplateError(ValueError):
    """The template cannot render this conversation; the message says why and is safe to show."""


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """The text of a conversation, and whether the tokenizer still has to add special tokens."""

    text: str
    add_special_tokens: bool


class ChatTemplate:
    """A template with the names and functions that templates of models rely on.

    A model without one is a base model: it continues the messages, one per line. `forms` says for
    each role how the template reads what a message says.
    """

    def __init__(
        self,
        source: str | None,
        special_tokens: Mapping[str, str],
        now: Callable[[], datetime] = datetime.now,
        limits: TemplateLimits | None = None,
    ) -> None:
        """Compile a template and look at how it reads messages; None is the plain one.

        Raises:
            ChatTemplateError: it does not compile, or does not end.
        """
        self.is_plain = source is None
        self.source = source
        self.forms: Mapping[str, ContentForm] = {}
        self._special_tokens = dict(special_tokens)
        self._now = now
        self._processes = None
        if source is None:
            return
        self._processes = TemplateProcesses(source, limits or TemplateLimits())
        try:
            self._processes.compile()
            self.forms = find_forms(self._probed, _named_roles(source))
        except TemplateEndlessError as error:
            raise ChatTemplateError(f"the chat template does not end: {error}") from error
        except TemplateProcessError as error:
            raise ChatTemplateError(f"the chat template does not compile: {error}") from error

    @property
    def reserved_names(self) -> frozenset[str]:
        """Names a client may not set, since they are this side's to set."""
        return frozenset({*_RESERVED_NAMES, *self._special_tokens})

    @property
    def knows_developer(self) -> bool:
        """Whether a developer's words are something else to it than the system's."""
        return self.forms.get(DEVELOPER, "none") != "none"

    @property
    def leaves_out(self) -> tuple[str, ...]:
        """Roles whose words the template never writes."""
        roles = (role for role, form in self.forms.items() if form == "none")
        return tuple(role for role in roles if role != DEVELOPER)

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        continues: bool = False,
    ) -> RenderedChat:
        """The conversation as the model was trained to read it; waits for another process.

        A model's template writes its special tokens itself, so the tokenizer must add none: the
        beginning would be there twice. The plain one leaves them to the tokenizer.

        Args:
            messages: Their content is a text, or a list of parts with a `text` each.
            add_generation_prompt: Whether the assistant's turn is opened.
            variables: Further names for the template.
            tools: What may be called, as OpenAI's API has it; for a template that knows of tools.
            continues: Whether the text ends with the last message's own, which is not closed.

        Raises:
            ChatTemplateError: the template refused the messages, failed on them, or took too much.
        """
        shaped = [in_form(m, self.forms.get(m.get("role", ""), "text")) for m in messages]
        if continues:
            shaped[-1] = with_mark(shaped[-1])
        text = self._text(shaped, add_generation_prompt and not continues, variables, tools)
        if continues:
            try:
                text = cut_at_mark(text)
            except UnwrittenError as error:
                reason = "the model's chat template does not write the last message as it is"
                raise ChatTemplateError(reason) from error
        return RenderedChat(text, add_special_tokens=self._processes is None)

    def _text(
        self,
        shaped: Sequence[Message],
        add_generation_prompt: bool,
        variables: Mapping[str, Any] | None,
        tools: Sequence[Mapping[str, Any]],
    ) -> str:
        if self._processes is None:
            return "\n".join(message["content"] for message in shaped)
        try:
            offered = {"tools": [dict(tool) for tool in tools]} if tools else {}
            return self._rendered(shaped, add_generation_prompt, {**(variables or {}), **offered})
        except TemplateProcessError as error:
            raise ChatTemplateError(f"the model's chat template failed: {error}") from error

    def close(self) -> None:
        """End the processes that render."""
        if self._processes is not None:
            self._processes.close()

    def _probed(self, messages: Sequence[Message]) -> str | None:
        try:
            return self._rendered(messages, True, {})
        except TemplateEndlessError:
            raise
        except TemplateProcessError:
            return None

    def _rendered(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool,
        variables: Mapping[str, Any],
    ) -> str:
        assert self._processes is not None
        names: dict[str, Any] = {"tools": None, "documents": None}
        names |= {**variables, **self._special_tokens}
        names |= {"messages": list(messages), "add_generation_prompt": add_generation_prompt}
        return self._processes.render(names, self._now().isoformat())


def _named_roles(source: str) -> Sequence[str]:
    """Roles that not every template has; one that names none of them may still write any."""
    return (DEVELOPER,) if re.search(rf"""['"]{DEVELOPER}['"]""", source) else ()


def has_chat_template(folder: Path) -> bool:
    """Whether a bundle's model was trained to chat, as far as its files say.

    Raises:
        BundleError: the files cannot be read.
    """
    return _template_source(model_files(folder))[1] is not None


def load_chat_template(folder: Path, limits: TemplateLimits | None = None) -> ChatTemplate:
    """The template of a bundle; a model whose files have none has the plain one.

    chat_template.jinja has it, else tokenizer_config.json, else chat_template.json. `limits` None:
    those of an endpoint.

    Raises:
        BundleError: the files cannot be read, or the template does not compile or end.
    """
    files = model_files(folder)
    name, source = _template_source(files)
    try:
        template = ChatTemplate(source, named_special_tokens(files), limits=limits)
    except ChatTemplateError as error:
        raise BundleError(f"{folder / name}: {error}") from error
    if template.leaves_out:
        _log.warning("the chat template leaves out messages of %s", ", ".join(template.leaves_out))
    return template


def _template_source(files: ModelFiles) -> tuple[str, str | None]:
    """The file that holds the template, and the template."""
    source = files.text(TEMPLATE_FILE)
    if source is not None:
        return TEMPLATE_FILE, source
    for name in (TOKENIZER_CONFIG_FILE, PROCESSOR_TEMPLATE_FILE):
        try:
            source = _default_template(files.json(name).get("chat_template"))
        except ChatTemplateError as error:
            raise BundleError(f"{files.folder / name}: {error}") from error
        if source is not None:
            return name, source
    return TOKENIZER_CONFIG_FILE, None


def _default_template(value: object) -> str | None:
    """The template of a tokenizer configuration: a string, or several by their names."""
    if isinstance(value, list):
        value = dict(_named_template(entry) for entry in value)
    if isinstance(value, dict):
        if not all(isinstance(template, str) for template in value.values()):
            raise ChatTemplateError(f"expected chat templates as text, got {value!r:.80}")
        try:
            return joined(value)
        except ValueError as error:
            raise ChatTemplateError(f"{error}; put the one to use into {TEMPLATE_FILE}") from error
    if value is None or isinstance(value, str):
        return value
    raise ChatTemplateError(f"expected a chat template as text, got {type(value).__name__}")


def _named_template(entry: object) -> tuple[str, object]:
    if not isinstance(entry, dict):
        raise ChatTemplateError(f"expected chat templates with names, got {entry!r:.80}")
    return str(entry.get("name")), entry.get("template")
