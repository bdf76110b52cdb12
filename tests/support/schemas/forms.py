"""Whole forms, as programs ask for them: extraction, arguments of tools, configuration, marks."""

from collections.abc import Mapping
from typing import Any

from tests.support.schemas.objects import closed
from tests.support.schemas.references import ref

_WORD = {"type": "string", "maxLength": 12}
_NAME = {"type": "string", "pattern": "^[A-Z][a-z]{1,9}$"}
_COUNT = {"type": "integer", "minimum": 0, "maximum": 99}
_FLAG = {"type": "boolean"}
_DATE = {"type": "string", "format": "date"}
_PRICE = {"type": "number", "minimum": 0, "maximum": 1000}
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}


def some(items: Any, most: int = 2, least: int = 0) -> dict[str, Any]:
    """A list of so many."""
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def maybe(schema: Any) -> dict[str, Any]:
    """This or null."""
    return {"anyOf": [schema, {"type": "null"}]}


_EXTRACTED: Mapping[str, Any] = {
    "person": {"name": _NAME, "age": _COUNT, "married": _FLAG},
    "calendar event": {"name": _WORD, "date": _DATE, "participants": some(_NAME)},
    "invoice": {
        "number": {"type": "string", "pattern": r"^INV-\d{4}$"},
        "issued": _DATE,
        "lines": some(closed({"text": _WORD, "count": _COUNT, "price": _PRICE}), least=1),
        "currency": {"enum": ["EUR", "USD", "GBP"]},
        "paid": _FLAG,
    },
    "address": {
        "street": _WORD,
        "number": {"type": "string", "pattern": "^[0-9]{1,3}[a-c]?$"},
        "city": _NAME,
        "code": {"type": "string", "pattern": r"^\d{5}$"},
        "country": {"type": "string", "pattern": "^[A-Z]{2}$"},
    },
    "curriculum vitae": {
        "name": _NAME,
        "skills": some(_WORD),
        "jobs": some(closed({"employer": _NAME, "from": _DATE, "until": maybe(_DATE)})),
    },
    "book": {"title": _WORD, "author": _NAME, "year": {"type": "integer", "minimum": 1450}},
    "recipe": {
        "title": _WORD,
        "minutes": _COUNT,
        "ingredients": some(
            closed({"name": _WORD, "amount": _COUNT, "unit": {"enum": ["g", "ml", "pcs"]}}), least=1
        ),
        "steps": some(_WORD),
    },
    "contact": {
        "email": {"type": "string", "format": "email"},
        "phone": maybe({"type": "string", "pattern": r"^\+\d{8,12}$"}),
    },
    "receipt": {"shop": _NAME, "total": _PRICE, "vat": {"enum": [7, 19]}, "time": _WORD},
    "flight": {
        "from": {"type": "string", "pattern": "^[A-Z]{3}$"},
        "to": {"type": "string", "pattern": "^[A-Z]{3}$"},
        "departs": {"type": "string", "format": "date-time"},
        "seats": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "patient": {
        "id": {"type": "string", "format": "uuid"},
        "temperature": {"type": "number", "minimum": 34, "maximum": 42},
        "symptoms": some({"enum": ["cough", "fever", "pain"]}, 3),
    },
    "entities": {
        "entities": some(
            closed({"text": _WORD, "label": {"enum": ["PERSON", "PLACE", "DATE"]}, "at": _COUNT})
        )
    },
    "triple": {"subject": _NAME, "relation": {"enum": ["knows", "likes"]}, "object": _NAME},
    "article": {
        "headline": _WORD,
        "tags": some(_WORD, 3),
        "published": maybe(_DATE),
        "author": closed({"name": _NAME, "email": {"type": "string", "format": "email"}}),
    },
    "car": {"make": _NAME, "doors": {"enum": [2, 3, 4, 5]}, "electric": _FLAG, "power": _COUNT},
}

_JUDGED: Mapping[str, Any] = {
    "sentiment": {"sentiment": {"enum": ["positive", "neutral", "negative"]}, "score": _SHARE},
    "rating with a reason": {"reason": _WORD, "rating": {"type": "integer", "enum": [1, 2, 3]}},
    "moderation": {"flagged": _FLAG, "categories": closed({"spam": _FLAG, "hate": _FLAG})},
    "comparison": {"better": {"enum": ["A", "B", "tie"]}, "certainty": _SHARE},
    "routing": {"next": {"enum": ["search", "answer", "ask"]}, "why": maybe(_WORD)},
    "quiz": {"question": _WORD, "options": some(_WORD, 3, 3), "right": {"enum": [0, 1, 2]}},
    "steps of mathematics": {
        "steps": some(closed({"explanation": _WORD, "output": _WORD}), least=1),
        "final_answer": _WORD,
    },
    "chain of thought": {"reasoning": _WORD, "answer": _COUNT},
    "language": {"language": {"enum": ["de", "en", "fr"]}, "certain": _FLAG},
    "summary": {"summary": {"type": "string", "maxLength": 30}, "words": _COUNT},
    "facts": {"facts": some(closed({"claim": _WORD, "supported": _FLAG}), least=1)},
    "scores": dict.fromkeys(("clarity", "style", "truth"), _SHARE),
}

_ARGUMENTS: Mapping[str, Any] = {
    "weather": ({"city": _NAME, "unit": {"enum": ["celsius", "fahrenheit"]}}, ("city",)),
    "search": ({"query": _WORD, "limit": {"type": "integer", "minimum": 1, "maximum": 50}}, None),
    "send a message": ({"to": _NAME, "text": _WORD, "urgent": _FLAG}, ("to", "text")),
    "read a file": ({"path": {"type": "string", "pattern": r"^/[a-z]{1,9}\.txt$"}}, None),
    "edit a file": ({"path": _WORD, "old": _WORD, "new": _WORD, "all": _FLAG}, None),
    "run a command": ({"command": _WORD, "timeout": maybe(_COUNT)}, ("command",)),
    "set a timer": ({"minutes": {"type": "integer", "exclusiveMinimum": 0, "maximum": 90}}, None),
    "lights": (
        {"room": {"enum": ["kitchen", "hall"]}, "level": {"type": "integer", "maximum": 100}},
        None,
    ),
    "query a table": (
        {
            "table": {"enum": ["users", "orders"]},
            "where": some(
                closed({"column": _WORD, "is": {"enum": ["=", "<", ">"]}, "value": _COUNT}), 1
            ),
            "order": {"enum": ["asc", "desc"]},
        },
        ("table", "where"),
    ),
    "draw": ({"shape": {"enum": ["circle", "square"]}, "colour": _WORD, "size": _COUNT}, None),
    "take a note": ({"note": {"type": "string"}}, None),
    "book a table": (
        {
            "at": {"type": "string", "pattern": r"^\d{2}:\d{2}$"},
            "people": {"type": "integer", "minimum": 1, "maximum": 12},
            "name": maybe(_NAME),
        },
        None,
    ),
}

_SETTINGS: Mapping[str, Any] = {
    "server": {
        "host": {"type": "string", "format": "ipv4"},
        "port": {"type": "integer", "minimum": 1, "maximum": 65535},
        "tls": closed({"enabled": _FLAG, "versions": some({"enum": ["1.2", "1.3"]})}),
    },
    "package": {
        "name": {"type": "string", "pattern": "^[a-z][a-z-]{0,9}$"},
        "version": {"type": "string", "pattern": r"^\d\.\d\.\d$"},
        "private": _FLAG,
        "keywords": some(_WORD),
    },
    "job": {
        "runs": {"enum": ["linux", "macos"]},
        "steps": some(closed({"name": _WORD, "run": _WORD}), least=1),
        "timeout": _COUNT,
    },
    "colours": {
        name: {"type": "string", "pattern": "^#[0-9a-f]{6}$"} for name in ("ink", "paper", "mark")
    },
    "limits": {"memory": {"type": "string", "pattern": "^[1-9][0-9]{0,2}Gi$"}, "cores": _COUNT},
    "logging": {"level": {"enum": ["debug", "info", "error"]}, "sinks": some(_WORD, 1)},
    "schedule": {
        "day": {"enum": ["mon", "tue", "wed"]},
        "hours": some({"type": "integer", "minimum": 0, "maximum": 23}, 3, 1),
    },
    "feature flags": {name: maybe(_FLAG) for name in ("dark", "beta", "sound")},
}

_NESTED: Mapping[str, Any] = {
    "a page of components": {
        "$defs": {
            "component": closed(
                {
                    "type": {"enum": ["div", "button", "field"]},
                    "label": _WORD,
                    "children": some(ref("component"), 1),
                }
            )
        },
        **ref("component"),
    },
    "a point of geography": closed(
        {
            "type": {"const": "Point"},
            "coordinates": {
                "type": "array",
                "prefixItems": [
                    {"type": "number", "minimum": -180, "maximum": 180},
                    {"type": "number", "minimum": -90, "maximum": 90},
                ],
                "items": False,
                "minItems": 2,
            },
        }
    ),
    "a game character": closed(
        {
            "name": _NAME,
            "class": {"enum": ["mage", "knight", "thief"]},
            "stats": closed(dict.fromkeys(("strength", "wit", "luck"), _COUNT)),
            "items": some(closed({"name": _WORD, "weight": _PRICE})),
        }
    ),
    "an order with a customer": {
        "$defs": {
            "Customer": closed({"id": _COUNT, "name": _NAME}),
            "Line": closed({"sku": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"}}),
        },
        **closed({"customer": ref("Customer"), "lines": some(ref("Line"), least=1)}),
    },
    "a family": {
        "$defs": {
            "person": closed({"name": _NAME, "children": some(ref("person"), 1)}),
        },
        **closed({"eldest": ref("person")}),
    },
    "a plan of an agent": closed(
        {
            "thought": _WORD,
            "action": {
                "anyOf": [
                    closed({"tool": {"const": "search"}, "query": _WORD}),
                    closed({"tool": {"const": "finish"}, "answer": _WORD}),
                ]
            },
        }
    ),
    "a table": closed(
        {
            "columns": some(_WORD, 2, 1),
            "rows": some(some({"type": ["integer", "null"]}, 2, 1), 2, 1),
        }
    ),
    "a menu": closed(
        {
            "dishes": some(closed({"name": _WORD, "price": _PRICE, "vegan": _FLAG}), 2, 2),
            "drinks": some({"enum": ["water", "tea", "juice"]}, 3),
        }
    ),
}

_WRITTEN = "written as JSON Schema's older drafts do"

FORMS: Mapping[str, Any] = {
    **{f"extraction, {name}": closed(fields) for name, fields in _EXTRACTED.items()},
    **{f"judgement, {name}": closed(fields) for name, fields in _JUDGED.items()},
    **{f"arguments, {name}": closed(*given) for name, given in _ARGUMENTS.items()},
    **{f"settings, {name}": closed(fields) for name, fields in _SETTINGS.items()},
    **{f"nested, {name}": schema for name, schema in _NESTED.items()},
    _WRITTEN: {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": "http://example.com/root.json",
        **closed({"size": {"type": "integer", "minimum": 0, "exclusiveMaximum": 5}}),
    },
}
"""By name."""
