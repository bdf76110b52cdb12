"""Any mix of devices against the cloud's core, compared with a model a few lines long.

The model knows of each session which rows it holds, which are in a step, and which frames wait.
Every deep row that comes back depends on all rows before it, so a row of another session, a
missed truncation or a wrong order cannot go unnoticed.
"""

from dataclasses import dataclass, field

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cloud_server.actions import ConnectionId, OpenSequence, SequenceHandle, Step
from tests.support.cloud_core import (
    CONFIG,
    Cloud,
    Row,
    deep_row,
    opening,
    rows_of,
    shallow_rows,
    states,
)
from wire.errors import FaultCode
from wire.messages import Close, Fault, Message, Opened, Reply, SessionId, States, Want, Welcome


@dataclass(eq=False)
class Frame:
    """A frame that was accepted and not answered; `position` moves on as its rows are run."""

    states: States
    deep: list[Row] = field(default_factory=list)
    num_run: int = 0


@dataclass(eq=False)
class Sequence:
    """One session as the model sees it. `rows` counts those in steps as run already."""

    key: int
    max_tokens: int
    number: SessionId
    connection: ConnectionId | None
    rows: list[Row] = field(default_factory=list)
    certain: int = 0
    epoch: int = 0
    frames: list[Frame] = field(default_factory=list)
    detached_s: float = 0.0
    num_in_steps: int = 0

    @property
    def expected_end(self) -> int:
        last = self.frames[-1].states if self.frames else None
        return len(self.rows) if last is None else last.position + last.num_rows


@dataclass(frozen=True, eq=False)
class Running:
    """A piece in a step, with what it must give."""

    sequence: Sequence
    frame: Frame
    num_rows: int
    deep: list[Row]
    end: int


class CloudMachine(RuleBasedStateMachine):
    """Several devices open, send, repeat, close, vanish and come back in any order."""

    @initialize()
    def begin(self) -> None:
        self.cloud = Cloud()
        self.sequences: dict[int, Sequence] = {}
        self.by_handle: dict[SequenceHandle, Sequence] = {}
        self.unnamed: list[Sequence] = []
        self.steps: list[tuple[Step, list[Running]]] = []
        self.num_rows_made = 0
        for _ in range(2):
            self.connect()
        for key, connection in ((1, 1), (2, 1), (3, 2)):
            self.open_on(ConnectionId(connection), key, 16)

    # Devices

    @precondition(lambda self: len(self.cloud.devices) < CONFIG.max_connections)
    @rule()
    def connect(self) -> None:
        connection = self.cloud.connect()
        (welcome,) = self.cloud.received(connection)
        assert isinstance(welcome, Welcome)

    @precondition(lambda self: self.cloud.devices)
    @rule(data=st.data(), key=st.integers(1, 6), max_tokens=st.sampled_from([8, 16, 24]))
    def open(self, data: st.DataObject, key: int, max_tokens: int) -> None:
        self.open_on(self.draw_connection(data), key, max_tokens)

    def open_on(self, connection: ConnectionId, key: int, max_tokens: int) -> None:
        number = self.cloud.devices[connection].next_session
        known = self.sequences.get(key)
        answers = self.cloud.send(connection, opening(number, key, max_tokens))
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
        number = self.cloud.devices[source.connection].next_session
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

    @precondition(lambda self: len(self.steps) < 2)
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
                self.by_handle[command.handle] = self.unnamed.pop(0)
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
        self.cloud.engine.refused = {handle}
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
        self.cloud.fail_step(step)
        for victim in victims:
            victim.num_in_steps = 0
            self.drop(victim)

    @rule(seconds=st.sampled_from([1.0, 20.0, 45.0]))
    def pass_time(self, seconds: float) -> None:
        # Rows that wait too long are another test's: here the queue is emptied first.
        self.run_dry()
        self.cloud.pass_time(seconds)
        for sequence in list(self.sequences.values()):
            lost_s = self.cloud.now - sequence.detached_s
            if sequence.connection is None and lost_s > CONFIG.session_ttl_s:
                self.drop(sequence)

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
        assert figures.reserved_tokens == self.num_reserved() <= CONFIG.capacity_tokens
        assert figures.num_detached_sessions == len(self.sequences) - len(self.attached())
        assert figures.num_connections == len(self.cloud.devices)

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

    # The model

    def attached(self) -> list[Sequence]:
        return [s for s in self.sequences.values() if s.connection is not None]

    def is_live(self, sequence: Sequence) -> bool:
        return self.sequences.get(sequence.key) is sequence

    def num_reserved(self) -> int:
        return sum(sequence.max_tokens for sequence in self.sequences.values())

    def draw_connection(self, data: st.DataObject) -> ConnectionId:
        return data.draw(st.sampled_from(sorted(self.cloud.devices)))

    def fault_of(self, messages: list[Message], number: SessionId) -> FaultCode:
        (code,) = [m.code for m in messages if isinstance(m, Fault) and m.session == number]
        return code

    def submit(self, sequence: Sequence, message: States) -> None:
        """Send a frame when credit allows, and expect what the rules say about it."""
        connection = sequence.connection
        assert connection is not None
        if message.num_rows > self.cloud.devices[connection].num_available_tokens:
            return
        answers = self.cloud.send(connection, message)
        if message.epoch < sequence.epoch:
            return
        is_new_epoch = message.epoch > sequence.epoch
        end = len(sequence.rows) if is_new_epoch else sequence.expected_end
        if message.position > end or message.position + message.num_rows > sequence.max_tokens:
            assert self.fault_of(answers, sequence.number) in {
                FaultCode.POSITION_MISMATCH if message.position > end else None,
                FaultCode.CONTEXT_EXCEEDED if message.position <= end else None,
            }
            self.drop(sequence)
            return
        if is_new_epoch:
            sequence.epoch = message.epoch
            sequence.frames.clear()
        sequence.frames.append(Frame(message))

    def expect_moved(self, known: Sequence) -> None:
        """A session that is opened again leaves its former place, which is told."""
        if known.connection is None:
            return
        inbox = self.cloud.inbox[known.connection]
        assert self.fault_of(inbox, known.number) is FaultCode.UNKNOWN_SESSION
        known.frames.clear()

    def expect_opened(self, sequence: Sequence, answers: list[Message]) -> None:
        """There is room, perhaps by the end of the longest lost; or nobody had to leave."""
        victims = sorted(
            (s for s in self.sequences.values() if s.connection is None),
            key=lambda s: s.detached_s,
        )
        num_needed = 0
        while (
            self.num_reserved() - sum(v.max_tokens for v in victims[:num_needed])
            > CONFIG.capacity_tokens - sequence.max_tokens
            or len(self.sequences) - num_needed >= CONFIG.max_sessions
        ):
            num_needed += 1
            if num_needed > len(victims):
                code = self.fault_of(answers, sequence.number)
                assert code in {FaultCode.CAPACITY, FaultCode.TOO_MANY_SESSIONS}
                return
        if Opened(sequence.number, sequence.certain) not in answers:
            # Sixteen commands wait for the engine, which a test of their own is about.
            assert self.fault_of(answers, sequence.number) is FaultCode.TOO_MANY_SESSIONS
            return
        for victim in victims[:num_needed]:
            self.drop(victim)
        self.sequences[sequence.key] = sequence
        self.unnamed.append(sequence)

    def attach(self, sequence: Sequence, connection: ConnectionId, number: SessionId) -> None:
        sequence.connection, sequence.number, sequence.epoch = connection, number, 0

    def detach(self, sequence: Sequence) -> None:
        sequence.connection, sequence.detached_s = None, self.cloud.now
        self.cloud.now += 0.001  # no two are lost at the same moment
        sequence.frames.clear()

    def drop(self, sequence: Sequence) -> None:
        if self.is_live(sequence):
            del self.sequences[sequence.key]
        sequence.frames.clear()
        sequence.connection = None

    def start(self, handle: SequenceHandle, num_rows: int) -> Running:
        """Run rows of a session's first frame in the model, as the step will."""
        sequence = self.by_handle[handle]
        assert self.is_live(sequence)
        frame = sequence.frames[0]
        position = frame.states.position + frame.num_run
        new_rows = rows_of(frame.states.payload)[frame.num_run : frame.num_run + num_rows]
        assert position <= len(sequence.rows)
        assert len(new_rows) == num_rows
        assert sequence.num_in_steps == 0, "one piece at a time"
        sequence.num_in_steps += 1
        sequence.certain = min(sequence.certain, position)
        sequence.rows = sequence.rows[:position] + new_rows
        deep = [deep_row(sequence.rows[: position + i + 1]) for i in range(num_rows)]
        frame.num_run += num_rows
        return Running(sequence, frame, num_rows, deep, len(sequence.rows))

    def finish(self, piece: Running) -> None:
        piece.sequence.num_in_steps -= 1
        piece.sequence.certain = piece.end
        piece.frame.deep += piece.deep

    def expect_replies(self) -> None:
        """Exactly the frames whose last rows have come back are answered, each once."""
        for connection in self.cloud.devices:
            replies = self.cloud.replies(connection)
            for sequence in self.attached():
                if sequence.connection != connection or not sequence.frames:
                    continue
                frame = sequence.frames[0]
                if len(frame.deep) == frame.states.num_rows:
                    sequence.frames.pop(0)
                    self.check_reply(replies, sequence, frame)
            assert replies == []

    def check_reply(self, replies: list[Reply], sequence: Sequence, frame: Frame) -> None:
        (reply,) = [reply for reply in replies if reply.session == sequence.number]
        replies.remove(reply)
        sent = frame.states
        assert (reply.epoch, reply.position) == (sent.epoch, sent.position)
        assert reply.cached_tokens == sequence.certain == sent.position + sent.num_rows
        wanted = {Want.NONE: [], Want.LAST: frame.deep[-1:], Want.ALL: frame.deep}[sent.want]
        assert rows_of(reply.payload) == wanted
        assert reply.num_rows == len(wanted)


TestCloudCore = CloudMachine.TestCase
# Shrinking takes minutes here, and its result says no more than the state that is printed.
TestCloudCore.settings = settings(
    max_examples=100,
    stateful_step_count=50,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
