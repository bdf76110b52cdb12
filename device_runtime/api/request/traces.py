"""Which trace a request belongs to: the client's own where it brings one, else one of its own.

Source: W3C Trace Context (Recommendation, 23 November 2021), `traceparent` of version 00.
"""

import re
import uuid
from dataclasses import dataclass

from aiohttp import web

TRACEPARENT = "traceparent"
"""The header with the client's trace and the span that asks."""

_VERSION_00 = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
# What comes behind the flags of a later version is not read.
_LATER = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_SAMPLED = 1


@dataclass(frozen=True, slots=True)
class Trace:
    """A request's trace. `parent_id` is the client's span, 8 bytes, empty where it has none."""

    trace_id: bytes
    parent_id: bytes = b""
    is_sampled: bool = True
    """Whether whoever began the trace records it."""


_TRACE = web.RequestKey("trace", Trace)


def trace_of(request: web.Request) -> Trace:
    """The request's trace, made or read when it is first asked for."""
    if _TRACE not in request:
        given = read_traceparent(request.headers.getall(TRACEPARENT, []))
        request[_TRACE] = given or Trace(uuid.uuid4().bytes)
    return request[_TRACE]


def read_traceparent(values: list[str]) -> Trace | None:
    """The trace that a header names; None where it is not there once, or not as it should be."""
    if len(values) != 1:
        return None
    value = values[0].strip()
    found = _VERSION_00.fullmatch(value)
    if found is None and not value.startswith("00"):
        found = _LATER.fullmatch(value)
    if found is None:
        return None
    trace_id, parent_id = bytes.fromhex(found[1]), bytes.fromhex(found[2])
    if not any(trace_id) or not any(parent_id):
        return None
    return Trace(trace_id, parent_id, bool(int(found[3], 16) & _SAMPLED))
