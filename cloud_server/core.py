"""The cloud's pure heart: sockets' messages and finished steps in, messages and steps out."""

from collections import Counter
from collections.abc import Sequence

from cloud_server.actions import (
    Action,
    ConnectionId,
    Identity,
    OpenSequence,
    Refusal,
    SequenceHandle,
    Step,
    StepOutcome,
)
from cloud_server.admission import AdmissionError, check_demand, fork_source
from cloud_server.core_config import CoreConfig, CoreFigures
from cloud_server.kv_accounting import KvAccounting
from cloud_server.links import Link, Links
from cloud_server.pace import Pace
from cloud_server.scheduler import Scheduler
from cloud_server.session import Piece, PieceDone, Session
from cloud_server.session_table import SessionTable
from cloud_server.step_book import Running, StepBook
from wire.codec import Frame
from wire.connection import CloudConnection
from wire.errors import FaultCode, RemoteProtocolError
from wire.handshake import CloudTerms, answer_hello
from wire.messages import (
    NO_SESSION,
    Close,
    Fault,
    Hello,
    Message,
    Open,
    Opened,
    SessionId,
    States,
)

__all__ = ["CloudCore", "CoreConfig", "CoreFigures"]

_MAX_REASON_CHARACTERS = 200
"""Of an engine's words in a Fault; well below the protocol's bound in bytes."""


class CloudCore:
    """Sessions, credit, admission and scheduling; performs nothing itself.

    One owner calls it from one thread. `now` is a monotonic clock in seconds. It never raises
    for what a device did: the device gets a Fault.
    """

    def __init__(self, config: CoreConfig) -> None:
        self._config = config
        self._rows = config.rows
        self._terms = CloudTerms(
            fingerprint=config.fingerprint,
            first_layer=config.first_layer,
            num_layers=config.num_layers,
            credential=config.credential,
            rows=self._rows,
            max_context_tokens=config.max_context_tokens,
            credit_limit_tokens=config.credit_window_tokens,
            session_ttl_s=config.session_ttl_s,
        )
        self._accounting = KvAccounting(config.capacity_tokens, config.block_tokens)
        self._table = SessionTable(config.max_sessions, self._accounting, config.steps_in_flight)
        self._scheduler = Scheduler(config.verify_tokens, config.chunk_quantum_tokens)
        self._pace = Pace(config)
        self._links = Links()
        self._steps = StepBook(self._rows.row_bytes)
        self._is_draining = False
        self._restart_s: float | None = None

    @property
    def max_frame_bytes(self) -> int:
        """The longest frame a device may send; the limit for the WebSocket."""
        return self._rows.max_frame_bytes

    def connect(self, connection: ConnectionId, now: float, identity: Identity) -> list[Action]:
        """Take a new socket; its first frame must be Hello, within `handshake_timeout_s`."""
        wire = CloudConnection(self._rows, self._config.credit_window_tokens)
        link = Link(connection, identity, wire, now)
        self._links.add(link)
        if len(self._links) > self._config.max_connections:
            reason = f"expected at most {self._config.max_connections} connections"
            self._fault_connection(link, FaultCode.TOO_MANY_SESSIONS, reason, now)
        return self._links.take_actions()

    def receive_frame(
        self, connection: ConnectionId, frame: Frame | str, now: float
    ) -> list[Action]:
        """Decode one frame and take its message; a malformed or text one ends the connection."""
        link = self._links.get(connection)
        if link is None:
            return []
        try:
            message = link.decode(frame)
        except RemoteProtocolError as error:
            self._fault_connection(link, error.code, error.message, now)
            return self._links.take_actions()
        return self.receive(connection, message, now)

    def receive(self, connection: ConnectionId, message: Message, now: float) -> list[Action]:
        """Take one decoded message. Messages of a forgotten connection are ignored."""
        link = self._links.get(connection)
        if link is None:
            return []
        link.busy_s = now
        try:
            link.wire.receive(message)
            match message:
                case Hello():
                    self._links.send(link, answer_hello(message, self._terms))
                case Open():
                    self._open(link, message)
                case States():
                    self._take_states(link, message, now)
                case Close() if message.session in link.sessions:
                    self._end(link.sessions[message.session])
        except RemoteProtocolError as error:
            self._fault_connection(link, error.code, error.message, now)
        return self._links.take_actions()

    def disconnect(self, connection: ConnectionId, now: float) -> list[Action]:
        """Forget a socket; its sessions wait `session_ttl_s` for another. Repeats are harmless."""
        link = self._links.get(connection)
        if link is not None:
            self._forget(link, now)
        return self._links.take_actions()

    @property
    def has_work(self) -> bool:
        """Whether `next_step` would give a step."""
        if self._restart_s is not None:
            return False
        return self._steps.num_commands > 0 or self._scheduler.has_work

    def next_step(self, now: float) -> Step | None:
        """The next turn of the engine thread. May be called while earlier steps still run."""
        if not self.has_work:
            return None
        work = []
        for grant in self._scheduler.plan(self._pace.budget_tokens()):
            session = self._table.get(grant.handle)
            assert session is not None, "only live sessions wait"
            piece, item = session.start(grant.num_rows, now)
            work.append(((session, piece), item))
            self._offer(session)
        return self._steps.begin(work)

    def step_done(self, step: Step, outcome: StepOutcome, now: float) -> list[Action]:
        """Take a step's results; steps end in the order in which they were given out."""
        pieces = self._steps.end(step, outcome)
        num_tokens = step.num_tokens
        self._pace.observe(num_tokens, outcome.seconds)
        for (session, piece), result in zip(pieces, outcome.results, strict=True):
            if isinstance(result, Refusal):
                self._refuse(session.handle, result)
            elif self._table.get(session.handle) is not None:
                done = PieceDone(result, outcome.seconds, num_tokens)
                self._finish(session, piece, done, now)
        for handle, refusal in outcome.failed_opens:
            self._refuse(handle, refusal)
        self._give_back_pieces(pieces)
        return self._links.take_actions()

    def step_failed(self, step: Step, reason: str, now: float) -> list[Action]:
        """The engine raised: every session of the step is ended with INTERNAL; others go on.

        `reason` is safe to show. Releases of the step are asked for again.
        """
        pieces = self._steps.end_failed(step)
        refusal = Refusal(FaultCode.INTERNAL, reason)
        for command in step.commands:
            if isinstance(command, OpenSequence):
                self._refuse(command.handle, refusal)
        for session, _ in pieces:
            self._refuse(session.handle, refusal)
        self._give_back_pieces(pieces)
        return self._links.take_actions()

    def engine_lost(self, reason: str, restart_s: float) -> list[Action]:
        """The engine and all its caches are gone; a new one is expected in about `restart_s`.

        Every session ends with INTERNAL and that time; new ones are refused with the same until
        `engine_ready`. Results of steps that were given out are not to come any more.
        """
        self._restart_s = restart_s
        pieces = self._steps.abandon()
        for session in list(self._table):
            self._refuse(session.handle, Refusal(FaultCode.INTERNAL, reason))
        self._steps.forget_commands()
        self._give_back_pieces(pieces)
        return self._links.take_actions()

    def engine_ready(self) -> None:
        """A new engine of the same kind is there: sessions are welcome again."""
        self._restart_s = None

    def tick(self, now: float) -> list[Action]:
        """End what is overdue, and in a drain what is quiet; call it about once a second."""
        for session in self._table.expired(now, self._config.session_ttl_s):
            self._end(session)
        for session in self._table.late(now, self._config.queue_deadline_s):
            reason = f"expected to run rows within {self._config.queue_deadline_s:g} s, overloaded"
            self._refuse(session.handle, Refusal(FaultCode.DEADLINE_EXCEEDED, reason))
        for link in self._links.silent(now, self._config.handshake_timeout_s):
            reason = f"expected a Hello within {self._config.handshake_timeout_s:g} s"
            self._fault_connection(link, FaultCode.DEADLINE_EXCEEDED, reason, now)
        quiet = self._links.quiet(now, self._config.quiet_s)
        for link in quiet if self._is_draining else ():
            self._fault_connection(link, FaultCode.DRAINING, "the cloud stops", now)
        return self._links.take_actions()

    def drain(self) -> None:
        """Refuse new sessions from here on and let the running ones finish."""
        self._is_draining = True

    @property
    def is_drained(self) -> bool:
        """Whether no device holds a session any more and no step runs."""
        has_sessions = len(self._table) > self._table.num_detached
        return self._is_draining and not has_sessions and not self._steps.has_steps

    def shut_down(self, now: float) -> list[Action]:
        """End every session and connection with DRAINING."""
        self._is_draining = True
        for link in self._links:
            self._fault_connection(link, FaultCode.DRAINING, "the cloud stops", now)
        for session in list(self._table):
            self._end(session)
        return self._links.take_actions()

    def figures(self) -> CoreFigures:
        """The load at this moment."""
        budget_tokens = self._pace.budget_tokens()
        return CoreFigures(
            num_connections=len(self._links),
            num_sessions=len(self._table),
            num_detached_sessions=self._table.num_detached,
            num_running_sessions=self._steps.num_sessions,
            num_waiting_sessions=sum(session.is_waiting for session in self._table),
            reserved_tokens=self._accounting.reserved_tokens,
            capacity_tokens=self._accounting.capacity_tokens,
            queued_tokens=self._num_queued_tokens(),
            step_budget_tokens=budget_tokens,
            step_seconds=self._pace.estimate_s(budget_tokens),
            retry_after_s=self._retry_s(),
            is_draining=self._is_draining,
        )

    def _open(self, link: Link, message: Open) -> None:
        """Take a session up again by its key, or make one, empty or as a fork."""
        known = self._table.find(message.key)
        if known is not None and known.max_tokens == message.max_tokens:
            self._take_up(link, message.session, known)
            return
        if known is not None:
            self._tell_replaced(known)
            self._end(known)
        try:
            source = fork_source(message, link.sessions)
            self._make_room(message)
            session = self._table.add(message.key, message.max_tokens)
        except AdmissionError as error:
            retry_s = self._retry_s() if error.can_retry else 0.0
            self._links.send(link, Fault(error.code, message.session, retry_s, error.message))
            return
        session.cached_tokens = message.fork_tokens
        fork_of = None if source is None else source.handle
        command = OpenSequence(session.handle, session.max_tokens, fork_of, message.fork_tokens)
        self._steps.open(command)
        self._attach(link, message.session, session)

    def _make_room(self, message: Open) -> None:
        """Refuse, or end as many lost sessions as the new one needs."""
        if self._is_draining:
            raise AdmissionError(FaultCode.DRAINING, "the cloud takes no new sessions")
        if self._restart_s is not None:
            raise AdmissionError(FaultCode.INTERNAL, "the engine restarts")
        check_demand(self._config, message, self._steps.num_commands)
        for victim in self._table.victims(message.max_tokens):
            self._end(victim)

    def _take_up(self, link: Link, number: SessionId, session: Session) -> None:
        """Move a session, with or without a socket, to this connection."""
        if session.connection is not None:
            self._tell_replaced(session)
            self._detach(session)
        self._attach(link, number, session)

    def _tell_replaced(self, session: Session) -> None:
        link = self._links.get(session.connection)
        if link is not None:
            reason = "opened again with the same key"
            self._links.send(link, Fault(FaultCode.UNKNOWN_SESSION, session.number, 0.0, reason))

    def _attach(self, link: Link, number: SessionId, session: Session) -> None:
        session.attach(link.connection, number)
        self._table.mark_attached(session)
        link.sessions[number] = session
        self._links.send(link, Opened(number, session.certain_tokens))

    def _detach(self, session: Session) -> None:
        """Take a session off its connection; queued rows are dropped and their credit is back."""
        link = self._links.get(session.connection)
        if link is None:
            return
        self._scheduler.withdraw(link.connection, session.handle)
        del link.sessions[session.number]
        self._links.give_back(link.connection, session.detach())

    def _end(self, session: Session) -> None:
        """End a session, whatever the reason; its engine sequence goes in the next step."""
        self._detach(session)
        self._table.remove(session)
        self._steps.release(session.handle)

    def _take_states(self, link: Link, states: States, now: float) -> None:
        session = link.sessions.get(states.session)
        if session is None:
            self._links.give_back(link.connection, states.num_rows)
            if not link.wire.was_opened(states.session):
                reason = f"expected a session opened here, got {states.session}"
                fault = Fault(FaultCode.UNKNOWN_SESSION, states.session, 0.0, reason)
                self._links.send(link, fault)
            return
        try:
            num_dropped = session.accept(states, now)
        except RemoteProtocolError as error:
            self._links.give_back(link.connection, states.num_rows)
            self._links.send(link, Fault(error.code, states.session, 0.0, error.message))
            self._end(session)
            return
        self._links.give_back(link.connection, num_dropped)
        self._offer(session)

    def _offer(self, session: Session) -> None:
        """Let the scheduler know what the session has to run now."""
        connection, handle = session.connection, session.handle
        if connection is None:
            return
        if not session.is_waiting:
            self._scheduler.withdraw(connection, handle)
        elif session.is_verification(self._config.verify_tokens):
            self._scheduler.offer_verification(connection, handle, session.num_head_tokens)
        else:
            self._scheduler.offer_chunk(connection, handle, session.num_head_tokens)

    def _finish(self, session: Session, piece: Piece, done: PieceDone, now: float) -> None:
        reply = session.finish(piece, done, now)
        link = self._links.get(session.connection)
        if reply is not None and link is not None:
            self._links.send(link, reply)
        self._offer(session)

    def _refuse(self, handle: SequenceHandle, refusal: Refusal) -> None:
        """End one session with a Fault, if it still exists."""
        session = self._table.get(handle)
        if session is None:
            return
        link = self._links.get(session.connection)
        if link is not None:
            retry_s = 0.0 if refusal.code is FaultCode.BAD_FRAME else self._retry_s()
            reason = refusal.message[:_MAX_REASON_CHARACTERS]
            fault = Fault(refusal.code, session.number, retry_s, reason)
            self._links.send(link, fault)
        self._end(session)

    def _fault_connection(self, link: Link, code: FaultCode, reason: str, now: float) -> None:
        """Tell a device why, and forget its connection; its sessions wait for another."""
        can_retry = code in (FaultCode.TOO_MANY_SESSIONS, FaultCode.DRAINING)
        retry_s = self._retry_s() if can_retry else 0.0
        self._links.send(link, Fault(code, NO_SESSION, retry_s, reason))
        self._links.close(link)
        self._forget(link, now)

    def _forget(self, link: Link, now: float) -> None:
        link.wire.close()
        for session in list(link.sessions.values()):
            self._detach(session)
            self._table.mark_detached(session, now)
        self._links.forget(link)

    def _give_back_pieces(self, pieces: Sequence[Running]) -> None:
        num_rows: Counter[ConnectionId] = Counter()
        for _, piece in pieces:
            num_rows[piece.connection] += piece.num_rows
        for connection, num_returned in num_rows.items():
            self._links.give_back(connection, num_returned)

    def _retry_s(self) -> float:
        if self._restart_s is not None:
            return self._restart_s
        return self._pace.retry_s(self._num_queued_tokens())

    def _num_queued_tokens(self) -> int:
        return sum(session.num_queued_tokens for session in self._table)
