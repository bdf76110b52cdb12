"""Numbers with bounds, whole and not, and the plain types."""

from collections.abc import Mapping
from typing import Any

_WHOLE: Mapping[str, Mapping[str, Any]] = {
    "percent": {"minimum": 0, "maximum": 100},
    "age": {"minimum": 0, "maximum": 150},
    "year": {"minimum": 1900, "maximum": 2100},
    "rating": {"minimum": 1, "maximum": 5},
    "one value": {"minimum": 7, "maximum": 7},
    "around zero": {"minimum": -5, "maximum": 5},
    "negative": {"minimum": -99, "maximum": -10},
    "port": {"minimum": 1, "maximum": 65535},
    "exclusive": {"exclusiveMinimum": 0, "exclusiveMaximum": 10},
    "exclusive below": {"exclusiveMinimum": -1, "maximum": 3},
    "large": {"minimum": 1_000_000, "maximum": 9_999_999},
    "odd borders": {"minimum": 17, "maximum": 1234},
    "even": {"multipleOf": 2, "minimum": 0, "maximum": 40},
    "tens": {"multipleOf": 10, "minimum": 0, "maximum": 500},
    "sevens": {"multipleOf": 7, "minimum": -70, "maximum": 70},
    "at most": {"maximum": 9, "minimum": -9},
    "minute": {"minimum": 0, "maximum": 59},
    "written with a point": {"minimum": 1.0, "maximum": 12.0},
    "halves as borders": {"minimum": 0.5, "maximum": 3.5},
    "of 64 bits": {"minimum": -(2**53), "maximum": 2**53},
}

_REAL: Mapping[str, Mapping[str, Any]] = {
    "share": {"minimum": 0, "maximum": 1},
    "latitude": {"minimum": -90, "maximum": 90},
    "longitude": {"minimum": -180, "maximum": 180},
    "temperature": {"minimum": -273.15, "maximum": 1000},
    "exclusive share": {"exclusiveMinimum": 0, "exclusiveMaximum": 1},
    "price": {"minimum": 0.01, "maximum": 999.99},
    "between halves": {"minimum": 1.5, "maximum": 2.5},
    "negative": {"minimum": -2.75, "maximum": -0.25},
    "grades": {"minimum": 1.0, "maximum": 6.0},
    "narrow": {"minimum": 3.14, "maximum": 3.15},
    "halves": {"multipleOf": 0.5, "minimum": 0, "maximum": 10},
    "exclusive above": {"minimum": 10, "exclusiveMaximum": 20},
}

_PLAIN = ("integer", "number", "boolean", "null")

NUMBERS: Mapping[str, Any] = {
    **{f"plain {name}": {"type": name} for name in _PLAIN},
    **{f"whole {name}": {"type": "integer", **bounds} for name, bounds in _WHOLE.items()},
    **{f"real {name}": {"type": "number", **bounds} for name, bounds in _REAL.items()},
    "enum": {"enum": [1, 2, 3, 5, 8, 13, 21]},
    "enum of halves": {"enum": [0.5, 1.5, -2.25]},
    "in an object": {
        "type": "object",
        "properties": {
            "x": {"type": "number", "minimum": -1, "maximum": 1},
            "y": {"type": "integer", "exclusiveMinimum": 100, "maximum": 200},
        },
        "required": ["x", "y"],
        "additionalProperties": False,
    },
    "bounds twice": {
        "allOf": [{"type": "integer", "minimum": 3}, {"type": "integer", "maximum": 8}]
    },
}
"""By name."""
