"""What a text is made of does not depend on how it comes: words, thoughts and calls."""

import json
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_runtime.calling.layouts import LAYOUTS, Layout
from device_runtime.calling.reader import CallReader, HalfCallError
from device_runtime.calling.tools import Offer, Tool
from device_runtime.generation.parts import (
    Call,
    Part,
    PlainReader,
    Reader,
    Thought,
    Words,
    joined,
)
from device_runtime.thinking.marks import THINK
from device_runtime.thinking.reader import ThoughtReader

PARAMETERS = {"properties": {"city": {"type": "string"}, "more": {}}, "required": ["city"]}
TOOLS = Offer((Tool("look", PARAMETERS, "tools[0]"), Tool("add", {}, "tools[1]")))

words = st.text("abc <>/_tol{}\n", max_size=12).filter(lambda text: "<tool" not in text)
strings = st.text('ab"\\{}[]<> é\n', max_size=6).filter(lambda text: "\n" not in text)
arguments = st.fixed_dictionaries(
    {"city": strings}, optional={"more": st.lists(st.integers(), max_size=2)}
)
calls = st.lists(st.tuples(st.sampled_from(["look", "add"]), arguments), max_size=3)
cuts = st.lists(st.integers(0, 400), max_size=8)


def read(reader: Reader, text: str, places: list[int]) -> tuple[tuple[Part, ...], str]:
    borders = [0, *sorted({place for place in places if place < len(text)}), len(text)]
    parts = [part for begin, end in pairwise(borders) for part in reader.read(text[begin:end])]
    more, reason = reader.end("stop")
    return joined([*parts, *more]), reason


def caller(layout: Layout) -> Callable[[], CallReader]:
    return lambda: CallReader(layout, TOOLS, lambda number: f"call_{number}")


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda layout: layout.name)
@given(before=words, called=calls, places=cuts, thought=words, is_thinking=st.booleans())
def test_parts_are_the_same_however_the_text_is_cut(
    layout: Layout,
    before: str,
    called: list[tuple[str, dict[str, object]]],
    places: list[int],
    thought: str,
    is_thinking: bool,
) -> None:
    if layout.between is None:
        called = called[:1]
    if called and layout.marks is not None and layout.marks.is_plain:
        # Of a tool without a schema values are read as JSON.
        called = [("look", values) for _, values in called]
    if not layout.begin:
        # What begins like a call is one: the grammar lets nothing else begin so.
        before = "" if called else before.lstrip("{ \n")
    answer = before
    if called:
        answer += layout.written(called)
    begin = "" if is_thinking else THINK.begin
    text = f"{begin}{thought}{THINK.end}\n\n{answer}"

    def reader() -> Reader:
        return ThoughtReader(THINK, is_thinking, caller(layout)())

    parts, reason = read(reader(), text, places)
    assert (parts, reason) == read(reader(), text, [])
    assert reason == ("tool_calls" if called else "stop")
    told = [part for part in parts if isinstance(part, Call)]
    assert [(call.name, json.loads(call.arguments)) for call in told] == called
    thoughts = "".join(part.text for part in parts if isinstance(part, Thought))
    assert thoughts == thought.strip()
    said = "".join(part.text for part in parts if isinstance(part, Words))
    assert said == (before.lstrip().rstrip() if called else before.lstrip())


@given(text=st.text("abc <think>/\n", max_size=30), places=cuts)
def test_a_text_without_marks_is_all_words(text: str, places: list[int]) -> None:
    if THINK.begin in text or THINK.end in text:
        return
    parts, _ = read(ThoughtReader(THINK, False, PlainReader()), text, places)
    assert "".join(part.text for part in parts if isinstance(part, Words)) == text
    assert all(isinstance(part, Words) for part in parts)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda layout: layout.name)
@given(data=st.data())
def test_whatever_is_cut_off_a_call_is_half_of_one(layout: Layout, data: st.DataObject) -> None:
    text = layout.written([("look", {"city": "Rome"})])
    arguments = text.index("Rome")
    length = data.draw(st.integers(arguments, arguments + len("Rome")))
    with pytest.raises(HalfCallError) as raised:
        read(caller(layout)(), text[:length], [])
    assert raised.value.name == "look"
