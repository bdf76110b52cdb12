"""Grammars made from what clients say, for one model's tokens.

Compiling takes milliseconds, and up to a second where a schema is as large as is allowed; the
tokens are prepared once, with the first grammar. Both let Python's interpreter lock go, so they
belong into a thread.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.gbnf_to_lark import any_to_lark

from device_runtime.generation.grammar import Constraint, Grammar, GrammarError
from device_runtime.grammar.lark import JSON_LAYOUT, behind_thoughts
from device_runtime.grammar.matching import MatcherConstraint
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

MAX_CHARACTERS = 65_536
"""Of a schema or grammar as it is written."""

_MAX_OWN_CHARACTERS = 4 * MAX_CHARACTERS
"""Of a grammar that this program wrote, for all tools of a request."""

_KEPT = 32
"""Compiled grammars that are kept, since clients ask again and again for the same."""

_MOST_TRIES = 200
"""Compilations of parts, to find the one at fault."""

_SHARED = ("$defs", "definitions")
_NAMED = frozenset({"properties", "patternProperties", *_SHARED})
_SINGLE = frozenset({"items", "additionalProperties", "contains", "not"})
_LISTED = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
"""Where in a schema other schemas stand."""


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
    """

    def __init__(
        self,
        tokenizer_json: str,
        vocab_size: int,
        end_ids: tuple[int, ...],
        special_ids: Mapping[str, int] | None = None,
    ) -> None:
        self._tokenizer_json = tokenizer_json
        self._vocab_size = vocab_size
        self._end_ids = end_ids
        self._special_ids = special_ids or {}
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
            place = _place_of_fault(wanted.schema, limits) if isinstance(wanted, Json) else None
            raise GrammarError(reason if place is None else f"{reason} (at {place})")
        compiled = CompiledGrammar(matcher, self._vocab_size, self._end_ids)
        with self._lock:
            self._kept[text] = compiled
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return compiled

    def _prepared(self) -> LLTokenizer:
        if self._tokenizer is None:
            ends = list(self._end_ids)
            self._tokenizer = LLTokenizer(self._tokenizer_json, self._vocab_size, ends)
        return self._tokenizer


def _limits() -> LLParserLimits:
    """What compiling and following a grammar may take. A lexer state takes 1 to 2 kB."""
    return LLParserLimits(
        max_items_in_row=2_000,
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
            case Json(schema, whitespace):
                written = msgspec.json.encode(schema).decode()
                _check_length(written)
                return LLMatcher.grammar_from_json_schema(written, overrides=_layout(whitespace))
            case Regex(pattern):
                _check_length(pattern)
                return LLMatcher.grammar_from_regex(pattern)
            case OneOf(texts):
                _check_length("".join(texts))
                options = " | ".join(msgspec.json.encode(text).decode() for text in texts)
                return LLMatcher.grammar_from_lark(f"start: {options}")
            case Written(text):
                _check_length(text)
                return LLMatcher.grammar_from_lark(any_to_lark(text))
            case Lark(text):
                _check_length(text, _MAX_OWN_CHARACTERS)
                return LLMatcher.grammar_from_lark(text)
    except GrammarError:
        raise
    except Exception as error:  # the library raises whatever its parsers raise
        raise GrammarError(_first_line(str(error))) from error


def _layout(whitespace: str | None) -> Any:
    if whitespace is not None:
        return {"whitespace_flexible": True, "whitespace_pattern": whitespace}
    return JSON_LAYOUT


def _place_of_fault(schema: JsonSchemaText, limits: LLParserLimits) -> str | None:
    """The smallest part of a schema that cannot be compiled by itself, as a JSON pointer.

    None where only the whole is at fault, or nothing was found in `_MOST_TRIES` tries.
    """
    if not isinstance(schema, Mapping):
        return None
    shared = {name: schema[name] for name in _SHARED if name in schema}
    tries = iter(range(_MOST_TRIES))

    def is_wrong(part: Mapping[str, Any]) -> bool:
        text = _grammar_text(Json({**shared, **part}))
        return next(tries, None) is not None and bool(
            LLMatcher.validate_grammar(text, None, limits=limits)
        )

    pointer, part = "#", schema
    while True:
        wrong = (found for found in _parts(part) if is_wrong(found[1]))
        below = next(wrong, None)
        if below is None:
            return None if pointer == "#" else pointer
        pointer, part = f"{pointer}/{below[0]}", below[1]


def _parts(schema: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The schemas within one, with their pointers from it."""
    for name, value in schema.items():
        key = _escaped(name)
        if isinstance(value, Mapping):
            if name in _NAMED:
                yield from (
                    (f"{key}/{_escaped(each)}", part)
                    for each, part in value.items()
                    if isinstance(part, Mapping)
                )
            elif name in _SINGLE:
                yield key, value
        elif isinstance(value, list) and name in _LISTED:
            yield from (
                (f"{key}/{place}", part)
                for place, part in enumerate(value)
                if isinstance(part, Mapping)
            )


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _check_length(text: str, most: int = MAX_CHARACTERS) -> None:
    if len(text) > most:
        raise GrammarError(f"expected at most {most} characters, got {len(text)}")


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:400]
