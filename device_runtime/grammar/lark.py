"""Pieces of grammars in Lark's syntax, as llguidance has it."""

import json
import re
from collections.abc import Mapping
from typing import Any

from device_runtime.grammar.schemas import laid_out
from device_runtime.grammar.wanted import Thoughts

ANY_TEXT = "TEXT: /(.|\\n)*/"
"""A rule that the others here refer to."""

JSON_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""Between the parts of a JSON text: what models see most, and no room to go round in."""


_PIECE = re.compile(r'"(?:\\.|[^"\\])*"|/(?:\\.|[^/\\\n])+/|<[^<>\s]+>')
"""A text, a regular expression, or a token's name."""


def literal(text: str, special_ids: Mapping[str, int]) -> str:
    """A text in a rule; tokens of control, by their names, stand for themselves."""
    if not text:
        return ""
    names = sorted((name for name in special_ids if name in text), key=len, reverse=True)
    if not names:
        return json.dumps(text)
    pieces = re.split("(" + "|".join(map(re.escape, names)) + ")", text)
    return " ".join(
        f"<[{special_ids[piece]}]>" if piece in special_ids else json.dumps(piece)
        for piece in pieces
        if piece
    )


def by_number(grammar: str, special_ids: Mapping[str, int]) -> str:
    """A written grammar with tokens of control by their numbers, where it has them by name."""

    def numbered(found: re.Match[str]) -> str:
        return f"<[{special_ids[found[0]]}]>" if found[0] in special_ids else found[0]

    return _PIECE.sub(numbered, grammar)


def json_of(schema: Mapping[str, Any], is_lenient: bool = False) -> str:
    """A JSON text that fits a schema, in a rule; `is_lenient` as of what is wanted."""
    return "%json " + json.dumps(laid_out(schema, JSON_LAYOUT, is_lenient))


def up_to(name: str, mark: str, special_ids: Mapping[str, int]) -> tuple[str, str]:
    """Any text up to a mark and with it: what stands in a rule, and the rules for it."""
    rule = f"{name}[lazy]: TEXT {json.dumps(mark)}\n"
    if any(mark.startswith(special) for special in special_ids):
        # Who reads the answer cannot tell the token from its letters.
        return f"(TEXT {literal(mark, special_ids)} | {name})", rule
    return name, rule


def behind_thoughts(grammar: str, thoughts: Thoughts, special_ids: Mapping[str, int]) -> str:
    """A grammar with thoughts before it, which may be left out if they are still to begin."""
    thought, rules = up_to("thought", thoughts.end, special_ids)
    whole = f"{thought} SPACE @answer"
    if thoughts.begin is not None:
        whole = f"{literal(thoughts.begin, special_ids)} {whole} | @answer"
    head = f"%llguidance {{}}\nstart: {whole}\n{ANY_TEXT}\nSPACE: /\\s{{0,4}}/\n{rules}"
    own: list[dict[str, Any]]
    if grammar.startswith("{"):
        own = json.loads(grammar)["grammars"]
    else:
        own = [{"lark_grammar": grammar}]
    own[0]["name"] = "answer"
    return json.dumps({"grammars": [{"lark_grammar": head}, *own]})
