"""The cloud's pure heart: sockets' messages and finished steps in, messages and steps out."""

from collections.abc import Callable, Mapping

from cloud_server.core.actions import (
    Action,
    ConnectionId,
    Identity,
    OpenSequence,
    Refusal,
    RestoreSequence,
    SaveSequence,
    Step,
    StepOutcome,
)
from cloud_server.core.config import CoreConfig, CoreFigures
from cloud_server.core.figures import NameFigures, figures_of, names_of
from cloud_server.core.greeting import Greeter, retry_after_s
from cloud_server.core.lanes import Lanes
from cloud_server.core.links import Link, Links
from cloud_server.core.names.people import People, Person
from cloud_server.core.names.tokens import Name, Tokens
from cloud_server.core.scheduling.pace import Pace
from cloud_server.core.scheduling.scheduler import Scheduler
from cloud_server.core.session import PieceDone
from cloud_server.core.sessions import Sessions
from cloud_server.core.step_book import StepBook, rows_by_connection
from wire.codec import Frame
from wire.coding.row_codecs import LEAST_ASIDE_BYTES, MakeCodecs, Unpacked, row_codecs
from wire.connection import CloudConnection
from wire.errors import FaultCode, RemoteProtocolError
from wire.messages import (
    NO_SESSION,
    Close,
    Fault,
    Hello,
    Join,
    Message,
    Open,
    Payload,
    Piece,
    States,
)

__all__ = ["CloudCore", "CoreConfig", "CoreFigures"]


class CloudCore:
    """Sessions, credit, admission and scheduling; performs nothing itself.

    One owner calls it from one thread. `now` is a monotonic clock in seconds. It never raises
    for what a device did: the device gets a Fault.
    """

    def __init__(self, config: CoreConfig, make_codecs: MakeCodecs = row_codecs) -> None:
        self._config = config
        self._rows = config.rows
        self._scheduler = Scheduler(config.verify_tokens)
        self._pace = Pace(config)
        self.people = People(config.credential, config.takes_certificates)
        """Who may come. Names are given to `admit`."""
        self._links = Links(self.people.refused)
        self._greeter = Greeter(config, self._links, self.people)
        self._lanes = Lanes(config, self._links)
        self._unpacking: dict[ConnectionId, float] = {}
        """Connections whose next frame in pieces is made RAW elsewhere, and since when."""
        self._steps = StepBook(self._rows.row_bytes)
        self.codecs = make_codecs(self._rows, config.tables)
        """What codes rows on the links, as far as each speaks it."""
        self._sessions = Sessions(
            config,
            self._links,
            self._scheduler,
            self._steps,
            self._pace,
            self.codecs,
            self.people,
        )

    @property
    def max_frame_bytes(self) -> int:
        """The longest frame a device may send; the limit for the WebSocket."""
        return self._rows.max_frame_bytes

    def connect(
        self,
        connection: ConnectionId,
        now: float,
        identity: Identity,
        lane_key: bytes = b"",
        certificate: str | None = None,
    ) -> list[Action]:
        """Take a new socket; its first frame must be Hello or Join, within `handshake_timeout_s`.

        `identity` is its address, which it counts as unless it turns out to have a name.
        `lane_key` is 16 unguessable bytes under which others join it; empty: none do.
        `certificate` is a name that an authority of the cloud's has signed.
        """
        wire = CloudConnection(self._rows, self._config.credit_window_tokens)
        link = Link(connection, identity, wire, now, lane_key=lane_key, busy_s=now)
        link.certificate = certificate
        self._links.add(link)
        return self._links.take_actions()

    def admit(self, tokens: Tokens | None, unix_s: float, now: float) -> list[Action]:
        """These names may come from now on, None: there are none; whose name is gone has to go.

        To be called about once a second, whether they have changed or not: names expire.
        """
        self.people.admit(tokens, unix_s, now)
        for link, reason in self._greeter.unwelcome(now):
            self._fault_connection(link, FaultCode.BAD_CREDENTIAL, reason, now)
        self._sessions.end_unwelcome(now)
        return self._settled(now)

    def person_of(self, connection: ConnectionId) -> Person | None:
        """Whose a socket is; None before that is known, and once it is forgotten."""
        link = self._links.get(connection)
        return None if link is None else link.person

    def who_shows(self, connection: ConnectionId, frame: Frame | str, now: float) -> Person | None:
        """Whose a socket is by its first frame, which is not taken; None: nobody's."""
        link = self._links.get(connection)
        return None if link is None else self._greeter.who_shows(link, frame, now)

    def unpacking(self, connection: ConnectionId, frame: Frame) -> Callable[[], Payload] | None:
        """What makes a frame's coded rows RAW, if it has some that would be taken now.

        None for all others. The call raises RemoteProtocolError where the rows cannot be read.
        """
        link = self._links.get(connection)
        return None if link is None else link.unpacking_frame(frame, self.codecs)

    def receive_frame(
        self,
        connection: ConnectionId,
        frame: Frame | str,
        now: float,
        unpacked: Unpacked | None = None,
    ) -> list[Action]:
        """Decode one frame and take its message; a malformed or text one ends the connection.

        `unpacked` is what the call of `unpacking` gave or raised, if there was one.
        """
        link = self._links.get(connection)
        if link is None:
            return []
        try:
            message = link.decode(frame)
        except RemoteProtocolError as error:
            self._fault_connection(link, error.code, error.message, now)
            return self._links.take_actions()
        return self.receive(connection, message, now, unpacked)

    def receive(
        self,
        connection: ConnectionId,
        message: Message,
        now: float,
        unpacked: Unpacked | None = None,
    ) -> list[Action]:
        """Take one decoded message. Messages of a forgotten connection are ignored."""
        link = self._links.get(connection)
        if link is None:
            return []
        link.busy_s = now
        try:
            self._links.receive(link, message)
            match message:
                case Hello():
                    idle = self._greeter.greet(link, message, now)
                    if idle is not None:
                        self._replace(idle, now)
                case Open():
                    self._sessions.open(link, message, now)
                    # What overtook it in pieces.
                    self._take_joined(link, now)
                case States():
                    self._sessions.take_states(link, message, now, unpacked)
                case Close() if message.session in link.sessions:
                    self._sessions.end(link.sessions[message.session])
                case Join():
                    self._greeter.check_join(link, message, now)
                    self._lanes.join(link, message)
                case Piece():
                    self._take_piece(link, message, now)
        except RemoteProtocolError as error:
            self._fault_connection(link, error.code, error.message, now)
        return self._settled(now)

    def _take_piece(self, lane: Link, piece: Piece, now: float) -> None:
        """What is wrong with it is the fault of the connection that it is a part of."""
        link = self._lanes.connection_of(lane)
        if link is None:
            return
        link.busy_s = now
        try:
            self._lanes.put(link, piece)
            self._take_joined(link, now)
        except RemoteProtocolError as error:
            self._fault_connection(link, error.code, error.message, now)

    def _take_joined(self, link: Link, now: float, unpacked: Unpacked | None = None) -> None:
        """Take the frames that are whole, in order; `unpacked` are the rows of the first.

        Long coded ones are made RAW elsewhere, and those behind them wait.
        """
        while link.connection not in self._unpacking:
            states = self._lanes.next_states(link)
            if states is None:
                return
            is_long = unpacked is None and len(states.payload) >= LEAST_ASIDE_BYTES
            call = link.unpacking(states, self.codecs) if is_long else None
            if call is not None:
                self._unpacking[link.connection] = now
                self._links.unpack(link, call)
                return
            self._lanes.take(link)
            link.wire.receive(states)
            self._sessions.take_states(link, states, now, unpacked)
            unpacked = None

    def unpacked(self, connection: ConnectionId, unpacked: Unpacked) -> list[Action]:
        """Take what the call of an `Unpack` gave, or the error that it raised."""
        link = self._links.get(connection)
        came_s = self._unpacking.pop(connection, 0.0)
        if link is None:
            return []
        try:
            self._take_joined(link, came_s, unpacked)
        except RemoteProtocolError as error:
            self._fault_connection(link, error.code, error.message, came_s)
        return self._settled(came_s)

    def disconnect(self, connection: ConnectionId, now: float) -> list[Action]:
        """Forget a socket; its sessions wait `session_ttl_s` for another. Repeats are harmless."""
        link = self._links.get(connection)
        if link is not None:
            self._forget(link, now)
        return self._settled(now)

    @property
    def has_work(self) -> bool:
        """Whether `next_step` would give a step now, or later without anything else happening."""
        if self._sessions.restart_s is not None:
            return False
        is_copying = self._sessions.homes.has_work
        has_rows = self._scheduler.has_work or self._sessions.yielding.has_work
        return is_copying or self._steps.num_commands > 0 or has_rows

    @property
    def look_again_s(self) -> float | None:
        """After how long to ask for a step again where there was none; None: once there is work."""
        return self._sessions.yielding.look_again_s()

    def next_step(self, now: float) -> Step | None:
        """The next turn of the engine thread. May be called while earlier steps still run."""
        if not self.has_work:
            return None
        self._sessions.advance(self._scheduler.has_work)
        work = []
        beside = self._sessions.beside_at(now)
        yielding, budget_tokens = self._sessions.yielding, self._pace.budget_tokens
        yielding.begin(now)
        grants = self._scheduler.plan(budget_tokens, beside)
        grants += yielding.grants(grants, budget_tokens, now)
        for grant in grants:
            session = self._sessions.table.get(grant.handle)
            assert session is not None, "only live sessions wait"
            piece, item = session.start(grant.num_rows, now)
            work.append(((session, piece), item))
            self.people.ran(session.identity, grant.num_rows, now)
            yielding.note(session.identity, now)
            self._sessions.offer(session)
        has_commands = self._steps.num_commands > 0 or self._sessions.homes.has_work
        return self._steps.begin(work) if work or has_commands else None

    def step_done(self, step: Step, outcome: StepOutcome, now: float) -> list[Action]:
        """Take a step's results; steps end in the order in which they were given out."""
        pieces = self._steps.end(step, outcome)
        num_tokens = step.num_tokens
        self._pace.observe(num_tokens, outcome.seconds)
        self._sessions.observe(step, pieces, outcome, now)
        own_rows = rows_by_connection(pieces)
        for (session, piece), result in zip(pieces, outcome.results, strict=True):
            if isinstance(result, Refusal):
                self._sessions.refuse(session.handle, result)
            elif self._sessions.table.get(session.handle) is not None:
                done = PieceDone(result, outcome.seconds, own_rows[piece.connection])
                self._sessions.finish(session, piece, done, now)
        for handle, refusal in outcome.failed_opens:
            self._sessions.refuse(handle, refusal)
        self._links.give_back_pieces(piece for _, piece in pieces)
        return self._settled(now)

    def step_failed(self, step: Step, reason: str, now: float) -> list[Action]:
        """The engine raised: every session of the step is ended with INTERNAL; others go on.

        `reason` is safe to show. Releases of the step are asked for again.
        """
        pieces = self._steps.end_failed(step)
        refusal = Refusal(FaultCode.INTERNAL, reason)
        for command in step.commands:
            if isinstance(command, OpenSequence | SaveSequence | RestoreSequence):
                self._sessions.refuse(command.handle, refusal)
        for session, _ in pieces:
            self._sessions.refuse(session.handle, refusal)
        self._links.give_back_pieces(piece for _, piece in pieces)
        return self._settled(now)

    def engine_lost(self, reason: str, restart_s: float) -> list[Action]:
        """The engine and all its caches are gone; a new one is expected in about `restart_s`.

        Every session ends with INTERNAL and that time; new ones are refused with the same until
        `engine_ready`. Results of steps that were given out are not to come any more.
        """
        self._sessions.restart_s = restart_s
        pieces = self._steps.abandon()
        for session in list(self._sessions.table):
            self._sessions.refuse(session.handle, Refusal(FaultCode.INTERNAL, reason))
        self._sessions.forget_engine()
        self._links.give_back_pieces(piece for _, piece in pieces)
        return self._links.take_actions()

    def engine_ready(self) -> None:
        """A new engine of the same kind is there: sessions are welcome again."""
        self._sessions.restart_s = None

    def tick(self, now: float) -> list[Action]:
        """End what is overdue, and in a drain what is quiet; call it about once a second."""
        self._sessions.expire(now)
        for link in self._links.silent(now, self._config.handshake_timeout_s):
            reason = f"expected a Hello within {self._config.handshake_timeout_s:g} s"
            self._fault_connection(link, FaultCode.DEADLINE_EXCEEDED, reason, now)
        quiet = self._links.quiet(now, self._config.quiet_s)
        for link in quiet if self.is_draining else ():
            self._fault_connection(link, FaultCode.DRAINING, "the cloud stops", now)
        return self._settled(now)

    def drain(self) -> None:
        """Refuse new sessions from here on and let the running ones finish."""
        self._sessions.is_draining = True

    @property
    def is_draining(self) -> bool:
        """Whether new sessions are refused for good."""
        return self._sessions.is_draining

    @property
    def is_drained(self) -> bool:
        """Whether no device holds a session any more and no step runs."""
        has_sessions = len(self._sessions.table) > self._sessions.table.num_detached
        return self.is_draining and not has_sessions and not self._steps.has_steps

    def shut_down(self, now: float) -> list[Action]:
        """End every session and connection with DRAINING."""
        self._sessions.is_draining = True
        for link in self._links:
            self._fault_connection(link, FaultCode.DRAINING, "the cloud stops", now)
        for session in list(self._sessions.table):
            self._sessions.end(session)
        return self._links.take_actions()

    def figures(self) -> CoreFigures:
        """The load at this moment; each figure is a counter, whatever is queued."""
        return figures_of(self._config, self._sessions, self._links, len(self._lanes), self._pace)

    def name_figures(self) -> Mapping[Name, NameFigures]:
        """The load by name, of a bounded number of names."""
        return names_of(self._sessions, self._links, self.people)

    def _settled(self, now: float) -> list[Action]:
        """What is to be done, once whoever can come back from host memory does."""
        self._sessions.settle(now)
        return self._links.take_actions()

    def _replace(self, idle: Link, now: float) -> None:
        """End a connection for a newcomer."""
        reason = self._greeter.too_many_reason()
        self._fault_connection(idle, FaultCode.TOO_MANY_SESSIONS, reason, now)

    def _fault_connection(self, link: Link, code: FaultCode, reason: str, now: float) -> None:
        """Tell a device why, and forget its connection; its sessions wait for another."""
        if self._links.get(link.connection) is not link:
            return
        retry_s = retry_after_s(code, self._sessions.retry_s)
        self._links.send(link, Fault(code, NO_SESSION, retry_s, reason))
        self._links.close(link)
        self._forget(link, now)

    def _forget(self, link: Link, now: float) -> None:
        link.wire.close()
        self._sessions.lose(link, now)
        self._links.forget(link)
        for lane in self._lanes.forget(link):
            self._links.close(lane)
            self._forget(lane, now)
