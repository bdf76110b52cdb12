"""Any mix of devices against a core that keeps idle sessions in host memory.

The devices and their model are those of `test_cloud_core`. Who goes to host memory is not foretold:
rows that come back tell whether a session is whole, the engine whether commands keep its room and
host memory's, and what must hold of the rest is looked at after every move.
"""

from dataclasses import replace

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from cloud_server.core.actions import ConnectionId, OpenSequence, RestoreSequence, SaveSequence
from cloud_server.core.session import Home
from tests.property.test_cloud_core import CloudMachine
from tests.support.cloud_core import CONFIG, Cloud, opening, states
from tests.support.cloud_model import Sequence
from tests.support.examples import at_most
from wire.errors import FaultCode
from wire.messages import Fault, Message, Opened, Want

_PATIENCE_S = 40
"""Beyond the deadline for rows of a session that finds no room to come back to."""


class SavingMachine(CloudMachine):
    """`CloudMachine` with host memory for one to four sessions."""

    @initialize(
        steps_in_flight=st.sampled_from([1, 2, 3]),
        block_tokens=st.sampled_from([1, 5, 16]),
        identity_share=st.sampled_from([0.5, 1.0, 1.0]),
        host_tokens=st.sampled_from([16, 40, 100]),
    )
    def begin(
        self, steps_in_flight: int, block_tokens: int, identity_share: float, host_tokens: int
    ) -> None:
        super().begin(steps_in_flight, block_tokens, identity_share)
        for connection in list(self.cloud.devices):
            self.cloud.disconnect(connection)
        self.config = replace(self.config, host_tokens=host_tokens, max_sessions=9)
        self.cloud = Cloud(self.config)
        self.sequences, self.by_handle = {}, {}
        for name in ("house", "house", "office"):
            self.connect(name)
        for key, connection in enumerate((1, 1, 2, 3), start=1):
            self.open_on(ConnectionId(connection), key, 16)
            if key in self.sequences:
                self.run_rows(self.sequences[key], [8, 4])
        self.rest()

    # Too many of what another test is about would leave too few moves.
    go_on_elsewhere = repeat_states = send_a_stale_epoch = lose_engine = None
    verify_behind_undecided_drafts = break_a_rule = reject = None

    @rule()
    def rest(self) -> None:
        """Long enough for everything that is quiet to be idle."""
        self.cloud.now += CONFIG.quiet_s + 0.5

    @precondition(lambda self: self.attached())
    @rule(data=st.data(), num_frames=st.integers(1, 3))
    def use(self, data: st.DataObject, num_frames: int) -> None:
        self.run_rows(data.draw(st.sampled_from(self.attached())), [4] * num_frames)

    def run_rows(self, one: Sequence, sizes: list[int]) -> None:
        """Rows of one session, which have run when this ends, unless it waits for room."""
        for size in sizes:
            most = min(CONFIG.max_frame_tokens, one.max_tokens - one.expected_end)
            if one.connection is not None and most > 0:
                rows = self.new_rows(min(size, most))
                self.submit(one, states(one.number, one.expected_end, rows, Want.LAST, one.epoch))
        for _ in range(12):
            if not self.is_live(one) or not one.frames:
                break
            self.end_step() if self.steps else self.begin_step()

    @precondition(lambda self: self.away())
    @rule(data=st.data(), num_rows=st.integers(1, 5), back=st.sampled_from([0, 0, 3]))
    def wake(self, data: st.DataObject, num_rows: int, back: int) -> None:
        """Rows for a session that is in host memory, or on the way there."""
        one = data.draw(st.sampled_from(self.away()))
        position = max(0, one.expected_end - back)
        if position + num_rows <= one.max_tokens:
            rows = self.new_rows(num_rows)
            self.submit(one, states(one.number, position, rows, Want.ALL, one.epoch))

    @precondition(lambda self: self.away())
    @rule(data=st.data(), key=st.integers(7, 9), max_tokens=st.sampled_from([16, 24]))
    def fork_what_is_away(self, data: st.DataObject, key: int, max_tokens: int) -> None:
        source = data.draw(st.sampled_from(self.away()))
        self.fork_one(source, key, data.draw(st.integers(0, source.certain)), max_tokens)

    @precondition(lambda self: self.attached())
    @rule(data=st.data(), key=st.integers(7, 9))
    def fork_when_others_are_idle(self, data: st.DataObject, key: int) -> None:
        self.rest()
        source = data.draw(st.sampled_from(self.attached()))
        if source.frames:
            return
        self.fork_one(source, key, source.certain, source.max_tokens)
        if source.connection is not None:
            self.submit(source, states(source.number, 0, self.new_rows(3), epoch=source.epoch))

    def fork_one(self, source: Sequence, key: int, num_tokens: int, max_tokens: int) -> None:
        if key in self.sequences or source.frames or source.connection is None:
            return
        num_tokens = min(num_tokens, max_tokens)
        number = self.cloud.next_session(source.connection)
        fork = {"fork_of": source.number, "fork_tokens": num_tokens}
        rows = source.rows[:num_tokens]
        answers = self.cloud.send(source.connection, opening(number, key, max_tokens, **fork))
        one = Sequence(key, max_tokens, number, source.connection, rows, num_tokens)
        self.expect_opened(one, answers)

    def away(self) -> list[Sequence]:
        """Sessions with a socket that are not in the engine."""
        table = self.cloud.core._sessions.table
        homes = {session.key[0]: session.home for session in table}
        return [s for s in self.attached() if homes.get(s.key) in {Home.LEAVING, Home.HOST}]

    @precondition(lambda self: self.cloud.devices)
    @rule(data=st.data(), key=st.integers(1, 6), max_tokens=st.sampled_from([16, 24, 32]))
    def crowd(self, data: st.DataObject, key: int, max_tokens: int) -> None:
        """One more session, when others have been idle for long."""
        self.rest()
        self.open_on(self.draw_connection(data), key, max_tokens)

    @precondition(lambda self: any(s.connection is None for s in self.sequences.values()))
    @rule(data=st.data())
    def come_back(self, data: st.DataObject) -> None:
        """A device takes up a session that lost its socket."""
        lost = [s for s in self.sequences.values() if s.connection is None]
        one = data.draw(st.sampled_from(sorted(lost, key=lambda s: s.key)))
        if self.cloud.devices:
            self.open_on(self.draw_connection(data), one.key, one.max_tokens)

    @precondition(lambda self: any(map(_copied, self.steps)))
    @rule()
    def end_step_with_a_failed_copy(self) -> None:
        while not _copied(self.steps[0]):
            self.end_step()
        (handle, *_) = _copied(self.steps[0])
        self.cloud.engine.refused_copies.add(handle)
        self.cloud.engine.may_be_full = True
        self.end_step()

    def fail_step(self) -> None:
        step, _ = self.steps[0]
        self.cloud.engine.may_be_full = True
        copied = [self.by_handle[handle] for handle in _copied(self.steps[0])]
        super().fail_step()
        for victim in copied:
            self.drop(victim)
        assert all(
            not isinstance(c, OpenSequence) or c.handle in self.by_handle for c in step.commands
        )

    fail_step = precondition(lambda self: self.steps)(rule()(fail_step))

    def expect_opened(self, sequence: Sequence, answers: list[Message]) -> None:
        assert sequence.connection is not None
        sequence.identity = self.cloud.identities[sequence.connection]
        sequence.quiet_since_s = self.cloud.now
        if Opened(sequence.number, sequence.certain) not in answers:
            code = self.fault_of(answers, sequence.number)
            assert code in {FaultCode.CAPACITY, FaultCode.TOO_MANY_SESSIONS}
            return
        self.sync()
        self.sequences[sequence.key] = sequence
        self.by_handle[len(self.by_handle) + 1] = sequence

    def sync(self) -> None:
        """Forget who is over, which nobody is without having been told, or without a socket; and
        nobody of whom a row was in a step."""
        known = {session.key[0] for session in self.cloud.core._sessions.table}
        for one in [s for s in self.sequences.values() if s.key not in known]:
            if one.connection is not None:
                inbox = self.cloud.inbox[one.connection]
                faults = [m for m in inbox if isinstance(m, Fault) and m.session == one.number]
                told = {fault.code for fault in faults}
                assert told & {FaultCode.CAPACITY, FaultCode.DEADLINE_EXCEEDED}, told
            assert one.num_in_steps == 0 or one.connection is None
            self.drop(one)

    def is_unused(self, sequence: Sequence) -> bool:
        """How long a socket is busy depends on who waits for room: `sync` looks at who was told."""
        return False

    def expect_replies(self) -> None:
        self.sync()
        super().expect_replies()

    def run_dry(self) -> None:
        """Whatever waits has run, or has been refused by the deadline."""
        for _ in range(_PATIENCE_S):
            for _ in range(1000):
                while self.steps:
                    self.end_step()
                self.begin_step()
                if not self.steps:
                    break
            assert not self.cloud.core.has_work
            self.sync()
            if not any(one.frames for one in self.sequences.values()):
                break
            self.cloud.pass_time(1.0)
            self.sync()
        super().run_dry()

    def pass_time(self, seconds: float) -> None:
        super().pass_time(seconds)
        self.sync()

    pass_time = rule(seconds=st.sampled_from([1.0, 20.0, 45.0]))(pass_time)

    @invariant()
    def accounting_is_that_of_the_live_sessions(self) -> None:
        if not hasattr(self, "cloud"):
            return
        self.sync()
        sessions = self.cloud.core._sessions
        figures, homes = self.cloud.core.figures(), sessions.homes
        assert {s.key[0] for s in sessions.table} == set(self.sequences)
        away = {Home.LEAVING, Home.HOST}
        here = [s for s in sessions.table if s.home not in away]
        assert figures.reserved_tokens == sum(self.charge(s.max_tokens) for s in here)
        assert figures.reserved_tokens <= self.capacity_tokens
        assert figures.num_detached_sessions == len(self.sequences) - len(self.attached())
        copies = homes._copies.values()
        held = sum(self.charge(copy.num_tokens) for copy in copies)
        assert figures.host_tokens == held <= self.config.host_tokens
        awaited = [s for s in sessions.table if s.home is Home.AWAITED]
        assert homes._awaited_tokens == sum(self.charge(s.max_tokens) for s in awaited)
        assert set(homes._awaited) == {s.handle for s in awaited}
        leaving = [t.session for t in homes._transfers.values() if t.source is None]
        over = sum(homes._over.values())
        assert homes._leaving_tokens == over + sum(self.charge(s.max_tokens) for s in leaving)
        assert all(copy.num_readers >= 0 and (copy.is_kept or copy.num_readers) for copy in copies)
        # Nobody waits for what does not come.
        assert homes.has_work or not homes._awaited

    @invariant()
    def counters_are_the_sums(self) -> None:
        if not hasattr(self, "cloud"):
            return
        figures, table = self.cloud.core.figures(), self.cloud.core._sessions.table
        frames = [frame for sequence in self.attached() for frame in sequence.frames]
        assert figures.queued_tokens == sum(f.states.num_rows - f.num_run for f in frames)
        assert figures.dropped_tokens == self.num_dropped
        # Who was let go on is offered with the next step.
        freed = self.cloud.core._sessions.homes._freed
        waiting = [session for session in table if session.is_waiting]
        num_freed = sum(session in freed for session in waiting)
        assert 0 <= len(waiting) - figures.num_waiting_sessions <= num_freed
        tally, held = self.cloud.core._sessions.tally, self.cloud.core._sessions.accounting.held
        for identity, holding in tally.identities.items():
            own = [s for s in table if s.identity == identity]
            assert holding.num_sessions == len(own) > 0
            assert holding.reserved_tokens == sum(held(s.handle) for s in own)

    def teardown(self) -> None:
        if not hasattr(self, "cloud"):
            return
        super().teardown()
        assert self.cloud.engine.copies == {}
        homes = self.cloud.core._sessions.homes
        assert (homes._leaving_tokens, homes._awaited_tokens, homes.held_tokens) == (0, 0, 0)


def _copied(given_out):
    """Whose positions a step copies."""
    step, _ = given_out
    copies = [c for c in step.commands if isinstance(c, SaveSequence | RestoreSequence)]
    return [copy.handle for copy in copies]


TestCloudSaving = SavingMachine.TestCase
TestCloudSaving.settings = settings(
    max_examples=at_most(150),
    stateful_step_count=60,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
