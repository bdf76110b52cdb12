"""The cloud's steps, from its log: when, how many rows, how long."""

import datetime
import re
from dataclasses import dataclass

import msgspec

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


def logged_step(line: bytes) -> LoggedStep | None:
    """The step that a line of the cloud's log (as JSON) tells of, if it does."""
    message = _decoded(line)
    found = None if message is None else _STEP.fullmatch(message.message)
    if message is None or found is None:
        return None
    num_tokens, seconds = found.groups()
    return LoggedStep(message.time.timestamp(), int(num_tokens), float(seconds))


def loaded_engine(line: bytes) -> str | None:
    """The engine that a line of the cloud's log describes, in the line that says it is loaded."""
    message = _decoded(line)
    if message is None or not message.message.startswith("serving "):
        return None
    return message.message.split("; ")[1] if "; " in message.message else "unknown"


def _decoded(line: bytes) -> _LogLine | None:
    if not line.startswith(b"{"):
        return None
    try:
        return msgspec.json.decode(line, type=_LogLine)
    except msgspec.DecodeError:
        return None
