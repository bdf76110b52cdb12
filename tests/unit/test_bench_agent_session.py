"""An agent's session, replayed in tokens of the story model's tokenizer."""

import json

import pytest

from bench.drafters.agent_session import arms, session_of, table
from bench.drafters.agent_session_texts import (
    conversation,
    edits,
    rewrites,
    tool_calls,
)
from device_runtime.text.tokenizer import load_tokenizer
from tests.support.reference import STORIES

ROW = 0.05


@pytest.fixture(scope="module")
def encode():
    return load_tokenizer(STORIES).encode


def figures(exchanges, encode):
    """Tokens per round by arm."""
    session = session_of(exchanges, encode)
    return {name: drafts.replay(session, ROW).tokens_per_round for name, drafts in arms().items()}


def test_the_texts_are_what_they_say():
    files = [each.answer for each in edits()]
    assert len(set(files)) == len(files) == 5
    for file in files:
        compile(file, "store.py", "exec")
    for before, after in zip(edits(), edits()[1:], strict=False):
        assert before.answer in after.prompt
    assert [each.answer for each in rewrites()] == files
    calls = [json.loads(each.answer) for each in tool_calls()]
    assert len(calls) == 10
    assert all(call["arguments"].keys() == calls[0]["arguments"].keys() for call in calls)
    assert conversation()[-1].prompt.count("order_part") == 10


def test_memory_brings_most_where_the_prompt_does_not_hold_what_was_said(encode):
    edited, calls = figures(rewrites(), encode), figures(tool_calls(), encode)
    assert edited["suffix, with memory"] > 2.5 * edited["suffix, own text"]
    assert calls["suffix, with memory"] > 1.5 * calls["suffix, own text"]


def test_a_file_that_is_in_the_prompt_is_copied_in_long_drafts(encode):
    found = figures(edits(), encode)
    assert found["suffix, own text"] > 2 * found["ngram"]
    assert found["suffix, with memory"] > 0.9 * found["suffix, own text"]


def test_every_token_of_the_answers_is_decided_once(encode):
    session = session_of(tool_calls(), encode)
    for drafts in arms().values():
        found = drafts.replay(session, ROW)
        assert found.num_tokens == sum(len(answer) - 1 for _, answer in session.exchanges)
        assert found.num_tokens == found.num_rounds + found.num_accepted
        assert found.num_accepted <= found.num_drafted


def test_the_table_has_a_row_for_each_session_and_cost(encode):
    lines = table(encode).splitlines()
    assert len(lines) == 2 + 4 * 2
    assert len({line.count("|") for line in lines}) == 1
