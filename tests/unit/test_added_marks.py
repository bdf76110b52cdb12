"""Marks that a tokenizer has as added tokens and not as special ones, as Qwen's does."""

import pytest
import tokenizers

from device_runtime.calling.grammar import call_grammar
from device_runtime.calling.layouts import HERMES
from device_runtime.calling.tools import Offer, Tool
from device_runtime.generation.grammar import Constraint
from device_runtime.grammar.compiling import Grammars
from device_runtime.grammar.wanted import Json, Lark, Thoughts, Wanted, Written
from device_runtime.text.tokenizer import Tokenizer
from tests.support.tokenizers import byte_level_tokenizer

EOS = 1
IDS = [316, 317, 318, 319]
NAMES = ("<tool_call>", "</tool_call>", "<think>", "</think>")
GO = Tool("go", {"properties": {"a": {"enum": ["<think>"]}}, "required": ["a"]}, "tools[0]")
CALL = HERMES.written([("go", {"a": "<think>"})])


@pytest.fixture(scope="module", params=[True, False], ids=["special", "added"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    backend = tokenizers.Tokenizer.from_str(byte_level_tokenizer().as_json())
    added = [tokenizers.AddedToken(n, special=request.param, normalized=False) for n in NAMES]
    if request.param:
        backend.add_special_tokens(added)
    else:
        backend.add_tokens(added)
    return Tokenizer(backend)


def start(tokenizer: Tokenizer, wanted: Wanted, thoughts: Thoughts | None = None) -> Constraint:
    grammars = Grammars(tokenizer.as_json(), 320, (EOS,), tokenizer.special_ids)
    return grammars.compile(wanted, thoughts).start()


def calls(tokenizer: Tokenizer, choice: str) -> Constraint:
    offer = Offer((GO,), "required" if choice == "required" else "auto")
    return start(tokenizer, Lark(call_grammar(HERMES, offer, tokenizer.special_ids)))


def ids_of(text: str) -> list[int]:
    """Tokens that say the text; none of them is a mark."""
    return byte_level_tokenizer().encode(text, add_special_tokens=False)


def said(token: int) -> bytes:
    if token in IDS:
        return NAMES[IDS.index(token)].encode()
    return byte_level_tokenizer().token_bytes(token)


def after(constraint: Constraint, ids: list[int]) -> str:
    """What must follow these tokens, each of which is allowed."""
    for place, token in enumerate(ids):
        assert constraint.allowed()[token], place
        constraint.commit(token)
    told: list[int] = []
    while forced := [token for token in constraint.forced() if token != EOS]:
        for token in forced:
            constraint.commit(token)
        told += forced
    assert constraint.allowed().any()
    return b"".join(map(said, told)).decode()


def test_marks_are_among_the_tokens_of_control(tokenizer: Tokenizer) -> None:
    assert [tokenizer.special_ids[name] for name in NAMES] == IDS


HEAD = CALL[: CALL.rindex("}")]


def test_a_call_that_must_come_begins_with_its_mark(tokenizer: Tokenizer) -> None:
    constraint = calls(tokenizer, "required")
    assert constraint.forced()[0] == tokenizer.special_ids["<tool_call>"]
    assert after(constraint, []).startswith(HEAD)


@pytest.mark.parametrize("words", ["", "Let me see. "])
def test_a_call_may_come_behind_words(tokenizer: Tokenizer, words: str) -> None:
    mark = tokenizer.special_ids["<tool_call>"]
    told = after(calls(tokenizer, "auto"), [*ids_of(words), mark])
    assert f"<tool_call>{told}".startswith(HEAD)


def test_a_mark_in_letters_is_one_too_since_readers_see_letters(tokenizer: Tokenizer) -> None:
    constraint = calls(tokenizer, "auto")
    for token in ids_of("I spell <tool_call>"):
        assert constraint.allowed()[token]
        constraint.commit(token)
    head = ids_of('\n{"name": "go"')
    assert constraint.num_valid((), head) == len(head)
    assert constraint.num_valid((), ids_of(" is how it is spelled.")) == 0


@pytest.mark.parametrize("is_token", [True, False])
def test_thoughts_end_with_their_mark_and_the_schema_begins(
    tokenizer: Tokenizer, is_token: bool
) -> None:
    thoughts = Thoughts("<think>", "</think>")
    constraint = start(tokenizer, Json({"enum": ["yes"]}), thoughts)
    begin, end = (tokenizer.special_ids[name] for name in NAMES[2:])
    ending = [end] if is_token else ids_of("</think>")
    text = [*ids_of("Hm."), *ending, *ids_of('"')]
    assert after(constraint, [begin, *text]) == 'yes"'
    begun = start(tokenizer, Json({"enum": ["yes"]}), Thoughts(None, "</think>"))
    assert after(begun, text) == 'yes"'


def test_letters_of_a_schema_that_read_like_a_mark_are_followed(tokenizer: Tokenizer) -> None:
    constraint = start(tokenizer, Json({"enum": ["a <tool_call> b"]}))
    assert after(constraint, []) == '"a <tool_call> b"'
    assert constraint.allowed()[EOS]


def test_a_written_grammar_may_name_tokens_of_control(tokenizer: Tokenizer) -> None:
    wanted = Written('start: "a </think> " <think> /<think>[b]/')
    constraint = start(tokenizer, wanted)
    mark = tokenizer.special_ids["<think>"]
    for token in ids_of("a </think> "):
        constraint.commit(token)
    assert constraint.allowed()[mark]
    assert after(constraint, [mark]) == "<think>b"
