"""The cloud's pure heart: sockets' messages and finished steps in, messages and steps out."""

from collections import Counter
from collections.abc import Callable, Sequence

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
from cloud_server.core.lanes import Lanes
from cloud_server.core.links import Link, Links
from cloud_server.core.scheduling.pace import Pace
from cloud_server.core.scheduling.scheduler import Scheduler
from cloud_server.core.session import PieceDone
from cloud_server.core.sessions import Sessions
from cloud_server.core.step_book import Running, StepBook
from wire.codec import Frame
from wire.coding.row_codecs import LEAST_ASIDE_BYTES, MakeCodecs, Unpacked, row_codecs
from wire.connection import CloudConnection
from wire.errors import FaultCode, RemoteProtocolError
from wire.handshake import CloudTerms, answer_hello, check_join
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
        self._terms = CloudTerms(
            fingerprint=config.fingerprint,
            middle_fingerprint=config.middle_fingerprint,
            first_layer=config.first_layer,
            num_layers=config.num_layers,
            credential=config.credential,
            rows=self._rows,
            max_context_tokens=config.max_context_tokens,
            credit_limit_tokens=config.credit_window_tokens,
            session_ttl_s=config.session_ttl_s,
            tables=config.tables,
        )
        self._scheduler = Scheduler(config.verify_tokens)
        self._pace = Pace(config)
        self._links = Links()
        self._lanes = Lanes(config, self._links)
        self._unpacking: dict[ConnectionId, float] = {}
        """Connections whose next frame in pieces is made RAW elsewhere, and since when."""
        self._steps = StepBook(self._rows.row_bytes)
        self.codecs = make_codecs(self._rows, config.tables)
        """What codes rows on the links, as far as each speaks it."""
        self._sessions = Sessions(
            config, self._links, self._scheduler, self._steps, self._pace, self.codecs
        )

    @property
    def max_frame_bytes(self) -> int:
        """The longest frame a device may send; the limit for the WebSocket."""
        return self._rows.max_frame_bytes

    def connect(
        self, connection: ConnectionId, now: float, identity: Identity, lane_key: bytes = b""
    ) -> list[Action]:
        """Take a new socket; its first frame must be Hello or Join, within `handshake_timeout_s`.

        `lane_key` is 16 unguessable bytes under which others join it; empty: none do.
        """
        wire = CloudConnection(self._rows, self._config.credit_window_tokens)
        self._links.add(Link(connection, identity, wire, now, lane_key=lane_key, busy_s=now))
        return self._links.take_actions()

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
            link.wire.receive(message)
            match message:
                case Hello():
                    self._greet(link, message, now)
                case Open():
                    self._sessions.open(link, message, now)
                    # What overtook it in pieces.
                    self._take_joined(link, now)
                case States():
                    self._sessions.take_states(link, message, now, unpacked)
                case Close() if message.session in link.sessions:
                    self._sessions.end(link.sessions[message.session])
                case Join():
                    check_join(message, self._terms)
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
        """Whether `next_step` would give a step."""
        if self._sessions.restart_s is not None:
            return False
        is_copying = self._sessions.homes.has_work
        return is_copying or self._steps.num_commands > 0 or self._scheduler.has_work

    def next_step(self, now: float) -> Step | None:
        """The next turn of the engine thread. May be called while earlier steps still run."""
        if not self.has_work:
            return None
        self._sessions.advance(self._scheduler.has_work)
        work = []
        beside = self._sessions.beside_at(now)
        for grant in self._scheduler.plan(self._pace.budget_tokens, beside):
            session = self._sessions.table.get(grant.handle)
            assert session is not None, "only live sessions wait"
            piece, item = session.start(grant.num_rows, now)
            work.append(((session, piece), item))
            self._sessions.offer(session)
        return self._steps.begin(work)

    def step_done(self, step: Step, outcome: StepOutcome, now: float) -> list[Action]:
        """Take a step's results; steps end in the order in which they were given out."""
        pieces = self._steps.end(step, outcome)
        num_tokens = step.num_tokens
        self._pace.observe(num_tokens, outcome.seconds)
        self._sessions.observe(step, pieces, outcome, now)
        for (session, piece), result in zip(pieces, outcome.results, strict=True):
            if isinstance(result, Refusal):
                self._sessions.refuse(session.handle, result)
            elif self._sessions.table.get(session.handle) is not None:
                done = PieceDone(result, outcome.seconds, num_tokens)
                self._sessions.finish(session, piece, done, now)
        for handle, refusal in outcome.failed_opens:
            self._sessions.refuse(handle, refusal)
        self._give_back_pieces(pieces)
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
        self._give_back_pieces(pieces)
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
        self._give_back_pieces(pieces)
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
        table, total = self._sessions.table, self._sessions.tally.total
        return CoreFigures(
            num_connections=self._links.num_greeted,
            num_lanes=len(self._lanes),
            num_sessions=len(table),
            num_detached_sessions=table.num_detached,
            num_running_sessions=total.num_running,
            num_waiting_sessions=total.num_waiting,
            reserved_tokens=self._sessions.accounting.reserved_tokens,
            capacity_tokens=self._sessions.accounting.capacity_tokens,
            queued_tokens=total.num_queued_tokens,
            dropped_tokens=self._sessions.num_dropped_tokens,
            saved_bytes=self._sessions.num_saved_bytes,
            lossy_tokens=self._sessions.num_lossy_tokens,
            step_budget_tokens=self._pace.budget_tokens,
            retry_after_s=self._sessions.retry_s,
            num_saved_sessions=self._sessions.homes.num_copies,
            host_tokens=self._sessions.homes.held_tokens,
            host_capacity_tokens=self._config.host_tokens,
            saves=self._sessions.homes.num_saved,
            restores=self._sessions.homes.num_restored,
            dropped_copies=self._sessions.num_dropped_copies,
            is_draining=self.is_draining,
        )

    def _settled(self, now: float) -> list[Action]:
        """What is to be done, once whoever can come back from host memory does."""
        self._sessions.settle(now)
        return self._links.take_actions()

    def _greet(self, link: Link, hello: Hello, now: float) -> None:
        """Answer a Hello; a device that fits is in if there is room for its connection.

        Raises:
            RemoteProtocolError: it does not fit, or there is none.
        """
        welcome = answer_hello(hello, self._terms, link.lane_key)
        is_alone = self._links.is_alone(link.identity)
        most = self._config.most_connections(is_alone)
        if self._links.num_of(link.identity) >= most:
            reason = f"expected at most {most} connections of one address"
            raise RemoteProtocolError(FaultCode.TOO_MANY_SESSIONS, reason)
        if self._links.num_greeted >= self._config.max_connections:
            self._replace_connection(link, now)
        self._links.greet(link)
        self._links.send(link, welcome)

    def _replace_connection(self, newcomer: Link, now: float) -> None:
        reason = f"expected at most {self._config.max_connections} connections"
        idle = self._links.replaceable(newcomer.identity, self._config.quiet_s, now)
        if idle is None:
            raise RemoteProtocolError(FaultCode.TOO_MANY_SESSIONS, reason)
        self._fault_connection(idle, FaultCode.TOO_MANY_SESSIONS, reason, now)

    def _fault_connection(self, link: Link, code: FaultCode, reason: str, now: float) -> None:
        """Tell a device why, and forget its connection; its sessions wait for another."""
        if self._links.get(link.connection) is not link:
            return
        can_retry = code in (FaultCode.TOO_MANY_SESSIONS, FaultCode.DRAINING)
        retry_s = self._sessions.retry_s if can_retry else 0.0
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

    def _give_back_pieces(self, pieces: Sequence[Running]) -> None:
        num_rows: Counter[ConnectionId] = Counter()
        for _, piece in pieces:
            num_rows[piece.connection] += piece.num_rows
        for connection, num_returned in num_rows.items():
            self._links.give_back(connection, num_returned)
