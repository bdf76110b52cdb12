"""How a template reads what is said, and what clients' parts and thoughts become by that."""

from collections.abc import Mapping
from typing import Any

import pytest

from device_runtime.text.chat_template import ChatTemplate
from tests.support.rendered_chats import known_template, ours

_OPEN = "{% for m in messages %}[{{ m.role }}:"
_CLOSE = "]{% endfor %}"
_LOOP = "{% for part in m.content %}{{ part.text }}{% endfor %}"

TEXT = _OPEN + "{{ m.content }}" + _CLOSE
TEXT_AS_JSON = _OPEN + "{{ m.content | tojson }}" + _CLOSE
PARTS = _OPEN + "{% if m.content is not string %}" + _LOOP + "{% endif %}" + _CLOSE
EITHER = (
    _OPEN + "{% if m.content is string %}{{ m.content }}{% else %}" + _LOOP + "{% endif %}" + _CLOSE
)
LINES = EITHER.replace("{{ part.text }}", "{{ part.text }}{{ '' if loop.last else '\\n' }}")
FIRST = EITHER.replace(_LOOP, "{{ m.content[0].text }}")
ONLY_ALONE = EITHER.replace(
    _LOOP, "{% if messages | length == 1 %}" + _LOOP + "{% else %}{{ m.content }}{% endif %}"
)
OF_THE_USER = EITHER.replace("is string", "is string or m.role != 'user'")


def _parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


@pytest.mark.parametrize(
    ("source", "form"),
    [
        (TEXT, "text"),
        (TEXT_AS_JSON, "text"),
        (PARTS, "parts"),
        (EITHER, "either"),
        (LINES, "either"),
        (FIRST, "text"),
        (ONLY_ALONE, "text"),
    ],
)
def test_the_form_is_what_comes_out_whole(source: str, form: str) -> None:
    template = ChatTemplate(source, {})
    assert template.forms == dict.fromkeys(("user", "assistant", "system"), form)
    template.close()


@pytest.mark.parametrize(
    ("source", "said"),
    [(TEXT, "one\ntwo"), (PARTS, "onetwo"), (EITHER, "onetwo"), (LINES, "one\ntwo")],
)
def test_parts_become_what_the_template_makes_of_them_or_lines(source: str, said: str) -> None:
    parts = _parts("one", "two")
    assert _text(source, {"messages": [{"role": "user", "content": parts}]}) == f"[user:{said}]"
    goes_on = {
        "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": parts}],
        "continue_final_message": True,
    }
    assert _text(source, goes_on) == f"[user:q][assistant:{said}"


def test_each_role_has_a_form_of_its_own() -> None:
    template = ChatTemplate(OF_THE_USER, {})
    assert dict(template.forms) == {"user": "either", "assistant": "text", "system": "text"}
    messages = [{"role": role, "content": _parts("a", "b")} for role in ("system", "user")]
    assert template.render(messages).text == "[system:a\nb][user:ab]"
    template.close()


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_thoughts_have_every_name_that_templates_know(name: str) -> None:
    names = "{{ m.thinking }}|{{ m.reasoning_content }}|{{ m.reasoning }}"
    source = "{% for m in messages %}" + names + "{% endfor %}"
    body = {"messages": [{"role": "assistant", "content": "a", name: "why"}]}
    assert _text(source, body) == "why|why|why"


def _text(source: str, body: Mapping[str, Any]) -> object:
    template = ChatTemplate(source, {})
    try:
        return ours(known_template(template), body)
    finally:
        template.close()
