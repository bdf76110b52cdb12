"""Further sockets of devices: which may join, and what their pieces become (rules W44 to W46)."""

from collections import Counter
from hmac import compare_digest

from cloud_server.core.actions import ConnectionId, Identity
from cloud_server.core.config import CoreConfig
from cloud_server.core.links import Link, Links
from cloud_server.core.names.people import told
from wire.codec import decode
from wire.errors import FaultCode, RemoteProtocolError
from wire.lanes import Joiner
from wire.limits import MAX_LANES
from wire.messages import Join, Joined, Piece, States

_SURE_LANES = 16
"""Of one connection, as long as there are any; more only while half of the places are free, so that
those who come later find some."""


class Lanes:
    """Which sockets help which connection. A connection's lanes end with it."""

    def __init__(self, config: CoreConfig, links: Links) -> None:
        self._config = config
        self._links = links
        self._of: dict[ConnectionId, ConnectionId] = {}
        """The connection of each lane."""
        self._joiners: dict[ConnectionId, Joiner] = {}
        """Of connections that have had a lane."""
        self._num: Counter[Identity] = Counter()

    def __len__(self) -> int:
        return len(self._of)

    def join(self, lane: Link, message: Join) -> None:
        """Make a socket of somebody who was let in a lane, if there is room.

        Raises:
            RemoteProtocolError: UNKNOWN_SESSION where no connection of his has this key, and
                TOO_MANY_SESSIONS.
        """
        link = self._named(message.lane_key)
        if link is None or link.person != lane.person:
            reason = "expected the lane key of a connection of this cloud"
            raise RemoteProtocolError(FaultCode.UNKNOWN_SESSION, reason)
        most, num = self._most_of_one(), len(self.of(link.connection))
        assert lane.person is not None, "it was let in"
        lane.identity = lane.person.identity_at(lane.identity)
        most_of_identity = self._config.most_lanes(self._links.is_alone(lane.identity))
        if num >= most or self._num[lane.identity] >= most_of_identity:
            reason = f"expected at most {most} lanes of a connection, {most_of_identity} of one"
            whose = told(lane.identity)
            raise RemoteProtocolError(FaultCode.TOO_MANY_SESSIONS, f"{reason} {whose}")
        self._of[lane.connection] = link.connection
        self._num[lane.identity] += 1
        if link.connection not in self._joiners:
            rows = self._config.rows
            self._joiners[link.connection] = Joiner(
                self._config.credit_window_tokens, rows.row_bytes, rows.max_frame_bytes
            )
        self._links.send(lane, Joined())

    def of(self, connection: ConnectionId) -> list[ConnectionId]:
        """The lanes of a connection."""
        return [lane for lane, link in self._of.items() if link == connection]

    def connection_of(self, lane: Link) -> Link | None:
        """The connection that a lane helps; None for a socket that is no lane."""
        return self._links.get(self._of.get(lane.connection))

    def put(self, link: Link, piece: Piece) -> None:
        """Take a piece of one of a connection's frames.

        Raises:
            RemoteProtocolError: see `Joiner.put`.
        """
        self._joiners[link.connection].put(piece)

    def next_states(self, link: Link) -> States | None:
        """A connection's next frame, if it is whole now and its session has been opened.

        Raises:
            RemoteProtocolError: BAD_FRAME when it is no States.
        """
        joiner = self._joiners.get(link.connection)
        if joiner is None or (frame := joiner.next_frame) is None:
            return None
        message = decode(frame)
        if not isinstance(message, States):
            reason = f"expected States in pieces, got {type(message).__name__}"
            raise RemoteProtocolError(FaultCode.BAD_FRAME, reason)
        return message if link.wire.was_opened(message.session) else None

    def take(self, link: Link) -> None:
        """The next frame is dealt with."""
        self._joiners[link.connection].take()

    def forget(self, link: Link) -> list[Link]:
        """A socket is gone; returns its lanes, which are to be closed as well."""
        if self._of.pop(link.connection, None) is not None:
            self._num[link.identity] -= 1
            if self._num[link.identity] == 0:
                del self._num[link.identity]
            return []
        self._joiners.pop(link.connection, None)
        lanes = (self._links.get(lane) for lane in self.of(link.connection))
        return [lane for lane in lanes if lane is not None]

    def _named(self, lane_key: bytes) -> Link | None:
        """The connection of a key; every key is compared, so that time tells nothing of them."""
        found = None
        for link in self._links:
            if link.is_greeted and link.lane_key and compare_digest(link.lane_key, lane_key):
                found = link
        return found

    def _most_of_one(self) -> int:
        """Lanes that a connection may have, so that all that are connected could have as many."""
        most_of_all = self._config.max_lanes
        if len(self._of) >= most_of_all:
            return 0
        most = MAX_LANES if 2 * len(self._of) < most_of_all else _SURE_LANES
        return min(most, max(1, most_of_all // max(1, self._links.num_greeted)))
