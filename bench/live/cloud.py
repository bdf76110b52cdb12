"""A running `hat cloud`: its process, and what its log tells of it."""

import asyncio
import datetime
import re
from dataclasses import dataclass, field

import msgspec

from bench.live.processes import Child

_STEP = re.compile(r"step of (\d+) rows of \d+ sequences took ([\d.]+) s")
"""`cloud_server.daemon.daemon.STEP_LINE`, once it is filled in."""


class _LogLine(msgspec.Struct):
    time: datetime.datetime
    message: str


@dataclass(frozen=True, slots=True)
class LoggedStep:
    """A step that ended at `ended_unix_s` (by the wall clock, to a millisecond)."""

    ended_unix_s: float
    num_tokens: int
    seconds: float


@dataclass(slots=True)
class Cloud:
    """Its port, its engine once that is loaded, and its steps until now."""

    port: int
    child: Child | None = None
    engine: str | None = None
    steps: list[LoggedStep] = field(default_factory=list)
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, line: bytes) -> None:
        """A line of its log; one that is no JSON tells nothing."""
        try:
            said = msgspec.json.decode(line, type=_LogLine)
        except msgspec.DecodeError:
            return
        if found := _STEP.fullmatch(said.message):
            self.steps.append(LoggedStep(said.time.timestamp(), int(found[1]), float(found[2])))
        elif self.engine is None and said.message.startswith("serving "):
            self.engine = said.message.split("; ")[1] if "; " in said.message else "unknown"
            self.ready.set()
