"""In which form a chat template reads what a message says, found by asking it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

ContentForm = Literal["text", "parts", "none"]
"""One text, a list of parts with their types, or neither: the words do not come out."""

Message = Mapping[str, Any]
Render = Callable[[Sequence[Message]], str | None]
"""The text of a conversation whose contents are passed on as they are; None: it is refused."""

_FORMS: tuple[ContentForm, ...] = ("text", "parts")
# Lower case, since a template may change the case, and no word that a template would write.
_MARK = "qxzhatprobe"
_OTHER_WORDS = "hello"


def in_form(message: Message, form: ContentForm) -> dict[str, Any]:
    """The message with its content in a form; several parts become lines of one text."""
    content = message.get("content")
    if form == "parts" and isinstance(content, str):
        content = [{"type": "text", "text": content}]
    elif form != "parts" and isinstance(content, list):
        content = "\n".join(part["text"] for part in content)
    return {**message, "content": content}


def find_forms(render: Render, more_roles: Sequence[str] = ()) -> Mapping[str, ContentForm]:
    """For each role the form in which its words reach the prompt; `more_roles` are like the system.

    A template may loop over parts and find none in a text, which says nothing and is no error.
    One that refuses every probe is taken to read texts, as most do; of a role beyond the usual ones
    that it knows none.
    """
    user = _form_of("user", ((), ("system",), ("user", "assistant")), (), "text", render)
    other: ContentForm = "text" if user == "none" else user
    forms = {
        "user": user,
        "assistant": _form_of("assistant", (("user",),), ("user",), other, render),
    }
    forms["system"] = _form_of("system", ((),), ("user",), other, render)
    for role in more_roles:
        forms[role] = _form_of(role, ((),), ("user",), other, render, "none")
    return forms


def _form_of(
    role: str,
    beginnings: Sequence[Sequence[str]],
    end: Sequence[str],
    form_of_others: ContentForm,
    render: Render,
    if_refused: ContentForm = "text",
) -> ContentForm:
    was_rendered = False
    for form in _FORMS:
        for beginning in beginnings:
            others = form if role == "user" else form_of_others
            conversation = [
                *(_message(name, _OTHER_WORDS, others) for name in beginning),
                _message(role, _MARK, form),
                *(_message(name, _OTHER_WORDS, others) for name in end),
            ]
            text = render(conversation)
            if text is not None and _MARK in text.lower():
                return form
            was_rendered = was_rendered or text is not None
    return "none" if was_rendered else if_refused


def _message(role: str, words: str, form: ContentForm) -> dict[str, Any]:
    return in_form({"role": role, "content": words}, form)
