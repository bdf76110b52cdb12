"""What all cases share: the endpoint, what is asked, and the list that they are in."""

import sys
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1"
HOST = URL.removesuffix("/v1")
KEY = "unused"
ASK = "What is the weather in Rome for 2 days? Use the tool."
TRIP = "Rome for two days"
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {"name": "get_weather", "description": "The weather.", "parameters": SCHEMA},
}
RESULT = "It is 21 degrees"
CALLED: list[str] = []
"""The cities whose weather was asked for, by whoever runs the tools in this process."""
CASES: list[tuple[str, Callable[[], Any]]] = []
"""All of them by name; the client's stands before the first double underscore."""


class Trip(BaseModel, extra="forbid"):
    """A journey."""

    city: str
    days: int


def case(function: Callable[[], Any]) -> Callable[[], Any]:
    """One of the cases."""
    CASES.append((function.__name__, function))
    return function


def model() -> str:
    """The served name."""
    from openai import OpenAI

    name: str = OpenAI(base_url=URL, api_key=KEY).models.list().data[0].id
    return name


def get_weather(city: str, days: int = 1) -> str:
    """The weather of a city.

    Args:
        city: The city's name.
        days: For how many days.
    """
    CALLED.append(city)
    return f"{RESULT} in {city} for {days} days."
