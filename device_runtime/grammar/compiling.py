"""Grammars made from what clients say, for one model's tokens.

Compiling takes milliseconds, and up to a second where a schema is as large as is allowed; the
tokens are prepared once, with the first grammar. Both let Python's interpreter lock go, so they
belong into a thread.
"""

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.gbnf_to_lark import any_to_lark

from device_runtime.generation.grammar import Constraint, Grammar, GrammarError
from device_runtime.grammar.lark import JSON_LAYOUT, behind_thoughts, by_number
from device_runtime.grammar.matching import MatcherConstraint
from device_runtime.grammar.schemas import SHARED, Path, is_deeper_than, laid_out, parts, pointer
from device_runtime.grammar.wanted import (
    Json,
    JsonSchemaText,
    Lark,
    OneOf,
    Regex,
    Thoughts,
    Wanted,
    Written,
)
from process.world import Clock

MAX_CHARACTERS = 65_536
"""Of a schema or grammar as it is written."""

_MAX_OWN_CHARACTERS = 4 * MAX_CHARACTERS
"""Of a grammar that this program wrote, for all tools of a request."""

MAX_LEVELS = 100
"""Of objects and lists in one another in a schema. The library reads 128, and adds some."""

_TOO_DEEP = f"it is nested too deeply: expected at most {MAX_LEVELS} levels"

MAX_RULES = 1_000
"""Of a written grammar: what compiling takes grows with their cube, to a second or two here."""

_KEPT = 32
"""Compiled grammars that are kept, since clients ask again and again for the same."""

_RULE = re.compile(r"^[ \t]*[?!]?[\w-]+[^\n:\"/]*:", re.MULTILINE)
"""The beginning of a rule, in both syntaxes."""

_MOST_TRIES = 200
_MOST_SEARCHED = 8 * MAX_CHARACTERS
_MOST_SEARCH_S = 0.5
"""Compilations of parts, to find the one at fault: their number, characters, and time."""


@dataclass(frozen=True, slots=True)
class CompiledGrammar:
    """A `Grammar`: a matcher at its beginning, which each generation gets a copy of."""

    matcher: LLMatcher
    vocab_size: int
    end_ids: tuple[int, ...]

    def start(self) -> Constraint:
        return MatcherConstraint(self.matcher.deep_copy(), self.vocab_size, self.end_ids)


class Grammars:
    """Compiles for one tokenizer and vocabulary, and keeps what it compiled last.

    Args:
        tokenizer_json: The tokenizer, as `tokenizer.json` has it.
        vocab_size: Of the model, which may know fewer or more tokens than the tokenizer.
        end_ids: The tokens that end an answer.
        special_ids: Tokens of control by their names.
        clock: Bounds the search for the part at fault; None: only its tries are counted.
    """

    def __init__(
        self,
        tokenizer_json: str,
        vocab_size: int,
        end_ids: tuple[int, ...],
        special_ids: Mapping[str, int] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._tokenizer_json = tokenizer_json
        self._vocab_size = vocab_size
        self._end_ids = end_ids
        self._special_ids = special_ids or {}
        self._clock = clock or (lambda: 0.0)
        self._tokenizer: LLTokenizer | None = None
        self._kept: OrderedDict[str, CompiledGrammar] = OrderedDict()
        self._lock = threading.Lock()

    def compile(self, wanted: Wanted, thoughts: Thoughts | None = None) -> Grammar:
        """The grammar of what is wanted, behind thoughts or not. Any thread may call this.

        Raises:
            GrammarError: it is too large, not understood, or asks for what cannot be held to.
        """
        if not self._end_ids:
            raise GrammarError("this model has no token that ends a text, which a grammar needs")
        text = _grammar_text(wanted)
        if isinstance(wanted, Written):
            text = by_number(text, self._special_ids)
        if thoughts is not None:
            text = behind_thoughts(text, thoughts, self._special_ids)
        with self._lock:
            if (kept := self._kept.get(text)) is not None:
                self._kept.move_to_end(text)
                return kept
            tokenizer = self._prepared()
        limits = _limits()
        matcher = LLMatcher(tokenizer, text, log_level=0, limits=limits)
        if matcher.is_error():
            reason = _first_line(matcher.get_error())
            place = None
            if isinstance(wanted, Json):
                ends_s = self._clock() + _MOST_SEARCH_S
                place = _place_of_fault(
                    wanted.schema, reason, limits, lambda: self._clock() > ends_s
                )
            raise GrammarError(reason if place is None else f"{reason} (at {place})")
        _check_first(matcher)
        compiled = CompiledGrammar(matcher, self._vocab_size, self._end_ids)
        with self._lock:
            self._kept[text] = compiled
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return compiled

    def _prepared(self) -> LLTokenizer:
        if self._tokenizer is None:
            ends = list(self._end_ids)
            text = _with_marks(self._tokenizer_json, frozenset(self._special_ids.values()))
            self._tokenizer = LLTokenizer(text, self._vocab_size, ends)
        return self._tokenizer


def _with_marks(tokenizer_json: str, special_ids: frozenset[int]) -> str:
    """The tokenizer with these tokens as tokens of control, by names that no text holds.

    The library writes forced letters by it, and would else take some for such a token, which its
    grammars do not take for letters.
    """
    tokenizer = msgspec.json.decode(tokenizer_json)
    names: dict[str, str] = {}
    for token in tokenizer.get("added_tokens", ()):
        if token["special"] or token["id"] in special_ids:
            name = f"<|\ufdd0{token['id']}|>"
            names[token["content"]] = name
            token |= {"content": name, "special": True, "normalized": False}
    model = tokenizer["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(text, text): id_ for text, id_ in model["vocab"].items()}
    else:
        model["vocab"] = [[names.get(text, text), score] for text, score in model["vocab"]]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    return msgspec.json.encode(tokenizer).decode()


def _limits() -> LLParserLimits:
    """What compiling and following a grammar may take. A lexer state takes 1 to 2 kB."""
    return LLParserLimits(
        max_items_in_row=10_000,
        initial_lexer_fuel=1_000_000,
        step_lexer_fuel=200_000,
        step_max_items=50_000,
        max_lexer_states=50_000,
        max_grammar_size=100_000,
        verbose_errors=False,
    )


def _grammar_text(wanted: Wanted) -> str:
    try:
        match wanted:
            case Json():
                return LLMatcher.grammar_from_json_schema(_schema_text(wanted))
            case Regex(pattern):
                _check_length(pattern)
                return LLMatcher.grammar_from_regex(pattern)
            case OneOf(texts):
                _check_length("".join(texts))
                options = " | ".join(map(json.dumps, texts))
                return LLMatcher.grammar_from_lark(f"start: {options}")
            case Written(text):
                _check_length(text)
                _check_rules(text)
                return LLMatcher.grammar_from_lark(any_to_lark(text))
            case Lark(text):
                _check_length(text, _MAX_OWN_CHARACTERS)
                return LLMatcher.grammar_from_lark(text)
    except GrammarError:
        raise
    except RecursionError as error:
        raise GrammarError(_TOO_DEEP) from error
    except Exception as error:  # the library raises whatever its parsers raise
        raise GrammarError(_first_line(str(error))) from error


def _schema_text(wanted: Json) -> str:
    schema = wanted.schema
    _check_length(msgspec.json.encode(schema).decode())
    if is_deeper_than(schema, MAX_LEVELS):
        raise GrammarError(_TOO_DEEP)
    if isinstance(schema, Mapping):
        layout: Mapping[str, Any] = JSON_LAYOUT
        if wanted.whitespace is not None:
            layout = {"whitespace_flexible": True, "whitespace_pattern": wanted.whitespace}
        schema = laid_out(schema, layout, wanted.is_lenient)
    return msgspec.json.encode(schema).decode()


def _place_of_fault(
    schema: JsonSchemaText, reason: str, limits: LLParserLimits, is_over: Callable[[], bool]
) -> str | None:
    """The smallest part of a schema that fails by itself for this reason, as a JSON pointer.

    None where only the whole does, or nothing was found in as many tries as are allowed.
    """
    if not isinstance(schema, Mapping):
        return None
    shared = {name: schema[name] for name in SHARED if name in schema}
    num_tries = num_characters = 0

    def is_wrong(part: Mapping[str, Any]) -> bool:
        nonlocal num_tries, num_characters
        if num_tries >= _MOST_TRIES or num_characters >= _MOST_SEARCHED or is_over():
            return False
        text = _grammar_text(Json({**shared, **part}))
        num_tries, num_characters = num_tries + 1, num_characters + len(text)
        return _first_line(LLMatcher.validate_grammar(text, None, limits=limits)) == reason

    path: Path = ()
    part: Mapping[str, Any] = schema
    while True:
        below = next((found for found in parts(part) if is_wrong(found[1])), None)
        if below is None:
            return pointer(path) if path else None
        path, part = path + below[0], below[1]


def _check_first(matcher: LLMatcher) -> None:
    """Ask for the first token, since a text that refers to itself alone has none."""
    first = matcher.deep_copy()
    first.compute_bitmask()
    if first.is_error():
        reason = "no text fits: it refers to nothing but itself, or is too complex to be followed"
        raise GrammarError(reason)


def _check_length(text: str, most: int = MAX_CHARACTERS) -> None:
    if len(text) > most:
        raise GrammarError(f"expected at most {most} characters, got {len(text)}")


def _check_rules(text: str) -> None:
    num_rules = sum(1 for _ in _RULE.finditer(text))
    if num_rules > MAX_RULES:
        raise GrammarError(f"expected at most {MAX_RULES} rules, got {num_rules}")


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:400]
