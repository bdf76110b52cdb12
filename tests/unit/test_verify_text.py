"""`hat verify` compares whole answers: prompts, ids and texts, each by its name."""

from dataclasses import replace

import pytest

from hat.verify.compare import Reference
from hat.verify.conversations import (
    OwnAnswer,
    Question,
    ToldAnswer,
    questions_for,
    text_check,
    told_answer,
)

OWN = OwnAnswer(
    Question("conversation 1", ({"role": "user", "content": "hi"},)),
    (5, 6, 7),
    Reference((8, 9), (), (0.5, 1e-6)),
    " ab",
)
TOLD = ToldAnswer((5, 6, 7), (8, 9), " ab")


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (replace(TOLD, prompt_ids=(5, 1, 7)), r"other tokens from number 2 on: unsplit [6, 7]"),
        (replace(TOLD, prompt_ids=(5, 6)), "other tokens from number 3 on: unsplit [7], split []"),
        (replace(TOLD, ids=(3, 9)), "token 1 of the answer: unsplit 8, split 3; margin 0.5"),
        (replace(TOLD, ids=(8,)), "token 2 of the answer: unsplit 9, split None; margin inf"),
        (replace(TOLD, text="ab"), "the same tokens become ' ab' unsplit, 'ab' split"),
    ],
)
def test_what_differs_is_named(told: ToldAnswer, words: str) -> None:
    check = text_check([(OWN, told), (OWN, TOLD)], is_exact=True)
    assert (check.verdict, len(check.details)) == ("FAILED", 1)
    assert check.details[0].startswith("conversation 1: ")
    assert words in check.details[0]
    assert "1 answer differ" in check.line
    assert text_check([(OWN, told)], is_exact=False).verdict == "shown"


@pytest.mark.parametrize("told", [TOLD, replace(TOLD, ids=(8, 3)), replace(TOLD, text=None)])
def test_ties_and_thoughts_are_no_difference(told: ToldAnswer) -> None:
    assert text_check([(OWN, told)], is_exact=True).verdict == "ok"


def test_a_character_whose_last_bytes_never_came_is_no_difference() -> None:
    own = replace(OWN, text=" ab\N{REPLACEMENT CHARACTER}")
    assert text_check([(own, TOLD)], is_exact=True).verdict == "ok"
    inside = replace(OWN, text=" a\N{REPLACEMENT CHARACTER}b")
    assert text_check([(inside, TOLD)], is_exact=True).verdict == "FAILED"


def test_documents_of_both_apis_are_read() -> None:
    ids = {"token_ids": [8, 9]}
    chat = {"choices": [{"message": {"content": " ab"}, **ids}], "prompt_token_ids": [5, 6, 7]}
    assert told_answer(chat) == TOLD
    text = {"choices": [{"text": " ab", **ids, "prompt_token_ids": [5, 6, 7]}]}
    assert told_answer(text) == TOLD
    thought = {"message": {"content": "b", "reasoning_content": "a"}, **ids}
    assert told_answer({**chat, "choices": [thought]}).text is None


def test_a_model_without_a_template_goes_on_with_texts() -> None:
    route, body = questions_for(has_template=False)[0].body(7)
    assert (route, body["prompt"], body["max_tokens"]) == ("completions", "Once upon a time", 7)
    route, body = questions_for(has_template=True)[0].body(7)
    assert (route, body["messages"][0]["role"], body["temperature"]) == (
        "chat/completions",
        "user",
        0,
    )
