"""The grammar of an answer that may call tools: words, then calls whose arguments fit."""

from collections.abc import Iterator, Mapping
from typing import Any

from device_runtime.calling.layouts import Layout
from device_runtime.calling.parameters import is_plain, parameter
from device_runtime.calling.tools import Offer, Tool
from device_runtime.grammar.lark import ANY_TEXT, json_of, literal, up_to

MAX_CALLS = 16
"""In one answer: a small model may say the same call again and again until its context is full."""


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
    """
    begun, rule = up_to("begun", layout.begin, special_ids)
    rules = [f"start: {_start(layout, offer, begun, special_ids, instead)}", ANY_TEXT, rule]
    if not layout.begin:
        rules = [rules[0], ANY_TEXT, "UNMARKED: /[^{](.|\\n)*/"]
    run, between = "call", layout.between
    if offer.in_parallel and offer.named is None and between is not None:
        run = f"call ({literal(between, special_ids)} call){{0,{MAX_CALLS - 1}}}"
    rules.append(f"calls: {run} {literal(layout.end, special_ids)}")
    tools = offer.callable
    rules.append(f"call: {' | '.join(f'tool{place}' for place in range(len(tools)))}")
    for place, tool in enumerate(tools):
        rules += _tool_rules(layout, tool, place, special_ids)
    return "%llguidance {}\n" + "\n".join(rules) + "\n"


def arguments_schema(tool: Tool) -> dict[str, Any]:
    """The schema of a tool's arguments: an object, whatever else it says."""
    return {"type": "object", **tool.parameters}


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
    head = literal(layout.head(tool.name), special_ids)
    tail = literal(layout.tail, special_ids)
    schema = arguments_schema(tool)
    if layout.arguments == "json":
        yield f"tool{place}: {head} {json_of(schema, not tool.is_strict)} {tail}"
        return
    names = []
    for number, (name, value) in enumerate(_properties(schema).items()):
        rule = f"tool{place}_{number}"
        before, behind = (literal(text, special_ids) for text in parameter(name))
        if is_plain(value):
            yield f"{rule}_text[lazy]: TEXT {behind}"
            yield f"{rule}: {before} {rule}_text"
        else:
            own = json_of(_within(schema, value), not tool.is_strict)
            yield f"{rule}: {before} {own} {behind}"
        is_required = name in schema.get("required", ())
        names.append(rule if is_required else f"{rule}?")
    yield f"tool{place}: {head} {' '.join(names)} {tail}"


def _properties(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    properties = schema.get("properties")
    return properties if isinstance(properties, Mapping) else {}


def _within(schema: Mapping[str, Any], part: Any) -> dict[str, Any]:
    """A part of a schema as a schema of its own, with what it may refer to."""
    shared = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
    return {**shared, **part} if isinstance(part, Mapping) else shared
