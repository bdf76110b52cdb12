"""The grammar of an answer that may call tools: words, then calls whose arguments fit."""

from collections.abc import Iterator, Mapping
from typing import Any

from device_runtime.calling.layouts import OWN_ID, Layout
from device_runtime.calling.parameters import form_of, is_plain, parameter, texts_of
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
        rules = [rules[0], ANY_TEXT, "UNMARKED: /[^{](.|\\n)*/"]
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
    if layout.arguments == "json":
        yield f"tool{place}: {head} {json_of(schema, not tool.is_strict)} {tail}"
        return
    names = []
    if tool.is_strict and (spread := sorted(schema.keys() & _SPREAD)):
        reason = f"{tool.where}: {spread[0]} cannot be held to in this model's form of calls"
        raise GrammarError(reason)
    properties = dict(_properties(schema))
    for name in schema.get("required", ()):
        properties.setdefault(name, True)
    for number, (name, value) in enumerate(properties.items()):
        rule = f"tool{place}_{number}"
        before, behind = (literal(text, special_ids) for text in parameter(name))
        if is_plain(value) and (texts := texts_of(value)) is not None:
            options = " | ".join(literal(text, special_ids) or '""' for text in texts)
            yield f"{rule}: {before} ({options}) {behind}"
        elif form_of(value) != "json":
            yield f"{rule}_text[lazy]: TEXT {behind}"
            yield f"{rule}: {before} {rule}_text"
        else:
            own = json_of(_within(schema, value), not tool.is_strict)
            yield f"{rule}: {before} {own} {behind}"
        is_required = name in schema.get("required", ())
        names.append(rule if is_required else f"{rule}?")
    yield f"tool{place}: {head} {' '.join(names)} {tail}"


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
