"""Sessions from their Open to their end: whose they are, what waits, who gives way."""

from collections.abc import Sequence

from cloud_server.core.actions import Owner, Refusal, SequenceHandle, Step, StepOutcome
from cloud_server.core.admission import (
    AdmissionError,
    check_demand,
    fork_source,
    taps_of,
)
from cloud_server.core.config import CoreConfig
from cloud_server.core.demand import Demand
from cloud_server.core.links import Link, Links
from cloud_server.core.names.people import People
from cloud_server.core.room import GivingWay, Newcomer, Room
from cloud_server.core.saving.homes import Homes
from cloud_server.core.saving.saver import Saver
from cloud_server.core.scheduling.beside import Beside
from cloud_server.core.scheduling.kv_accounting import KvAccounting
from cloud_server.core.scheduling.pace import Pace
from cloud_server.core.scheduling.scheduler import Grant, PromptTokens, Scheduler
from cloud_server.core.scheduling.yielding import Yielding
from cloud_server.core.session import Home, Piece, PieceDone, Session
from cloud_server.core.session_table import SessionTable
from cloud_server.core.step_book import Running, StepBook
from cloud_server.core.tally import Tally
from wire.coding.lossy import FORMATS, reply_codec
from wire.coding.row_codecs import RowCodecs, Unpacked, with_raw
from wire.errors import FaultCode, RemoteProtocolError
from wire.messages import Fault, Open, Opened, SessionId, States

_MAX_REASON_CHARACTERS = 200
"""Of an engine's words in a Fault; well below the protocol's bound in bytes."""


class Sessions:
    """All sessions, with table, tally and scheduler kept in step.

    `restart_s` is set while the engine is being loaded again; `is_draining` once the cloud takes
    no new sessions.
    """

    def __init__(
        self,
        config: CoreConfig,
        links: Links,
        scheduler: Scheduler,
        steps: StepBook,
        pace: Pace,
        codecs: RowCodecs,
        people: People,
    ) -> None:
        self._config = config
        self._people = people
        self._links = links
        self._scheduler = scheduler
        self._steps = steps
        self._pace = pace
        self._codecs = codecs
        self.accounting = KvAccounting(config.capacity_tokens, config.block_tokens)
        self.table = SessionTable(self.accounting, config.steps_in_flight)
        self.tally = Tally(self.accounting.held)
        self.homes = Homes(self.accounting, steps, config.host_tokens)
        self.saver = Saver(config, self.homes, pace)
        self.beside = Beside(config.target_step_s)
        self.yielding = Yielding(
            scheduler, people, lambda num_tokens: self.beside.riding_tokens(num_tokens, 0)
        )
        self._room = Room(
            config, self.accounting, self.table, self.tally, links, self.saver, people
        )
        self._demand = Demand(config, self.tally, pace, people)
        self._wanted: dict[SequenceHandle, float] = {}
        """Sessions in host memory with rows to run, and since when."""
        self._has_room_changed = False
        self.num_dropped_copies = 0
        """Sessions that ended in host memory because others were in need of it."""
        self.num_dropped_tokens = 0
        """Rows that a newer epoch of their session made stale before they ran."""
        self.num_saved_bytes = 0
        """What coded rows took less than RAW ones."""
        self.num_lossy_tokens = 0
        """Rows that came in a lossy codec."""
        self.is_draining = False
        self.restart_s: float | None = None

    @property
    def retry_s(self) -> float:
        """When a device refused now may come back."""
        if self.restart_s is not None:
            return self.restart_s
        return self._pace.retry_s(self.tally.total.num_queued_tokens)

    def open(self, link: Link, message: Open, now: float) -> None:
        """Take a session up again by its key, or make one, empty or as a fork."""
        assert link.person is not None, "it was let in"
        known = self.table.find(message.key, link.person.name)
        try:
            taps = taps_of(self._config, message)
            if known is not None and known.max_tokens == message.max_tokens:
                self._take_up(link, message.session, known, now)
                known.taps = taps
                if known.home is Home.HOST:
                    # Its device is about to use it: the way back begins before rows are here.
                    self._fetch(known, now)
                return
            if known is not None:
                self._tell_replaced(known)
                self.end(known)
            session = self._begin(link, message, now)
            session.taps = taps
        except AdmissionError as error:
            self._links.refuse(link, message.session, error, self.retry_s)
            return
        self._attach(link, message.session, session, now)

    def take_states(
        self, link: Link, states: States, now: float, unpacked: Unpacked | None = None
    ) -> None:
        """Queue rows of a session, or refuse them; `unpacked` as in `CloudCore.receive`."""
        session = link.sessions.get(states.session)
        if session is None:
            self._take_stray_states(link, states)
            return
        try:
            if unpacked is None:
                unpacked = self._codecs.raw_states(states)
            elif isinstance(unpacked, RemoteProtocolError):
                raise unpacked
            self.num_saved_bytes += len(unpacked) - len(states.payload)
            self._demand.check_today(link, states.num_rows, now)
            away_s = session.away_s(now)
            self.num_lossy_tokens += states.num_rows if states.codec in FORMATS else 0
            num_dropped = session.accept(with_raw(states, unpacked), now, states.codec)
        except (RemoteProtocolError, AdmissionError) as error:
            self._links.give_back(link.connection, states.num_rows)
            self._links.refuse(link, states.session, error, self.retry_s)
            self.end(session)
            return
        self.num_dropped_tokens += num_dropped
        self.yielding.note(link.identity, now)
        self.offer(session)
        is_verification = session.is_waiting and session.is_verification(self._config.verify_tokens)
        if is_verification and not self.yielding.yields(link.identity):
            self.beside.note_round(session.handle, away_s, now)
        else:
            self.beside.forget(session.handle)
        if session.home in {Home.LEAVING, Home.HOST}:
            self._wanted.setdefault(session.handle, now)
            self._has_room_changed = True
        self._links.give_back(link.connection, num_dropped)
        reason = self._demand.too_many_frames(link, session)
        if reason is not None:
            self.refuse(session.handle, Refusal(FaultCode.CAPACITY, reason))

    def offer(self, session: Session) -> None:
        """Let scheduler and tally know what the session has to run now."""
        self.tally.note(session)
        owner, handle = session.owner, session.handle
        if owner is None or not session.is_attached:
            return
        if not session.is_waiting:
            self._scheduler.withdraw(owner, handle)
        elif session.is_verification(self._config.verify_tokens):
            self._scheduler.offer_verification(owner, handle, session.num_head_tokens)
        else:
            self._scheduler.offer_chunk(owner, handle, session.num_head_tokens)

    def finish(self, session: Session, piece: Piece, done: PieceDone, now: float) -> None:
        """Take what a step gave for a session that still exists."""
        reply = session.finish(piece, done, now)
        link = self._links.get(session.connection)
        if reply is not None and link is not None:
            self._links.send(link, reply, reply_codec(piece.codec, link.wire.codecs))
        self.offer(session)

    def refuse(self, handle: SequenceHandle, refusal: Refusal) -> None:
        """End one session with a Fault, if it still exists."""
        session = self.table.get(handle)
        if session is None:
            return
        link = self._links.get(session.connection)
        if link is not None:
            retry_s = 0.0 if refusal.code is FaultCode.BAD_FRAME else self.retry_s
            reason = refusal.message[:_MAX_REASON_CHARACTERS]
            fault = Fault(refusal.code, session.number, retry_s, reason)
            self._links.send(link, fault)
        self.end(session)

    def end(self, session: Session) -> None:
        """End a session, whatever the reason; its engine sequence goes in the next step."""
        self._detach(session)
        self._wanted.pop(session.handle, None)
        self.homes.end(session)
        self.table.remove(session)
        self.tally.forget(session)
        self.beside.forget(session.handle)
        self._has_room_changed = True

    def beside_at(self, now: float) -> PromptTokens:
        """Of what the next step verifies, the rows of prompts that it may have beside that."""

        def prompt_tokens(verified: Sequence[Grant]) -> int | None:
            handles = [grant.handle for grant in verified]
            num_verified = sum(grant.num_rows for grant in verified)
            return self.beside.prompt_tokens(handles, num_verified, now)

        return prompt_tokens

    def observe(
        self, step: Step, pieces: Sequence[Running], outcome: StepOutcome, now: float
    ) -> None:
        """Learn from what a step took that has ended now."""
        self.saver.observe(step, outcome)
        for session, _ in pieces:
            self.yielding.note(session.identity, now)
        most = self._config.verify_tokens
        verified = [each for each in pieces if each[1].is_verification(most)]
        handles = [session.handle for session, _ in verified]
        riding = self._riding(pieces)
        num_riding = sum(piece.num_rows for one, piece in pieces if one.handle in riding)
        num_verified = sum(piece.num_rows for one, piece in verified if one.handle not in riding)
        num_prompt = step.num_tokens - num_verified - num_riding
        seconds = outcome.seconds
        self.beside.observe(handles, num_verified, num_prompt, seconds, now, num_riding)

    def _riding(self, pieces: Sequence[Running]) -> set[SequenceHandle]:
        """The sessions of those who yield, in a step that has others."""
        riding = {one.handle for one, _ in pieces if self.yielding.yields(one.identity)}
        return riding if len(riding) < len(pieces) else set()

    def advance(self, has_rows: bool) -> None:
        """Have the next step copy what it may between engine and host memory."""
        for session in self.homes.advance(self.saver.step_tokens(has_rows)):
            if self.table.get(session.handle) is session:
                self.offer(session)

    def settle(self, now: float) -> None:
        """After a change: fetch back the sessions in host memory that have rows to run, in the
        order in which those came, as far as there is room."""
        if not self._has_room_changed:
            return
        self._has_room_changed = False
        for handle in list(self._wanted):
            session = self.table.get(handle)
            if session is None or session.is_quiet:
                del self._wanted[handle]
            elif session.home is Home.HOST:
                self._fetch(session, now)

    def forget_engine(self) -> None:
        """The engine is gone, and every session has been ended."""
        self._steps.forget_commands()
        self.homes.forget_all()

    def lose(self, link: Link, now: float) -> None:
        """A socket is gone; its sessions wait for another."""
        for session in list(link.sessions.values()):
            self._detach(session)
            self.table.mark_detached(session, now)

    def end_unwelcome(self, now: float) -> None:
        """End the sessions whose person may stay no longer, those without a socket too."""
        for session in list(self.table):
            if self._people.why_no_more(session.person, now) is not None:
                self.end(session)

    def expire(self, now: float) -> None:
        """End the sessions that have waited too long for a socket, or for their first rows on a
        socket that is as silent."""
        ttl_s = self._config.session_ttl_s
        self._expire_wanted(now)
        for session in self.table.expired(now, ttl_s):
            self.end(session)
        for session in self.table.unused(now, ttl_s):
            link = self._links.get(session.connection)
            assert link is not None, "it has a socket"
            held = self.tally.of_connection(link.connection)
            if now - link.busy_s > ttl_s and not held.num_queued_frames:
                reason = f"expected rows within {ttl_s:g} s"
                self.refuse(session.handle, Refusal(FaultCode.DEADLINE_EXCEEDED, reason))

    def _expire_wanted(self, now: float) -> None:
        """End the sessions in host memory whose rows have waited too long for room."""
        deadline_s = self._config.queue_deadline_s
        self._has_room_changed = bool(self._wanted) or self._has_room_changed
        for handle, since_s in list(self._wanted.items()):
            if now - since_s > deadline_s:
                reason = f"expected room within {deadline_s:g} s"
                self.refuse(handle, Refusal(FaultCode.CAPACITY, reason))

    def _fetch(self, session: Session, now: float) -> None:
        """Bring a session with a socket back from host memory, if there is room."""
        link = self._links.get(session.connection)
        assert link is not None, "it has a socket"
        newcomer = Newcomer(link, session.max_tokens, is_new=False)
        try:
            with self.homes.spared(session):
                self._make_room(self._room.giving_way(newcomer, now))
        except AdmissionError:
            return
        self._wanted.pop(session.handle, None)
        self.accounting.reserve(session.handle, session.max_tokens)
        self.homes.come_back(session)
        self.offer(session)

    def _make_room(self, way: GivingWay) -> None:
        reason = "it was idle, and another device had less"
        for session in way.ending:
            self.refuse(session.handle, Refusal(FaultCode.CAPACITY, reason))
        for session in way.leaving:
            dropped = [] if self.saver.is_away(session) else self.homes.dropped_for(session)
            if dropped is None:
                self.refuse(session.handle, Refusal(FaultCode.CAPACITY, reason))
                continue
            for handle in dropped:
                self.num_dropped_copies += 1
                full = "it was idle, and host memory was needed"
                self.refuse(handle, Refusal(FaultCode.CAPACITY, full))
            self._leave_engine(session)

    def _leave_engine(self, session: Session) -> None:
        if self.saver.is_away(session):
            self.homes.turn_back(session)
        else:
            self.homes.leave(session)
        self.tally.note(session)

    def _begin(self, link: Link, message: Open, now: float) -> Session:
        source = fork_source(message, link.sessions)
        if self.is_draining:
            raise AdmissionError(FaultCode.DRAINING, "the cloud takes no new sessions")
        if self.restart_s is not None:
            raise AdmissionError(FaultCode.INTERNAL, "the engine restarts")
        check_demand(self._config, message, self._steps.num_commands)
        self._demand.check_new(link, now)
        if source is not None and not self.homes.can_fork(source):
            raise AdmissionError(FaultCode.CAPACITY, "the session to fork is not there yet")
        newcomer = Newcomer(link, message.max_tokens, source=source)
        with self.homes.spared(source):
            self._make_room(self._room.giving_way(newcomer, now))
        assert link.person is not None, "it was let in"
        session = self.table.add(message.key, message.max_tokens, link.person)
        session.cached_tokens = message.fork_tokens
        self.homes.open(session, source, message.fork_tokens)
        if source is not None:
            self.offer(source)
        return session

    def _take_stray_states(self, link: Link, states: States) -> None:
        """Rows of a session that is over, or that never was."""
        self._links.give_back(link.connection, states.num_rows)
        if not link.wire.was_opened(states.session):
            reason = f"expected a session opened here, got {states.session}"
            fault = Fault(FaultCode.UNKNOWN_SESSION, states.session, 0.0, reason)
            self._links.send(link, fault)

    def _take_up(self, link: Link, number: SessionId, session: Session, now: float) -> None:
        """Move a session, with or without a socket, to this connection."""
        if session.is_attached:
            self._tell_replaced(session)
            self._detach(session)
        self._attach(link, number, session, now)

    def _tell_replaced(self, session: Session) -> None:
        link = self._links.get(session.connection)
        if link is not None:
            reason = "opened again with the same key"
            self._links.send(link, Fault(FaultCode.UNKNOWN_SESSION, session.number, 0.0, reason))

    def _attach(self, link: Link, number: SessionId, session: Session, now: float) -> None:
        session.attach(Owner(link.identity, link.connection), number, now)
        self.table.mark_attached(session)
        self.tally.note(session)
        link.sessions[number] = session
        self._links.send(link, Opened(number, session.certain_tokens))

    def _detach(self, session: Session) -> None:
        """Take a session off its connection; queued rows are dropped and their credit is back."""
        link = self._links.get(session.connection)
        if link is None or session.owner is None:
            return
        self._scheduler.withdraw(session.owner, session.handle)
        del link.sessions[session.number]
        num_dropped = session.detach()
        self.tally.note(session)
        self._links.give_back(link.connection, num_dropped)
