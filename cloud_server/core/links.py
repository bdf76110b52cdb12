"""The sockets of the cloud's core: what is attached to each, and what is to be sent to them."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from cloud_server.core.actions import (
    Action,
    CloseConnection,
    ConnectionId,
    Identity,
    Send,
    Traced,
    Unpack,
)
from cloud_server.core.admission import AdmissionError
from cloud_server.core.names.people import Person
from cloud_server.core.session import Piece, Session
from wire.codec import Frame, MessageType, decode
from wire.coding.row_codecs import RowCodecs
from wire.connection import CloudConnection, Phase
from wire.errors import FaultCode, RemoteProtocolError
from wire.limits import MAX_HANDSHAKE_BYTES
from wire.messages import (
    NO_SESSION,
    Ability,
    Codec,
    Fault,
    Message,
    Payload,
    SessionId,
    States,
    Trace,
)

_STATES = bytes([MessageType.STATES])


@dataclass(slots=True)
class Link:
    """One socket: its place in the protocol and the sessions attached to it."""

    connection: ConnectionId
    identity: Identity
    wire: CloudConnection
    connected_s: float
    sessions: dict[SessionId, Session] = field(default_factory=dict)
    is_greeted: bool = False
    lane_key: bytes = b""
    """Names it to further sockets of its device (rule W44); empty: it takes none."""
    certificate: str | None = None
    """The name that it showed below the protocol, signed by an authority of the cloud's."""
    person: Person | None = None
    """Whose it is, once it was let in; `identity` is that name's from then on."""
    busy_s: float = 0.0
    """When its device was last heard of, or rows of it were last seen to run or wait."""

    def decode(self, frame: Frame | str) -> Message:
        """The message of a WebSocket frame; `str` is a text frame (rules W1, W4).

        Raises:
            RemoteProtocolError: BAD_FRAME when it is none.
        """
        if isinstance(frame, str):
            raise RemoteProtocolError(FaultCode.BAD_FRAME, "expected a binary frame, got text")
        if self.wire.phase is Phase.HELLO and len(frame) > MAX_HANDSHAKE_BYTES:
            reason = f"expected a Hello of at most {MAX_HANDSHAKE_BYTES}, got {len(frame)}"
            raise RemoteProtocolError(FaultCode.BAD_FRAME, reason)
        return decode(frame)

    def unpacking(self, states: States, codecs: RowCodecs) -> Callable[[], Payload] | None:
        """What makes coded rows RAW; None for RAW ones, and for those that would not be taken."""
        if states.codec is Codec.RAW or states.session not in self.sessions:
            return None
        return partial(codecs.raw_states, states) if self.wire.would_take(states) else None

    def unpacking_frame(self, frame: Frame, codecs: RowCodecs) -> Callable[[], Payload] | None:
        """The same of a frame, whatever it holds."""
        if not self.is_greeted or frame[:1] != _STATES:
            return None
        try:
            message = self.decode(frame)
        except RemoteProtocolError:
            return None
        return self.unpacking(message, codecs) if isinstance(message, States) else None


class Links:
    """All sockets, and the actions that have piled up for the shell.

    `note_refusal` is told whose quota has refused something.
    """

    def __init__(self, note_refusal: Callable[[Identity], None]) -> None:
        self._note_refusal = note_refusal
        self._links: dict[ConnectionId, Link] = {}
        self._greeted: Counter[Identity] = Counter()
        self._num_greeted = 0
        self._outbox: list[Action] = []

    @property
    def num_greeted(self) -> int:
        """Sockets whose Hello was accepted; the others hold nothing yet."""
        return self._num_greeted

    def num_of(self, identity: Identity) -> int:
        """Accepted sockets of one identity."""
        return self._greeted[identity]

    @property
    def num_by_identity(self) -> Mapping[Identity, int]:
        """Accepted sockets of each identity that has some."""
        return self._greeted

    def is_alone(self, identity: Identity) -> bool:
        """Whether no other identity has an accepted socket."""
        return len(self._greeted) == (identity in self._greeted)

    def __iter__(self) -> Iterator[Link]:
        return iter(tuple(self._links.values()))

    def get(self, connection: ConnectionId | None) -> Link | None:
        """The socket of this number, if it is still there."""
        return None if connection is None else self._links.get(connection)

    def silent(self, now: float, timeout_s: float) -> list[Link]:
        """The sockets that have not said Hello in time."""
        waiting = (link for link in self if link.wire.phase is Phase.HELLO)
        return [link for link in waiting if now - link.connected_s > timeout_s]

    def quiet(self, now: float, least_s: float) -> list[Link]:
        """The sockets with nothing to do for so long; to be asked about once a second."""
        for link in self:
            if not all(session.is_quiet for session in link.sessions.values()):
                link.busy_s = now
        quiet = (link for link in self if link.wire.phase is not Phase.LANE)
        return [link for link in quiet if now - max(link.busy_s, link.connected_s) >= least_s]

    def add(self, link: Link) -> None:
        """Take in a new socket.

        Raises:
            ValueError: its number is in use.
        """
        if link.connection in self._links:
            raise ValueError(f"expected a new connection, got {link.connection} again")
        self._links[link.connection] = link

    def greet(self, link: Link) -> None:
        """A socket's Hello was accepted."""
        link.is_greeted = True
        self._num_greeted += 1
        self._greeted[link.identity] += 1

    def replaceable(self, newcomer: Identity, least_s: float, now: float) -> Link | None:
        """The longest quiet socket without sessions of whoever has most, and more than this one
        will have; None if there is none."""
        most = max(self._greeted.values(), default=0)
        if most <= self._greeted[newcomer] + 1:
            return None
        largest = (link for link in self if self._greeted[link.identity] == most)
        idle = [link for link in largest if link.is_greeted and not link.sessions]
        oldest = min(idle, key=lambda link: link.busy_s, default=None)
        return oldest if oldest is not None and now - oldest.busy_s >= least_s else None

    def forget(self, link: Link) -> None:
        """Nothing more is sent to a socket."""
        del self._links[link.connection]
        if link.is_greeted:
            self._num_greeted -= 1
            self._greeted[link.identity] -= 1
            if self._greeted[link.identity] == 0:
                del self._greeted[link.identity]

    def receive(self, link: Link, message: Message) -> None:
        """Check a message against the rules of its connection; what a session is for is noted.

        Raises:
            RemoteProtocolError: it breaks one.
        """
        link.wire.receive(message)
        if isinstance(message, Trace):
            session = link.sessions.get(message.session)
            if session is not None:
                session.trace_id = message.trace_id
            self._outbox.append(Traced(link.connection, message.session, message.trace_id))

    def send(self, link: Link, message: Message, codec: Codec = Codec.RAW) -> None:
        """Have a message sent, behind those before it; a Reply's rows in this codec."""
        if isinstance(message, Fault):
            if message.code is FaultCode.QUOTA:
                self._note_refusal(link.identity)
            message = _as_known(message, link.wire.codecs)
        link.wire.send(message)
        ended = link.sessions.get(message.session) if isinstance(message, Fault) else None
        trace_id = b"" if ended is None else ended.trace_id
        self._outbox.append(Send(link.connection, message, codec, trace_id))

    def refuse(
        self,
        link: Link,
        session: SessionId,
        error: RemoteProtocolError | AdmissionError,
        retry_s: float,
    ) -> None:
        """Tell a device why it does not have a session; `retry_s` is of a cloud that is full."""
        after_s = 0.0
        if isinstance(error, AdmissionError) and error.can_retry:
            after_s = retry_s if error.retry_after_s is None else error.retry_after_s
        self.send(link, Fault(error.code, session, after_s, error.message))

    def close(self, link: Link) -> None:
        """Have a socket closed once what was sent to it is written."""
        self._outbox.append(CloseConnection(link.connection))

    def give_back(self, connection: ConnectionId, num_rows: int) -> None:
        """Rows of a connection are done with; tell it when that is worth a frame."""
        link = self._links.get(connection)
        if link is None or num_rows == 0:
            return
        credit = link.wire.give_back(num_rows)
        if credit is not None and link.wire.phase is Phase.OPEN:
            self.send(link, credit)

    def give_back_pieces(self, pieces: Iterable[Piece]) -> None:
        """The rows of pieces are done with."""
        num_rows: Counter[ConnectionId] = Counter()
        for piece in pieces:
            num_rows[piece.connection] += piece.num_rows
        for connection, num_returned in num_rows.items():
            self.give_back(connection, num_returned)

    def unpack(self, link: Link, call: Callable[[], Payload]) -> None:
        """Have rows made RAW elsewhere."""
        self._outbox.append(Unpack(link.connection, call))

    def take_actions(self) -> list[Action]:
        """What is to be done since the last call, in order."""
        actions, self._outbox = self._outbox, []
        return actions


def _as_known(fault: Fault, codecs: int) -> Fault:
    """A Fault in a code that the device knows: one of an earlier release knows no quotas."""
    if fault.code is not FaultCode.QUOTA or codecs >> Ability.QUOTAS & 1:
        return fault
    is_all = fault.session == NO_SESSION
    return replace(fault, code=FaultCode.TOO_MANY_SESSIONS if is_all else FaultCode.CAPACITY)
