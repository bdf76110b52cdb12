"""What is held and what waits, counted as it changes: in all, by identity and by connection.

Every figure is a counter, so that a look at it costs the same however much waits.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from cloud_server.core.actions import ConnectionId, Identity, SequenceHandle
from cloud_server.core.session import Session

K = TypeVar("K")


@dataclass(slots=True)
class Holding:
    """Sessions of one owner, or of all: the KV that they reserve, and what they have to run."""

    num_sessions: int = 0
    reserved_tokens: int = 0
    num_queued_tokens: int = 0
    num_queued_frames: int = 0
    num_waiting: int = 0
    num_running: int = 0

    def change(self, part: "_Part", sign: int) -> None:
        """Take a session's part in (1) or out (-1)."""
        self.num_sessions += sign
        self.reserved_tokens += sign * part.reserved_tokens
        self.num_queued_tokens += sign * part.num_queued_tokens
        self.num_queued_frames += sign * part.num_queued_frames
        self.num_waiting += sign * part.is_waiting
        self.num_running += sign * part.is_running


class _Part(NamedTuple):
    """What one session adds, as it was last noted."""

    identity: Identity | None
    connection: ConnectionId | None
    reserved_tokens: int
    num_queued_tokens: int
    num_queued_frames: int
    is_waiting: bool
    is_running: bool


class Tally:
    """The sums over all live sessions. `held` is what a sequence has reserved."""

    def __init__(self, held: Callable[[SequenceHandle], int]) -> None:
        self._held = held
        self._parts: dict[SequenceHandle, _Part] = {}
        self._identities: dict[Identity, Holding] = {}
        self._connections: dict[ConnectionId, Holding] = {}
        self.total = Holding()

    @property
    def identities(self) -> Mapping[Identity, Holding]:
        """What each identity holds that holds anything, with or without a socket."""
        return self._identities

    @property
    def connections(self) -> Mapping[ConnectionId, Holding]:
        """What each connection holds that holds anything."""
        return self._connections

    def of_identity(self, identity: Identity) -> Holding:
        """What an identity holds."""
        return self._identities.get(identity) or Holding()

    def of_connection(self, connection: ConnectionId) -> Holding:
        """What a connection holds."""
        return self._connections.get(connection) or Holding()

    def note(self, session: Session) -> None:
        """Count a session as it is now; to be called after everything that changes it."""
        part = self._part(session)
        known = self._parts.get(session.handle)
        if part == known:
            return
        if known is not None:
            self._change(known, -1)
        self._change(part, 1)
        self._parts[session.handle] = part

    def forget(self, session: Session) -> None:
        """A session has ended."""
        part = self._parts.pop(session.handle, None)
        if part is not None:
            self._change(part, -1)

    def _part(self, session: Session) -> _Part:
        return _Part(
            session.identity,
            session.connection,
            self._held(session.handle),
            session.num_queued_tokens,
            session.num_queued_frames,
            session.is_waiting,
            session.is_running,
        )

    def _change(self, part: _Part, sign: int) -> None:
        self.total.change(part, sign)
        if part.identity is not None:
            _change(self._identities, part.identity, part, sign)
        if part.connection is not None:
            _change(self._connections, part.connection, part, sign)


def _change(holdings: dict[K, Holding], owner: K, part: _Part, sign: int) -> None:
    holding = holdings.setdefault(owner, Holding())
    holding.change(part, sign)
    if holding.num_sessions == 0:
        del holdings[owner]
