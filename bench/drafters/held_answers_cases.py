"""Questions whose answers are held to a schema, and questions that a tool answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_TEXT: Mapping[str, Any] = {"type": "string"}
_COUNT: Mapping[str, Any] = {"type": "integer", "minimum": 0, "maximum": 1000}


def _closed(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _some(items: Any, most: int = 4) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1, "maxItems": most}


@dataclass(frozen=True, slots=True)
class SchemaCase:
    """A question and what its answer has to be."""

    question: str
    schema: Mapping[str, Any]


SCHEMAS: Sequence[SchemaCase] = (
    SchemaCase(
        "Anna Schmidt is 42 years old and lives at 5 Elm Street in Boston. Give it as JSON.",
        _closed(name=_TEXT, age=_COUNT, address=_closed(number=_COUNT, street=_TEXT, city=_TEXT)),
    ),
    SchemaCase(
        "Is this review good, bad or mixed? 'The food was cold, and nobody was sorry.'",
        _closed(
            sentiment={"enum": ["good", "bad", "mixed"]},
            certainty={"type": "number", "minimum": 0, "maximum": 1},
            reason=_TEXT,
        ),
    ),
    SchemaCase(
        "Plan two days in Rome for a family with a child. Give it as JSON.",
        _closed(
            city=_TEXT,
            days=_some(_closed(morning=_TEXT, afternoon=_TEXT, evening=_TEXT), most=2),
        ),
    ),
    SchemaCase(
        "Two boxes of pencils at 3.50 and a lamp at 24.90, ordered on 5 March 2026. An invoice.",
        _closed(
            number={"type": "string", "pattern": r"^INV-\d{4}$"},
            issued={"type": "string", "format": "date"},
            lines=_some(_closed(item=_TEXT, quantity=_COUNT, unit_price={"type": "number"})),
        ),
    ),
    SchemaCase(
        "What do I need to bake bread, and how long does it take?",
        _closed(
            title=_TEXT,
            minutes=_COUNT,
            ingredients=_some(
                _closed(name=_TEXT, amount=_COUNT, unit={"enum": ["gram", "litre", "piece"]})
            ),
        ),
    ),
    SchemaCase(
        "Name an animal that lives in the sea, and how it moves.",
        _closed(
            animal=_TEXT,
            moves={
                "anyOf": [
                    _closed(kind={"const": "swims"}, speed_km_per_hour=_COUNT),
                    _closed(kind={"const": "crawls"}, number_of_legs=_COUNT),
                ]
            },
        ),
    ),
    SchemaCase(
        "Set the living room's lights to half and the heating to 21 degrees.",
        _closed(
            actions=_some(
                _closed(
                    device={"enum": ["lights", "heating", "blinds"]},
                    room=_TEXT,
                    value=_COUNT,
                    is_on={"type": "boolean"},
                ),
                most=2,
            )
        ),
    ),
    SchemaCase(
        "Summarise: The ship left the harbour at dawn, the storm came at noon, nobody was hurt.",
        _closed(summary=_TEXT, key_points=_some(_TEXT, most=3), language={"const": "en"}),
    ),
)


def _tool(name: str, about: str, **properties: Any) -> dict[str, Any]:
    function = {"name": name, "description": about, "parameters": _closed(**properties)}
    return {"type": "function", "function": function}


TOOLS: Sequence[Mapping[str, Any]] = (
    _tool(
        "get_weather_forecast",
        "The weather of a city.",
        city=_TEXT,
        number_of_days=_COUNT,
        unit={"enum": ["celsius", "fahrenheit"]},
    ),
    _tool("search_documents", "Find documents.", query=_TEXT, max_results=_COUNT),
    _tool(
        "create_calendar_event",
        "Write an event down.",
        title=_TEXT,
        date={"type": "string", "format": "date"},
        duration_minutes=_COUNT,
    ),
    _tool("send_message", "Write to somebody.", recipient=_TEXT, subject=_TEXT, body=_TEXT),
)
"""Offered with each of the questions."""

CALLS: Sequence[str] = (
    "What will the weather be in Rome for the next 2 days?",
    "Find three documents about the history of the bicycle.",
    "Put dinner with Anna into my calendar, 14 March 2026, two hours.",
    "Write to Tom that the meeting is moved to Friday.",
    "Do I need an umbrella in London tomorrow?",
    "Search for everything that we have on solar panels.",
    "Remind me of the dentist on 2 April 2026.",
    "Tell my sister that I will be late for lunch.",
)
