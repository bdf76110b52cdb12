"""What a grammar does to rounds, counted: figures from answers, and questions that can be asked."""

import pytest

from bench.drafters.held_answers import Counts, counts_of, questions, table
from bench.drafters.held_answers_cases import SCHEMAS, TOOLS
from device_runtime.grammar.compiling import Grammars
from device_runtime.grammar.wanted import Json
from tests.support.api_server import EOS
from tests.support.tokenizers import story_tokenizer

HELD = {
    "usage": {"completion_tokens": 21},
    "hat": {
        "rounds": 8,
        "drafted_tokens": 14,
        "stale_rows": 2,
        "drafted_by": {
            "grammar": {"drafted": 10, "accepted": 10},
            "suffix": {"drafted": 4, "accepted": 2},
        },
    },
}
FREE = {
    "usage": {"completion_tokens": 11},
    "hat": {"rounds": 10, "drafted_tokens": 0, "stale_rows": 0, "drafted_by": {}},
}


def test_the_first_token_of_each_answer_is_of_no_round():
    held, free = counts_of(HELD), counts_of(FREE)
    assert (held.tokens_per_round, held.forced_share, held.rows_per_token) == (2.5, 0.5, 1.2)
    assert (free.tokens_per_round, free.forced_share, free.rows_per_token) == (1.0, 0.0, 1.0)
    both = held + free
    assert both.num_decided == 30
    assert both.tokens_per_round == pytest.approx(30 / 18)


def test_the_table_has_a_line_for_each_way():
    rows = [("JSON", "on", counts_of(HELD)), ("JSON", "off", counts_of(FREE) + Counts())]
    assert list(table(rows))[2:] == [
        "| JSON | on | 1 | 21 | 2.50 | 50 % | 1.20 |",
        "| JSON | off | 1 | 11 | 1.00 | 0 % | 1.00 |",
    ]


def test_there_are_as_many_questions_as_wanted_of_each_kind():
    assert [len(asked) for asked in questions(3).values()] == [3, 3, 3]
    [json, calls, free] = [asked[0] for asked in questions(1).values()]
    assert "response_format" in (json.held or {})
    assert calls.prompt["tools"] == TOOLS
    assert (free.held, list(free.prompt)) == (None, ["messages"])


def test_every_schema_can_be_compiled():
    grammars = Grammars(story_tokenizer().as_json(), 512, (EOS,))
    schemas = [case.schema for case in SCHEMAS]
    for schema in [*schemas, *(tool["function"]["parameters"] for tool in TOOLS)]:
        assert grammars.compile(Json(schema)).start().forced()
