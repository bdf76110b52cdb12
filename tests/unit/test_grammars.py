"""Grammars as they are compiled: what is refused with which words, and what is kept."""

import json

import numpy as np
import pytest

from device_runtime.generation.grammar import GrammarError
from device_runtime.generation.request import GenerationRequest, SamplingParams
from device_runtime.grammar.compiling import MAX_CHARACTERS, Grammars
from device_runtime.grammar.wanted import ANY_OBJECT, Json, OneOf, Regex, Thoughts, Written
from device_runtime.sampling.noise import PositionNoise
from device_runtime.sampling.sampler import Sampler
from device_runtime.text.tokenizer import load_tokenizer
from tests.support.reference import STORIES

END, VOCAB_SIZE = 2, 512


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(STORIES)


@pytest.fixture(scope="module")
def grammars(tokenizer):
    return Grammars(tokenizer.as_json(), VOCAB_SIZE, (END,))


def accepts(grammars, tokenizer, wanted, text, thoughts=None):
    """Whether the grammar lets some tokens say this text and then end."""
    constraint, left, ids = grammars.compile(wanted, thoughts).start(), text.encode(), []
    while left:
        allowed = (int(token) for token in np.flatnonzero(constraint.allowed(ids)))
        said = {token: tokenizer.token_bytes(token) for token in allowed}
        fitting = [token for token, own in said.items() if own and left.startswith(own)]
        if not fitting:
            return False
        ids.append(max(fitting, key=lambda token: len(said[token])))
        left = left[len(said[ids[-1]]) :]
    return bool(constraint.allowed(ids)[END])


def test_json_is_written_with_a_space_behind_commas_and_colons_and_nothing_else(
    grammars, tokenizer
):
    value = {"a": 1, "b": [1, 2]}
    assert accepts(grammars, tokenizer, ANY_OBJECT, json.dumps(value))
    assert not accepts(grammars, tokenizer, ANY_OBJECT, json.dumps(value, indent=1))
    flexible = Json({"type": "object"}, whitespace=r"[ \n]{0,9}")
    assert accepts(grammars, tokenizer, flexible, json.dumps(value, indent=1))


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (Json({"type": "strin"}), "strin"),
        (Json({"$ref": "#/nope"}), "/nope"),
        (Json({"properties": {"a": {"items": {"not": {"type": "null"}}}}}), "#/properties/a/items"),
        (Json({"$defs": {"x": {"format": "?"}}, "$ref": "#/$defs/x"}), "?"),
        (Json({"type": "integer", "minimum": 5, "maximum": 3}), "5"),
        (
            Json({"anyOf": [{"type": "null"}, {"properties": {"a/b": {"not": {}}}}]}),
            "#/anyOf/1/properties/a~1b",
        ),
        (
            Json(
                {
                    "properties": {
                        "a": {"type": "null"},
                        "b": {"$ref": "#/properties/a"},
                        "c": {"uniqueItems": True},
                    }
                }
            ),
            "#/properties/c",
        ),
        (Json({"x-guidance": {"lenient": True}, "items": {"not": {}}}), "#/items"),
        (Json({"oneOf": [{"type": "integer"}, {"type": "number"}]}), "oneOf"),
        (Json({"description": "x" * MAX_CHARACTERS}), "characters"),
        (Json(False), ""),
        (Regex("[a-"), "regex"),
        (Regex("a" * (MAX_CHARACTERS + 1)), "characters"),
        (Written("start: nobody"), "nobody"),
        (Written('root ::= "a" | nobody'), "nobody"),
    ],
)
def test_what_cannot_be_held_to_is_refused_and_says_what(grammars, wanted, words):
    with pytest.raises(GrammarError) as raised:
        grammars.compile(wanted)
    assert words in raised.value.reason
    assert "\n" not in raised.value.reason
    assert len(raised.value.reason) < 600


def _shared(number, how):
    last = {"type": "object", "properties": {"x": {"type": "string"}}}
    names = {f"a{place}": how({"$ref": f"#/$defs/a{place + 1}"}) for place in range(number)}
    return Json({"$defs": {**names, f"a{number}": last}, "$ref": "#/$defs/a0"})


def _deep(depth):
    schema = {"type": "null"}
    for _ in range(depth):
        schema = {"items": schema}
    return Json(schema)


def _optional(number):
    return Json({"properties": {f"p{place}": {"type": "null"} for place in range(number)}})


HOSTILE = {
    "deep": _deep(95),
    "deeper": _deep(180),
    "deeper than Python": _deep(5000),
    "references, twice each": _shared(30, lambda ref: {"properties": {"a": ref, "b": ref}}),
    "references, all of twice": _shared(30, lambda ref: {"allOf": [ref, ref]}),
    "references, any of twice": _shared(30, lambda ref: {"anyOf": [ref, {"items": ref}]}),
    "references, one of twice": _shared(30, lambda ref: {"oneOf": [ref, {"items": ref}]}),
    "a chain of references": _shared(1000, lambda ref: ref),
    "a circle": Json({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
    "products of unions": Json(
        {
            "allOf": [
                {"anyOf": [{"required": [f"{a}{b}"], "type": "object"} for b in range(4)]}
                for a in range(12)
            ]
        }
    ),
    "patterns of exponents": Json({"pattern": "(a|b)*a(a|b){400}", "type": "string"}),
    "patterns of stars": Json({"pattern": "^((a*)*)*$", "type": "string"}),
    "patterns of repetitions": Json({"pattern": "((a{1,999}){1,999}){1,999}"}),
    "patterns at once": Json({"allOf": [{"pattern": f"a.{{{n}}}b"} for n in range(9)]}),
    "a pattern of a language of its own": Json({"pattern": "(?<=a)b\\1"}),
    "lengths": Json({"type": "string", "minLength": 999_999, "maxLength": 10**9}),
    "items": Json({"items": {"minItems": 9_999}, "minItems": 99_999, "type": "array"}),
    "numbers": Json({"type": "number", "minimum": -1e308, "maximum": 1e308, "multipleOf": 1e-300}),
    "a prime": Json({"type": "integer", "multipleOf": 999_999_937}),
    "many choices": Json({"enum": [f"value {place}" for place in range(4_000)]}),
    "many that may be left out": _optional(2_000),
    "references to elsewhere": Json({"$ref": "file:///etc/passwd"}),
    "references by address": Json({"$ref": "http://localhost:1/x", "$id": "http://localhost:1/"}),
    "half a character": Json({"enum": ["\ud800"]}),
    "parentheses": Written("start: " + "(" * 20_000 + '"a"' + ")" * 20_000),
    "parentheses of llama.cpp's": Written("root ::= " + "(" * 20_000 + '"a"' + ")" * 20_000),
    "repetitions": Written('start: (("a"{0,99}){0,99}){0,99}'),
    "repetitions of llama.cpp's": Written('root ::= ("a"{1,99999} "b"){1,99999}'),
    "recursion to the left": Written('start: start start | "a" | '),
    "many rules": Written("\n".join(f"r{n} ::= r{n + 1} r{n + 1}" for n in range(3_000))),
    "nested groups": Regex("(" * 20_000 + "a" + ")" * 20_000),
    "all letters": Regex(r"\p{L}{1,999}\w{1,999}"),
    "a written grammar that reads files": Written('start: %json {"$ref": "file:///etc/passwd"}'),
}


def refusal(grammars, wanted):
    """Why it cannot be compiled, or followed for some tokens; None if it can."""
    try:
        constraint = grammars.compile(wanted).start()
        for _ in range(30):
            constraint.forced()
            allowed = [int(token) for token in np.flatnonzero(constraint.allowed()) if token != END]
            if not allowed:
                break
            constraint.commit(allowed[len(allowed) // 2])
    except GrammarError as error:
        return error.reason
    return None


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_hostile_is_followed_or_refused_in_a_line(grammars, name):
    reason = refusal(grammars, HOSTILE[name])
    if reason is not None:
        assert 0 < len(reason) < 600
        assert "\n" not in reason
        assert "does not allow" not in reason
        assert "recursion" not in reason


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("deep", None),
        ("deeper", "100 levels"),
        ("deeper than Python", "100 levels"),
        ("parentheses of llama.cpp's", "nested too deeply"),
        ("many rules", "1000 rules"),
        ("references, twice each", None),
        ("a chain of references", None),
        ("products of unions", "too large"),
        ("lengths", None),
        ("items", None),
        ("many choices", None),
        ("many that may be left out", None),
        ("references to elsewhere", "etc/passwd"),
    ],
)
def test_which_of_it_is_refused(grammars, name, words):
    reason = refusal(grammars, HOSTILE[name])
    assert reason is None if words is None else words in reason


def test_what_a_client_says_to_the_library_changes_nothing(grammars, tokenizer):
    said = {"whitespace_flexible": True, "lenient": True, "nonsense": 5}
    wanted = Json({"type": "object", "x-guidance": said})
    assert accepts(grammars, tokenizer, wanted, '{"a": 1}')
    assert not accepts(grammars, tokenizer, wanted, '{ "a": 1}')


def test_a_minute_has_sixty_seconds(grammars, tokenizer):
    wanted = Json({"type": "string", "format": "date-time"})
    assert accepts(grammars, tokenizer, wanted, '"2026-03-14T12:30:59Z"')
    assert not accepts(grammars, tokenizer, wanted, '"2026-03-14T12:30:60Z"')


def test_the_search_for_a_fault_ends_in_time(tokenizer):
    wanted = Json({"properties": {"a": {"items": {"not": {}}}}})
    moments = iter([0.0, 0.1, 0.1, 0.2, 9.0, 9.0, 9.0])
    grammars = Grammars(tokenizer.as_json(), VOCAB_SIZE, (END,), clock=lambda: next(moments))
    with pytest.raises(GrammarError, match="not") as raised:
        grammars.compile(wanted)
    assert next(moments) == 9.0
    assert "#/properties/a" in raised.value.reason
    slow = iter([0.0, 9.0])
    grammars = Grammars(tokenizer.as_json(), VOCAB_SIZE, (END,), clock=lambda: next(slow))
    with pytest.raises(GrammarError, match="not") as raised:
        grammars.compile(wanted)
    assert "#" not in raised.value.reason


def test_a_model_without_an_end_of_text_can_follow_no_grammar(tokenizer):
    with pytest.raises(GrammarError, match="ends a text"):
        Grammars(tokenizer.as_json(), VOCAB_SIZE, ()).compile(ANY_OBJECT)


def test_what_was_compiled_is_kept_and_each_generation_walks_alone(grammars):
    first = grammars.compile(OneOf(("yes", "no")))
    assert grammars.compile(OneOf(("yes", "no"))) is first
    one, other = first.start(), first.start()
    token = int(np.flatnonzero(one.allowed())[0])
    one.commit(token)
    assert (other.allowed() == first.start().allowed()).all()


def test_an_end_that_is_too_early_is_allowed_where_the_grammar_knows_no_more(grammars, tokenizer):
    request = GenerationRequest(
        [1],
        9,
        SamplingParams(temperature=0.0),
        stop_token_ids=frozenset({END}),
        min_tokens=8,
        grammar=grammars.compile(Regex("ab*")),
    )
    sampler = Sampler(request, VOCAB_SIZE, PositionNoise(1))
    logits = np.zeros(VOCAB_SIZE, dtype=np.float32)
    logits[END] = 9.0
    text = []
    while len(text) < 9:
        text.append(sampler.choose(logits))
        sampler.commit(text[-1], logits)
    assert END not in text[:8]
    assert text[8] == END


def test_where_nothing_but_an_end_is_allowed_it_may_be_early(grammars):
    request = GenerationRequest(
        [1],
        9,
        SamplingParams(temperature=0.0),
        stop_token_ids=frozenset({END}),
        min_tokens=8,
        grammar=grammars.compile(OneOf(("a",))),
    )
    sampler = Sampler(request, VOCAB_SIZE, PositionNoise(1))
    logits = np.zeros(VOCAB_SIZE, dtype=np.float32)
    first = sampler.choose(logits)
    sampler.commit(first, logits)
    assert first != END
    assert sampler.choose(logits) == END


def test_bias_and_penalties_choose_among_what_is_allowed(grammars, tokenizer):
    [token] = [i for i in range(VOCAB_SIZE) if tokenizer.token_bytes(i) == b"b"][:1]
    sampling = SamplingParams(temperature=0.0, logit_bias={token: -100.0, END: 100.0})
    request = GenerationRequest([1], 9, sampling, grammar=grammars.compile(Regex("[ab]c")))
    sampler = Sampler(request, VOCAB_SIZE, PositionNoise(1))
    logits = np.zeros(VOCAB_SIZE, dtype=np.float32)
    chosen = sampler.choose(logits)
    assert grammars.compile(Regex("[ab]c")).start().allowed()[chosen]
    assert chosen not in (token, END)


@pytest.mark.parametrize("begin", ["<think>", None])
@pytest.mark.parametrize("special", [{}, {"</s>": END}])
def test_thoughts_stand_before_what_is_wanted(tokenizer, begin, special):
    grammars = Grammars(tokenizer.as_json(), VOCAB_SIZE, (END,), special)
    thoughts = Thoughts(begin, "</think>")
    for wanted, answer in ((ANY_OBJECT, '{"a": [1]}'), (Regex("a+/b"), "aa/b"), (OneOf("x"), "x")):
        thought = f"{begin or ''}so {{be}} it</think>\n\n"
        assert accepts(grammars, tokenizer, wanted, thought + answer, thoughts)
        assert accepts(grammars, tokenizer, wanted, answer, thoughts) is (begin is not None)
        assert not accepts(grammars, tokenizer, wanted, thought + "no", thoughts)
        assert not accepts(grammars, tokenizer, wanted, thought, thoughts)


@pytest.mark.parametrize(
    ("schema", "fits", "misses"),
    [
        ({"type": "object", "propertyNames": {"minLength": 2}}, {"c": 1}, []),
        ({"items": {"type": "null"}, "type": "array", "uniqueItems": True}, [None, None], [1]),
        ({"type": "string", "pattern": "^(?!x)y"}, "xy", 1),
        ({"type": "string", "format": "color-of-mind"}, "blue", None),
        ({"not": {"type": "null"}, "type": "boolean"}, True, "x"),
        ({"type": "object", "patternProperties": {"^(?=a)": {"type": "null"}}}, {"b": 1}, 1),
    ],
)
def test_what_a_lenient_schema_cannot_hold_to_is_passed_over(
    grammars, tokenizer, schema, fits, misses
):
    whole = {"type": "object", "properties": {"a": schema, "b": {"type": "null"}}}
    with pytest.raises(GrammarError):
        grammars.compile(Json(whole))
    lenient = Json(whole, is_lenient=True)
    assert accepts(grammars, tokenizer, lenient, json.dumps({"a": fits, "b": None}))
    assert not accepts(grammars, tokenizer, lenient, json.dumps({"a": misses, "b": None}))
    assert not accepts(grammars, tokenizer, lenient, json.dumps({"a": fits, "b": 1}))


def test_a_lenient_schema_that_is_none_is_a_fault(grammars):
    for schema in ({"type": 3}, {"$ref": "#/$defs/x"}):
        with pytest.raises(GrammarError):
            grammars.compile(Json({"properties": {"a": schema}}, is_lenient=True))
