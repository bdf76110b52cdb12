"""The grammar of an answer that may call tools: words, then calls whose arguments fit."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from device_runtime.calling.layouts import OWN_ID, Layout
from device_runtime.calling.parameters import Marks, form_of, is_plain, python_words, texts_of
from device_runtime.calling.tools import Offer, Tool
from device_runtime.generation.grammar import GrammarError
from device_runtime.grammar.lark import ANY_TEXT, json_of, literal, up_to

MAX_CALLS = 16
"""In one answer: a small model may say the same call again and again until its context is full."""

_OTHERS = frozenset(
    {"additionalProperties", "unevaluatedProperties", "patternProperties"}
    | {"anyOf", "oneOf", "allOf", "$ref", "if"}
)
"""What in a schema says which further properties there may be."""

_SPREAD = frozenset({"anyOf", "oneOf", "allOf", "$ref", "if", "not", "minProperties"})
"""What in a schema says more of an object than each of its properties by itself."""


def call_grammar(
    layout: Layout,
    offer: Offer,
    special_ids: Mapping[str, int],
    instead: Mapping[str, Any] | bool | None = None,
) -> str:
    """The grammar in Lark's syntax, as llguidance has it.

    Args:
        layout: How the model writes calls.
        offer: What may be called, and whether it must be.
        special_ids: Tokens of control by their names: a mark that is one of them is that token.
        instead: The schema of an answer that calls nothing; None: any words, also before calls.

    Raises:
        GrammarError: a schema that the layout has no form for.
    """
    begun, rule = up_to("begun", layout.begin, special_ids)
    rules = [f"start: {_start(layout, offer, begun, special_ids, instead)}", ANY_TEXT, rule]
    if not layout.begin:
        first = re.escape((layout.opening + layout.before_name)[0])
        rules = [rules[0], ANY_TEXT, f"UNMARKED: /[^{first}](.|\\n)*/"]
    run, between = "call", layout.between
    if offer.in_parallel and offer.named is None and between is not None:
        run = f"call ({literal(between, special_ids)} call){{0,{MAX_CALLS - 1}}}"
    opening, end = (literal(text, special_ids) for text in (layout.opening, layout.end))
    rules += [f"calls: {opening} {run} {end}", f"OWNID: /{OWN_ID}/"]
    tools = offer.callable
    rules.append(f"call: {' | '.join(f'tool{place}' for place in range(len(tools)))}")
    for place, tool in enumerate(tools):
        rules += _tool_rules(layout, tool, place, special_ids)
    return "%llguidance {}\n" + "\n".join(rules) + "\n"


def arguments_schema(tool: Tool) -> dict[str, Any]:
    """The schema of a tool's arguments: an object, whatever else it says.

    Where it lists properties and says nothing of others there are no others. JSON schema allows
    them, but a function that is called with what it does not know fails.
    """
    schema = {"type": "object", **tool.parameters}
    if "properties" in schema and not schema.keys() & _OTHERS:
        schema["additionalProperties"] = False
    return schema


def _start(
    layout: Layout,
    offer: Offer,
    begun: str,
    special_ids: Mapping[str, int],
    instead: Mapping[str, Any] | bool | None,
) -> str:
    begin = literal(layout.begin, special_ids)
    if offer.choice == "required" or offer.named is not None:
        return f"{begin} calls"
    if instead is not None:
        schema = instead if isinstance(instead, Mapping) else {}
        return f"{json_of(schema)} | {begin} calls"
    if not layout.begin:
        return '"" | UNMARKED | calls'
    return f"TEXT | {begun} calls"


def _tool_rules(
    layout: Layout, tool: Tool, place: int, special_ids: Mapping[str, int]
) -> Iterator[str]:
    named = literal(layout.head(tool.name).removesuffix(layout.after_name), special_ids)
    head_id = _own_id(layout.id_behind_name, special_ids)
    head = f"{named} {head_id} {literal(layout.after_name, special_ids)}"
    tail_id = _own_id(layout.id_behind_arguments, special_ids)
    tail = f"{tail_id} {literal(layout.tail, special_ids)}"
    schema = arguments_schema(tool)
    if layout.marks is None:
        yield f"tool{place}: {head} {json_of(schema, not tool.is_strict)} {tail}"
        return
    if tool.is_strict and (spread := sorted(schema.keys() & _SPREAD)):
        reason = f"{tool.where}: {spread[0]} cannot be held to in this model's form of calls"
        raise GrammarError(reason)
    names: list[tuple[str, bool]] = []
    for name, value, is_required in _arguments(schema, tool.where, layout.marks, special_ids):
        rule = f"tool{place}_{len(names)}"
        yield from _argument_rules(layout.marks, rule, name, value, tool, special_ids)
        names.append((rule, is_required))
    run, rules = _run_of(f"tool{place}", names, literal(layout.marks.between, special_ids))
    yield from rules
    yield f"tool{place}: {head} {run} {tail}"


def _arguments(
    schema: Mapping[str, Any], where: str, marks: Marks, special_ids: Mapping[str, int]
) -> Iterator[tuple[str, Any, bool]]:
    """Name, schema, and whether it must be there, of each argument that there may be.

    Raises:
        GrammarError: one that must be there and cannot.
    """
    required = schema.get("required")
    required = required if isinstance(required, list) else []
    properties = dict(_properties(schema))
    for name in required:
        if isinstance(name, str):
            properties.setdefault(name, True)
    for name, value in properties.items():
        is_impossible = value is False or any(mark in name for mark in (marks.named, *special_ids))
        if is_impossible and name in required:
            came = f"{where}: {name[:80]!r} is required and cannot be written"
            raise GrammarError(came)
        if not is_impossible:
            yield name, value, name in required


def _argument_rules(
    marks: Marks,
    rule: str,
    name: str,
    value: Any,
    tool: Tool,
    special_ids: Mapping[str, int],
) -> Iterator[str]:
    before, behind = (literal(text, special_ids) for text in marks.around(name))
    if marks.is_plain and is_plain(value, marks) and (texts := texts_of(value)) is not None:
        # A text that reads like a token of control is a text.
        options = " | ".join(literal(text, {}) or '""' for text in texts)
        yield f"{rule}: {before} ({options}) {behind}"
    elif marks.is_plain and form_of(value, marks) != "json":
        text, rules = up_to(f"{rule}_text", marks.close, special_ids)
        yield f"{rule}: {before} {text}"
        yield rules
    else:
        own = json_of(_within(arguments_schema(tool), value), not tool.is_strict)
        if not marks.is_plain:
            own = " | ".join([own, *map(json.dumps, python_words(value))])
        yield f"{rule}: {before} ({own}) {behind}"


def _run_of(tool: str, names: Sequence[tuple[str, bool]], between: str) -> tuple[str, list[str]]:
    """Arguments one behind the other, and the rules for that: those not required may be left out.

    With something between two of them, what is to come depends on whether there was one already.
    """
    if not between:
        return " ".join(name if is_required else f"{name}?" for name, is_required in names), []
    rules = [f'{tool}_begin{len(names)}: ""', f'{tool}_more{len(names)}: ""']
    for number, (name, is_required) in enumerate(names):
        begin, more = f"{tool}_begin{number}", f"{tool}_more{number}"
        next_begin, next_more = f"{tool}_begin{number + 1}", f"{tool}_more{number + 1}"
        without = "" if is_required else f" | {next_begin}"
        rules.append(f"{begin}: {name} {next_more}{without}")
        mark = "" if is_required else "?"
        rules.append(f"{more}: ({between} {name}){mark} {next_more}")
    return f"{tool}_begin0", rules


def _own_id(around: tuple[str, str] | None, special_ids: Mapping[str, int]) -> str:
    if around is None:
        return ""
    before, behind = (literal(text, special_ids) for text in around)
    return f"({before} OWNID {behind})?"


def _properties(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    properties = schema.get("properties")
    return properties if isinstance(properties, Mapping) else {}


def _within(schema: Mapping[str, Any], part: Any) -> dict[str, Any]:
    """A part of a schema as a schema of its own, with what it may refer to."""
    shared = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
    return {**shared, **part} if isinstance(part, Mapping) else shared
