"""What a daemon is told of its engine, of patience, and about once a second of names."""

from dataclasses import dataclass
from typing import NamedTuple

from cloud_server.core.names.tokens import Tokens


class NamesNow(NamedTuple):
    """Who may come, None where there is no register; and the time of the world."""

    tokens: Tokens | None
    unix_s: float


@dataclass(frozen=True, slots=True)
class EngineRhythm:
    """How many steps an engine works on at once, and about how long it takes to load.

    With one stage a step given out early would hold fewer sessions: those that answer the running
    one are not in it.
    """

    steps_in_flight: int = 1
    load_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Patience:
    """How often deadlines are looked at, and how long a device may take nothing or be silent."""

    tick_s: float = 1.0
    stall_timeout_s: float = 30.0
    silence_s: float = 120.0
