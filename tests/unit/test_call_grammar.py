"""What the grammar of an answer with calls allows, whatever the model would go on with."""

import pytest

from device_runtime.calling.grammar import MAX_CALLS, call_grammar
from device_runtime.calling.layouts import GENERIC, HERMES, Layout
from device_runtime.calling.tools import Offer, Tool
from device_runtime.grammar.compiling import Grammars
from device_runtime.grammar.wanted import Lark
from tests.integration.test_tool_calls import ids_of, written
from tests.support.api_server import EOS
from tests.support.tokenizers import story_tokenizer


@pytest.mark.parametrize("layout", [HERMES, GENERIC], ids=lambda layout: layout.name)
@pytest.mark.parametrize("choice", ["auto", "required"])
def test_calls_come_to_an_end(layout: Layout, choice: str) -> None:
    tool = Tool("go", {"properties": {}, "additionalProperties": False}, "tools[0]")
    offer = Offer((tool,), "required" if choice == "required" else "auto")
    text = call_grammar(layout, offer, story_tokenizer().special_ids)
    grammar = Grammars(story_tokenizer().as_json(), 512, (EOS,)).compile(Lark(text))
    for num_calls in (1, 2, MAX_CALLS, MAX_CALLS + 1):
        ids = ids_of(written(layout, *[("go", {})] * num_calls))
        constraint = grammar.start()
        fits = constraint.num_valid((), ids) == len(ids) and bool(constraint.allowed(ids)[EOS])
        assert fits is (num_calls <= MAX_CALLS), num_calls
