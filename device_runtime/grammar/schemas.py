"""JSON schemas as the grammar library takes them: their parts, layout, and unions it can prove."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

SHARED = ("$defs", "definitions")
_NAMED = frozenset({"properties", "patternProperties", *SHARED})
_SINGLE = frozenset({"items", "additionalItems", "additionalProperties", "contains", "not"})
_LISTED = frozenset({"items", "anyOf", "oneOf", "allOf", "prefixItems"})
"""Where in a schema other schemas stand."""

_MOST_DEPTH = 200
"""Of schemas in schemas; the library takes 128."""

_NO_LEAP_SECOND = "^[^:]+:[^:]+:[0-5]"
"""Of times: the library lets any minute have a 61st second, validators hardly any."""

_MOST_HOPS = 16
"""Of a reference to a reference to a reference."""

Path = tuple[str, ...]


_LOOKS_AROUND = re.compile(r"\(\?<?[=!]")
"""In a pattern what no automaton follows."""


def laid_out(
    schema: Mapping[str, Any], layout: Mapping[str, Any], is_lenient: bool = False
) -> dict[str, Any]:
    """A schema whose JSON is written in this layout.

    What a lenient one says that cannot be held to is passed over; all else is followed.
    What a client says under the library's own keyword is left out: some of it would let through
    what the schema forbids.
    """
    result = united(schema)
    if is_lenient:
        result = _without_looks(result, 0)
    return {**result, "x-guidance": {**layout, "lenient": is_lenient}}


def united(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema with `anyOf` for each `oneOf` whose options exclude one another.

    The library proves that of schemas in place and not of references, which is how pydantic writes
    a union with a discriminator.
    """
    result = _united(schema, schema, 0)
    assert isinstance(result, dict), "a mapping stays one"
    return result


def parts(schema: Mapping[str, Any]) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """The schemas within one that are objects, with the way to them."""
    for name, value in schema.items():
        if isinstance(value, Mapping) and name in _NAMED:
            for each, part in value.items():
                if isinstance(part, Mapping):
                    yield (name, each), part
        elif isinstance(value, Mapping) and name in _SINGLE:
            yield (name,), value
        elif isinstance(value, list) and name in _LISTED:
            for place, part in enumerate(value):
                if isinstance(part, Mapping):
                    yield (name, str(place)), part


def is_deeper_than(value: Any, most: int) -> bool:
    """Whether a value of JSON has more levels of objects and lists in one another."""
    level = [value]
    for _ in range(most + 1):
        inner: list[Any] = []
        for each in level:
            if isinstance(each, Mapping):
                inner += each.values()
            elif isinstance(each, list):
                inner += each
        if not inner:
            return False
        level = inner
    return True


def pointer(path: Path) -> str:
    """A way into a schema as a JSON pointer."""
    return "#" + "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in path)


def _united(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> dict[str, Any]:
    changed = dict(schema)
    if depth >= _MOST_DEPTH:
        return changed
    for path, part in parts(schema):
        _put(changed, schema, path, _united(part, root, depth + 1))
    if schema.get("format") in ("time", "date-time") and "pattern" not in schema:
        changed["pattern"] = _NO_LEAP_SECOND
    options = schema.get("oneOf")
    if "anyOf" in schema or not isinstance(options, list) or not _exclude(options, root):
        return changed
    return {("anyOf" if name == "oneOf" else name): value for name, value in changed.items()}


def _without_looks(schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
    """A schema without patterns that look around, also those of names."""
    pattern = schema.get("pattern")
    is_looking = isinstance(pattern, str) and _LOOKS_AROUND.search(pattern)
    changed = {name: schema[name] for name in schema if name != "pattern" or not is_looking}
    named = changed.get("patternProperties")
    if isinstance(named, Mapping):
        kept = {name: named[name] for name in named if not _LOOKS_AROUND.search(name)}
        changed["patternProperties"] = kept
    if depth >= _MOST_DEPTH:
        return changed
    for path, part in parts(changed):
        _put(changed, schema, path, _without_looks(part, depth + 1))
    return changed


def _put(
    changed: dict[str, Any], schema: Mapping[str, Any], path: Path, inner: Mapping[str, Any]
) -> None:
    """Put a part in, into a copy of what holds it in the schema that is being changed."""
    if len(path) == 1:
        changed[path[0]] = inner
        return
    holder = changed[path[0]]
    if holder is schema[path[0]]:
        holder = changed[path[0]] = holder.copy()
    holder[int(path[1]) if isinstance(holder, list) else path[1]] = inner


def _exclude(options: Sequence[Any], root: Mapping[str, Any]) -> bool:
    """Whether no value fits two of the options: by their types, and objects by a property."""
    resolved = [_resolved(option, root) for option in options]
    objects = [option for option in resolved if option.get("type") == "object"]
    kinds: list[str] = []
    for option in resolved:
        if option.get("type") != "object":
            own = _types(option)
            if not own or "object" in own:
                return False
            kinds += own
    if len(set(kinds)) < len(kinds):
        return False
    if len(objects) < 2:
        return True
    return any(_differ(objects, name) for name in _tags(objects[0]))


def _resolved(option: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """What an option refers to; an empty schema if that is not to be found."""
    for _ in range(_MOST_HOPS):
        if not isinstance(option, Mapping):
            break
        reference = option.get("$ref")
        if reference is None:
            return option
        option = _found(reference, root)
    return {}


def _found(reference: Any, root: Any) -> Any:
    """What stands where a local reference points, if it is written in the plainest way."""
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return None
    found = root
    for step in reference[2:].split("/"):
        if not isinstance(found, Mapping):
            return None
        found = found.get(step.replace("~1", "/").replace("~0", "~"))
    return found


def _types(option: Mapping[str, Any]) -> list[str]:
    """The types that an option may have, whole numbers being numbers; none if it does not say."""
    said = option.get("type")
    names = [said] if isinstance(said, str) else said
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return []
    return sorted({"number" if name == "integer" else name for name in names})


def _tags(option: Mapping[str, Any]) -> Iterator[str]:
    """The properties that an object must have."""
    required = option.get("required")
    if isinstance(required, list):
        yield from (name for name in required if isinstance(name, str))


def _differ(objects: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Whether all of the objects must have this property, each with texts of its own."""
    seen: list[str] = []
    for option in objects:
        properties = option.get("properties")
        value = properties.get(name) if isinstance(properties, Mapping) else None
        if name not in _tags(option) or not isinstance(value, Mapping):
            return False
        texts = [value["const"]] if "const" in value else value.get("enum")
        # Texts only: 1 and 1.0 and true are alike in one place and different in another.
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            return False
        seen += {json.dumps(text) for text in texts}
    return len(set(seen)) == len(seen)
