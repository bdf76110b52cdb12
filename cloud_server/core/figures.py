"""The core's load at one moment, in all and by name."""

from collections.abc import Mapping
from dataclasses import dataclass

from cloud_server.core.actions import Identity
from cloud_server.core.config import CoreConfig, CoreFigures
from cloud_server.core.links import Links
from cloud_server.core.names.people import People, name_in
from cloud_server.core.names.tokens import Name
from cloud_server.core.scheduling.pace import Pace
from cloud_server.core.sessions import Sessions


@dataclass(slots=True)
class NameFigures:
    """What one name has now, and had so far. Those without a name of their own are one together."""

    num_connections: int = 0
    num_sessions: int = 0
    reserved_tokens: int = 0
    queued_tokens: int = 0
    num_rows: int = 0
    """That ran."""
    num_refused: int = 0
    """By a quota."""


def figures_of(
    config: CoreConfig, sessions: Sessions, links: Links, num_lanes: int, pace: Pace
) -> CoreFigures:
    """The load of all."""
    table, total = sessions.table, sessions.tally.total
    return CoreFigures(
        num_connections=links.num_greeted,
        num_lanes=num_lanes,
        num_sessions=len(table),
        num_detached_sessions=table.num_detached,
        num_running_sessions=total.num_running,
        num_waiting_sessions=total.num_waiting,
        reserved_tokens=sessions.accounting.reserved_tokens,
        capacity_tokens=sessions.accounting.capacity_tokens,
        queued_tokens=total.num_queued_tokens,
        dropped_tokens=sessions.num_dropped_tokens,
        saved_bytes=sessions.num_saved_bytes,
        lossy_tokens=sessions.num_lossy_tokens,
        step_budget_tokens=pace.budget_tokens,
        retry_after_s=sessions.retry_s,
        num_saved_sessions=sessions.homes.num_copies,
        host_tokens=sessions.homes.held_tokens,
        host_capacity_tokens=config.host_tokens,
        saves=sessions.homes.num_saved,
        restores=sessions.homes.num_restored,
        dropped_copies=sessions.num_dropped_copies,
        is_draining=sessions.is_draining,
    )


def names_of(sessions: Sessions, links: Links, people: People) -> Mapping[Name, NameFigures]:
    """The load by name, of at most so many names as have a label."""
    found: dict[Name, NameFigures] = {}

    def of(identity: Identity | None) -> NameFigures:
        return found.setdefault(people.label_of(name_in(identity)), NameFigures())

    for name, counts in people.counted.items():
        known = found.setdefault(name, NameFigures())
        known.num_rows, known.num_refused = counts.num_rows, counts.num_refused
    for identity, num_connections in links.num_by_identity.items():
        of(identity).num_connections += num_connections
    for identity, holding in sessions.tally.identities.items():
        of(identity).num_sessions += holding.num_sessions
        of(identity).reserved_tokens += holding.reserved_tokens
        of(identity).queued_tokens += holding.num_queued_tokens
    return found
