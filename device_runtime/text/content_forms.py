"""In which form a chat template reads what a message says, found by asking it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

ContentForm = Literal["text", "parts", "either", "none"]
"""One text, a list of parts with their types, either, or neither: the words do not come out."""

Message = Mapping[str, Any]
Content = str | Sequence[Mapping[str, str]]
Render = Callable[[Sequence[Message]], str | None]
"""The text of a conversation whose contents are passed on as they are; None: it is refused."""

_FORMS: tuple[ContentForm, ...] = ("text", "parts")
# Lower case, since a template may change the case, and no word that a template would write.
_MARK = "qxzhatprobe"
_OTHER_WORDS = "hello"
_SECOND_MARK = "qxzhatsecond"
_BETWEEN_PARTS = ("", "\n", " ", "\n\n")
"""What a template may write between parts."""


def in_form(message: Message, form: ContentForm) -> dict[str, Any]:
    """The message with its content in a form; for a text several parts become its lines."""
    content = message.get("content")
    if form == "parts" and isinstance(content, str):
        content = [{"type": "text", "text": content}]
    elif form in ("text", "none") and isinstance(content, list):
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
                if form == "text" and _writes_parts(role, beginnings, end, form_of_others, render):
                    return "either"
                return form
            was_rendered = was_rendered or text is not None
    return "none" if was_rendered else if_refused


def _writes_parts(
    role: str,
    beginnings: Sequence[Sequence[str]],
    end: Sequence[str],
    form_of_others: ContentForm,
    render: Render,
) -> bool:
    """Whether two parts come out as one text of both would, wherever one text does.

    Some templates write only the first of them, or the whole list as Python has it.
    """
    others = "text" if role == "user" else form_of_others
    parts = [{"type": "text", "text": _MARK}, {"type": "text", "text": _SECOND_MARK}]
    for beginning in beginnings:

        def rendered(content: Content, before: Sequence[str] = beginning) -> str | None:
            return render(
                [
                    *(_message(name, _OTHER_WORDS, others) for name in before),
                    {"role": role, "content": content},
                    *(_message(name, _OTHER_WORDS, others) for name in end),
                ]
            )

        texts = {rendered(f"{_MARK}{between}{_SECOND_MARK}") for between in _BETWEEN_PARTS}
        if texts != {None} and rendered(parts) not in texts - {None}:
            return False
    return True


def _message(role: str, words: str, form: ContentForm) -> dict[str, Any]:
    return in_form({"role": role, "content": words}, form)
