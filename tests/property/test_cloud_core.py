"""Any mix of devices against the cloud's core, compared with a model a few lines long.

The model knows of each session which rows it holds, which are in a step, and which frames wait.
Every deep row that comes back depends on all rows before it, so a row of another session, a
missed truncation or a wrong order cannot go unnoticed.
"""

from dataclasses import replace

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cloud_server.core.actions import ConnectionId, OpenSequence, Step
from tests.support.cloud_core import (
    CONFIG,
    Cloud,
    Row,
    opening,
    shallow_rows,
    states,
)
from tests.support.cloud_model import CloudModel, Running, Sequence
from tests.support.examples import at_most
from wire.errors import FaultCode
from wire.messages import Close, Fault, Opened, Want, Welcome

RESTART_S = 7.0
"""What a device is told of an engine that is being loaded again."""


class CloudMachine(CloudModel, RuleBasedStateMachine):
    """Several devices open, send, repeat, close, vanish and come back in any order."""

    @initialize(
        steps_in_flight=st.sampled_from([1, 2, 3]),
        block_tokens=st.sampled_from([1, 5, 16]),
        identity_share=st.sampled_from([0.5, 0.75, 1.0]),
    )
    def begin(self, steps_in_flight: int, block_tokens: int, identity_share: float) -> None:
        self.steps_in_flight, self.block_tokens = steps_in_flight, block_tokens
        self.config = replace(
            CONFIG,
            steps_in_flight=steps_in_flight,
            block_tokens=block_tokens,
            identity_share=identity_share,
        )
        self.cloud = Cloud(self.config)
        self.sequences = {}
        self.by_handle = {}
        self.steps: list[tuple[Step, list[Running]]] = []
        self.num_rows_made = 0
        self.num_dropped = 0
        self.is_restarting = False
        for name in ("house", "office"):
            self.connect(name)
        for key, connection in ((1, 1), (2, 1), (3, 2)):
            self.open_on(ConnectionId(connection), key, 16)

    # Devices

    @precondition(lambda self: len(self.cloud.devices) < CONFIG.max_connections)
    @rule(identity=st.sampled_from(["house", "office"]))
    def connect(self, identity: str) -> None:
        identities = [self.cloud.identities[connection] for connection in self.cloud.devices]
        is_alone = set(identities) <= {identity}
        most = CONFIG.max_connections
        most = most if is_alone else max(1, int(self.config.identity_share * most))
        connection = self.cloud.connect(identity=identity)
        (answer,) = self.cloud.received(connection)
        assert isinstance(answer, Welcome) is (identities.count(identity) < most)
        if not isinstance(answer, Welcome):
            assert isinstance(answer, Fault)
            assert answer.code is FaultCode.TOO_MANY_SESSIONS
            self.cloud.disconnect(connection)

    @precondition(lambda self: self.cloud.devices)
    @rule(data=st.data(), key=st.integers(1, 6), max_tokens=st.sampled_from([8, 16, 17, 24]))
    def open(self, data: st.DataObject, key: int, max_tokens: int) -> None:
        self.open_on(self.draw_connection(data), key, max_tokens)

    def open_on(self, connection: ConnectionId, key: int, max_tokens: int) -> None:
        number = self.cloud.next_session(connection)
        known = self.sequences.get(key)
        answers = self.cloud.send(connection, opening(number, key, max_tokens))
        if self.is_restarting:
            assert known is None
            (fault,) = answers
            assert isinstance(fault, Fault)
            assert (fault.code, fault.session) == (FaultCode.INTERNAL, number)
            assert fault.retry_after_s == RESTART_S
            return
        if known is not None:
            self.expect_moved(known)
            if known.max_tokens == max_tokens:
                self.attach(known, connection, number)
                assert Opened(number, known.certain) in answers
                return
            self.drop(known)
        self.expect_opened(Sequence(key, max_tokens, number, connection), answers)

    @precondition(lambda self: self.attached())
    @rule(data=st.data(), key=st.integers(7, 9), is_settled=st.booleans())
    def fork(self, data: st.DataObject, key: int, is_settled: bool) -> None:
        source = data.draw(st.sampled_from(self.attached()))
        if key in self.sequences or source.connection is None:
            return
        starts = [f.states.position + f.num_run for f in source.frames]
        settled = min([source.certain, *starts])
        num_tokens = data.draw(st.integers(0, settled)) if is_settled else settled + 1
        if num_tokens > source.max_tokens:
            return
        number = self.cloud.next_session(source.connection)
        message = opening(
            number, key, source.max_tokens, fork_of=source.number, fork_tokens=num_tokens
        )
        answers = self.cloud.send(source.connection, message)
        if not is_settled:
            assert self.fault_of(answers, number) is FaultCode.POSITION_MISMATCH
            return
        rows = source.rows[:num_tokens]
        fork = Sequence(key, source.max_tokens, number, source.connection, rows, num_tokens)
        self.expect_opened(fork, answers)

    @precondition(lambda self: self.attached())
    @rule(data=st.data(), want=st.sampled_from(Want))
    def go_on(self, data: st.DataObject, want: Want) -> None:
        """A chunk or a draft, behind what was sent before or over a part of it."""
        sequence = data.draw(st.sampled_from(self.attached()))
        self.send_legal(data, sequence, sequence.epoch, sequence.expected_end, want)

    @precondition(lambda self: self.attached())
    @rule(data=st.data(), want=st.sampled_from(Want))
    def go_on_elsewhere(self, data: st.DataObject, want: Want) -> None:
        self.go_on(data, want)

    @precondition(lambda self: any(s.frames for s in self.attached()))
    @rule(data=st.data(), want=st.sampled_from(Want), num_epochs=st.integers(1, 3))
    def reject(self, data: st.DataObject, want: Want, num_epochs: int) -> None:
        """A new epoch: what waits is void."""
        sequence = data.draw(st.sampled_from([s for s in self.attached() if s.frames]))
        epoch = sequence.epoch + num_epochs
        self.send_legal(data, sequence, epoch, len(sequence.rows), want)

    @precondition(lambda self: self.attached())
    @rule(data=st.data(), num_frames=st.integers(2, 4))
    def verify_behind_undecided_drafts(self, data: st.DataObject, num_frames: int) -> None:
        """Rounds of one epoch, each at the end of the one before it, without waiting."""
        one = data.draw(st.sampled_from(self.attached()))
        for _ in range(num_frames):
            position = one.expected_end
            if one.connection is not None and position + 3 <= one.max_tokens:
                rows = self.new_rows(3)
                self.submit(one, states(one.number, position, rows, Want.ALL, one.epoch))

    @precondition(lambda self: any(s.epoch for s in self.attached()))
    @rule(data=st.data(), position=st.integers(0, 30))
    def send_a_stale_epoch(self, data: st.DataObject, position: int) -> None:
        sequence = data.draw(st.sampled_from([s for s in self.attached() if s.epoch]))
        rows = self.new_rows(data.draw(st.integers(1, 4)))
        self.submit(sequence, states(sequence.number, position, rows, epoch=sequence.epoch - 1))

    @precondition(lambda self: self.attached())
    @rule(data=st.data(), is_gap=st.booleans())
    def break_a_rule(self, data: st.DataObject, is_gap: bool) -> None:
        sequence = data.draw(st.sampled_from(self.attached()))
        end, most = sequence.expected_end, sequence.max_tokens
        position, num_rows = (end + 1, 1) if is_gap else (end, most - end + 1)
        if num_rows <= CONFIG.max_frame_tokens:
            rows = self.new_rows(num_rows)
            frame = states(sequence.number, position, rows, epoch=sequence.epoch)
            self.submit(sequence, frame)

    def send_legal(
        self, data: st.DataObject, sequence: Sequence, epoch: int, end: int, want: Want
    ) -> None:
        """Rows at the end or a little before it, within the reservation."""
        back = data.draw(st.sampled_from([0, 0, 1, 4, 9]))
        position = min(max(0, end - back), sequence.max_tokens - 1)
        most = min(CONFIG.max_frame_tokens, sequence.max_tokens - position)
        rows = self.new_rows(data.draw(st.integers(1, most)))
        self.submit(sequence, states(sequence.number, position, rows, want, epoch))

    def new_rows(self, num_rows: int) -> list[Row]:
        self.num_rows_made += num_rows
        return shallow_rows(*range(self.num_rows_made, self.num_rows_made + num_rows))

    @precondition(lambda self: any(s.frames for s in self.attached()))
    @rule(data=st.data())
    def repeat_states(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from([s for s in self.attached() if s.frames]))
        self.submit(sequence, sequence.frames[-1].states)

    @precondition(lambda self: self.attached())
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(self.attached()))
        assert sequence.connection is not None
        self.cloud.send(sequence.connection, Close(sequence.number))
        self.drop(sequence)

    @precondition(lambda self: self.cloud.devices)
    @rule(data=st.data(), is_rude=st.booleans())
    def disconnect(self, data: st.DataObject, is_rude: bool) -> None:
        connection = self.draw_connection(data)
        if is_rude:
            self.cloud.send_frame(connection, b"\x00garbage")
            assert self.cloud.faults(connection)[-1] is FaultCode.BAD_FRAME
        self.cloud.disconnect(connection)
        for sequence in sorted(self.attached(), key=lambda s: s.number):
            if sequence.connection == connection:
                self.detach(sequence)

    # The engine and time

    @precondition(lambda self: len(self.steps) < 3)
    @rule()
    def begin_step(self) -> None:
        had_work = self.cloud.core.has_work
        step = self.cloud.core.next_step(self.cloud.now)
        assert had_work is (step is not None)
        if step is None:
            return
        assert step.num_tokens <= CONFIG.step_budget_tokens
        for command in step.commands:
            if isinstance(command, OpenSequence):
                assert command.max_tokens == self.by_handle[command.handle].max_tokens
        self.steps.append((step, [self.start(item.handle, item.num_rows) for item in step.items]))

    @precondition(lambda self: self.steps)
    @rule()
    def end_and_begin_step(self) -> None:
        self.end_step()
        self.begin_step()

    @precondition(lambda self: self.steps)
    @rule()
    def end_step(self) -> None:
        step, pieces = self.steps.pop(0)
        outcome = self.cloud.finish_step(step)
        for handle, _ in outcome.failed_opens:  # an earlier step had failed
            self.drop(self.by_handle[handle])
        for piece in pieces:
            self.finish(piece)
        self.expect_replies()

    @precondition(lambda self: self.steps)
    @rule(data=st.data())
    def end_step_with_a_refusal(self, data: st.DataObject) -> None:
        _, pieces = self.steps[0]
        if not pieces:
            return
        victim = pieces.pop(data.draw(st.integers(0, len(pieces) - 1))).sequence
        (handle,) = [h for h, sequence in self.by_handle.items() if sequence is victim]
        self.cloud.engine.refused.add(handle)
        connection = victim.connection
        self.drop(victim)
        inbox = [] if connection is None else self.cloud.inbox[connection]
        self.end_step()
        if connection is not None:
            assert self.fault_of(inbox, victim.number) is FaultCode.BAD_FRAME

    @precondition(lambda self: self.steps)
    @rule()
    def fail_step(self) -> None:
        """The engine raises: who took part, or was to be opened, is over; credit comes back."""
        step, pieces = self.steps.pop(0)
        opened = [c.handle for c in step.commands if isinstance(c, OpenSequence)]
        victims = [piece.sequence for piece in pieces] + [self.by_handle[h] for h in opened]
        self.cloud.engine.may_be_full |= bool(self.steps)
        # Their rows in the steps after this one follow on nothing.
        self.cloud.engine.refused |= {item.handle for item in step.items}
        self.cloud.fail_step(step)
        for victim in victims:
            victim.num_in_steps = 0
            self.drop(victim)

    @precondition(lambda self: not self.is_restarting)
    @rule(chance=st.integers(0, 3))
    def lose_engine(self, chance: int) -> None:
        """Every session is over, with or without a step or a socket; credit comes back."""
        if chance:
            return
        ended = [(s.connection, s.number) for s in self.attached()]
        self.cloud.lose_engine(RESTART_S)
        self.is_restarting = True
        self.steps.clear()
        for sequence in list(self.sequences.values()):
            sequence.num_in_steps = 0
            self.drop(sequence)
        for connection, number in ended:
            assert connection is not None
            assert self.fault_of(self.cloud.inbox[connection], number) is FaultCode.INTERNAL
        for connection in self.cloud.devices:
            self.cloud.received(connection)
        assert not self.cloud.core.has_work

    @precondition(lambda self: self.is_restarting)
    @rule()
    def engine_ready(self) -> None:
        self.cloud.core.engine_ready()
        self.is_restarting = False

    @rule(seconds=st.sampled_from([1.0, 20.0, 45.0]))
    def pass_time(self, seconds: float) -> None:
        # Rows that wait too long are another test's: here the queue is emptied first.
        self.run_dry()
        self.cloud.pass_time(seconds)
        for sequence in list(self.sequences.values()):
            lost_s = self.cloud.now - sequence.detached_s
            is_lost = sequence.connection is None and lost_s > CONFIG.session_ttl_s
            if is_lost or self.is_unused(sequence):
                self.drop(sequence)

    def is_unused(self, sequence: Sequence) -> bool:
        """Whether nothing ever ran in it and its device says nothing."""
        if sequence.connection is None or sequence.has_run:
            return False
        heard_s = max(sequence.quiet_since_s, self.cloud.heard_s[sequence.connection])
        return self.cloud.now - heard_s > CONFIG.session_ttl_s

    def run_dry(self) -> None:
        """When everything has run, each frame has its Reply and three quarters of the credit."""
        for _ in range(1000):
            while self.steps:
                self.end_step()
            self.begin_step()
            if not self.steps:
                break
        assert not self.cloud.core.has_work
        for sequence in self.sequences.values():
            assert sequence.frames == []
        for device in self.cloud.devices.values():
            assert 4 * device.num_available_tokens > 3 * CONFIG.credit_window_tokens

    # What must always hold

    @invariant()
    def accounting_is_that_of_the_live_sessions(self) -> None:
        if not hasattr(self, "cloud"):
            return
        figures = self.cloud.core.figures()
        assert figures.num_sessions == len(self.sequences) <= CONFIG.max_sessions
        assert figures.reserved_tokens == self.num_reserved() <= self.capacity_tokens
        assert figures.num_detached_sessions == len(self.sequences) - len(self.attached())
        assert figures.num_connections == len(self.cloud.devices)

    @invariant()
    def counters_are_the_sums(self) -> None:
        if not hasattr(self, "cloud"):
            return
        figures, table = self.cloud.core.figures(), self.cloud.core._sessions.table
        frames = [frame for sequence in self.attached() for frame in sequence.frames]
        assert figures.queued_tokens == sum(f.states.num_rows - f.num_run for f in frames)
        assert figures.dropped_tokens == self.num_dropped
        assert figures.num_waiting_sessions == sum(session.is_waiting for session in table)
        assert figures.num_running_sessions == sum(session.is_running for session in table)
        tally = self.cloud.core._sessions.tally
        assert tally.total.num_queued_frames == len(frames)
        for identity, held in tally.identities.items():
            own = [s for s in self.sequences.values() if s.identity == identity]
            assert held.num_sessions == len(own) > 0
            assert held.reserved_tokens == sum(self.charge(s.max_tokens) for s in own)
        for connection, held in tally.connections.items():
            own = [s for s in self.attached() if s.connection == connection]
            assert held.num_queued_frames == sum(len(s.frames) for s in own)
        assert set(tally.identities) == {s.identity for s in self.sequences.values()}
        assert set(tally.connections) == {s.connection for s in self.attached()}

    @invariant()
    def outstanding_rows_are_within_the_credit(self) -> None:
        if not hasattr(self, "cloud"):
            return
        for connection, device in self.cloud.devices.items():
            waiting = sum(
                frame.states.num_rows - frame.num_run
                for sequence in self.attached()
                if sequence.connection == connection
                for frame in sequence.frames
            )
            assert waiting + device.num_available_tokens <= CONFIG.credit_window_tokens

    def teardown(self) -> None:
        if not hasattr(self, "cloud"):
            return
        self.run_dry()
        self.cloud.shut_down()
        self.cloud.run_all()
        assert self.cloud.core.figures().reserved_tokens == 0
        assert self.cloud.engine.cached == {}


TestCloudCore = CloudMachine.TestCase
# Shrinking takes minutes here, and its result says no more than the state that is printed.
TestCloudCore.settings = settings(
    max_examples=at_most(100),
    stateful_step_count=50,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
