"""A model of the cloud's sessions a few lines long, to compare the core with.

It knows of each session which rows it holds, which are in a step, and which frames wait.
"""

import math
from dataclasses import dataclass, field

from hypothesis import strategies as st

from cloud_server.core.actions import ConnectionId, SequenceHandle
from cloud_server.core.config import CoreConfig
from tests.support.cloud_core import (
    CONFIG,
    Cloud,
    Row,
    deep_row,
    rows_of,
)
from wire.errors import FaultCode
from wire.messages import Fault, Message, Opened, Reply, SessionId, States, Want


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
    identity: str = ""
    quiet_since_s: float = 0.0
    has_run: bool = False

    def is_idle(self, now: float) -> bool:
        """Whether it may have to give way to a session of somebody with less."""
        is_long = now - self.quiet_since_s >= CONFIG.quiet_s
        return not self.frames and not self.num_in_steps and (is_long or not self.has_run)

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


class CloudModel:
    """The model beside the cloud that it is compared with."""

    cloud: Cloud
    config: CoreConfig
    steps_in_flight: int
    block_tokens: int
    num_dropped: int
    """Rows that came under an epoch that was over, or never ran before a newer one."""
    sequences: dict[int, Sequence]
    by_handle: dict[SequenceHandle, Sequence]

    def attached(self) -> list[Sequence]:
        return [s for s in self.sequences.values() if s.connection is not None]

    def is_live(self, sequence: Sequence) -> bool:
        return self.sequences.get(sequence.key) is sequence

    @property
    def capacity_tokens(self) -> int:
        """What whole blocks there are."""
        return CONFIG.capacity_tokens // self.block_tokens * self.block_tokens

    def charge(self, max_tokens: int) -> int:
        """What a reservation takes of the capacity: whole blocks."""
        return math.ceil(max_tokens / self.block_tokens) * self.block_tokens

    def num_reserved(self) -> int:
        return sum(self.charge(sequence.max_tokens) for sequence in self.sequences.values())

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
            self.num_dropped += message.num_rows
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
            self.num_dropped += sum(f.states.num_rows - f.num_run for f in sequence.frames)
            sequence.frames.clear()
        sequence.frames.append(Frame(message))
        sequence.quiet_since_s = self.cloud.now

    def expect_moved(self, known: Sequence) -> None:
        """A session that is opened again leaves its former place, which is told."""
        if known.connection is None:
            return
        inbox = self.cloud.inbox[known.connection]
        assert self.fault_of(inbox, known.number) is FaultCode.UNKNOWN_SESSION
        known.frames.clear()

    def expect_opened(self, sequence: Sequence, answers: list[Message]) -> None:
        """There is room, perhaps by the end of who gives way to it; or nobody had to leave."""
        assert sequence.connection is not None
        sequence.identity = self.cloud.identities[sequence.connection]
        sequence.quiet_since_s = self.cloud.now
        evicted = [s for s in self.attached() if self.was_evicted(s)]
        if Opened(sequence.number, sequence.certain) not in answers:
            assert evicted == []
            code = self.fault_of(answers, sequence.number)
            # Sixteen commands wait for the engine, which a test of their own is about.
            assert code in {FaultCode.CAPACITY, FaultCode.TOO_MANY_SESSIONS}
            if code is FaultCode.CAPACITY and self.is_within_its_share(sequence, []):
                assert not self.has_room(sequence, self.lost())
                for victim in self.idle_victims_of(sequence, [1]):
                    assert not self.has_room(sequence, [*self.lost(), victim])
            return
        victims = self.victims_of(sequence, evicted)
        assert self.is_within_its_share(sequence, victims)
        assert self.has_room(sequence, victims)
        assert set(evicted) <= set(self.idle_victims_of(sequence, [0, 1]))
        assert set(evicted) <= set(victims), "nobody else had to leave"
        for victim in victims:
            self.drop(victim)
        self.sequences[sequence.key] = sequence
        self.by_handle[SequenceHandle(len(self.by_handle) + 1)] = sequence

    def lost(self) -> list[Sequence]:
        lost = [s for s in self.sequences.values() if s.connection is None]
        return sorted(lost, key=lambda s: s.detached_s)

    def victims_of(self, newcomer: Sequence, evicted: list[Sequence]) -> list[Sequence]:
        """The lost and the evicted of its own until it has its share, then of all until there is
        room, the longest lost first."""
        victims: list[Sequence] = []
        everybody = [*self.lost(), *evicted]
        for victim in [s for s in everybody if s.identity == newcomer.identity]:
            if not self.is_within_its_share(newcomer, victims):
                victims.append(victim)
        for victim in everybody:
            if victim not in victims and not self.has_room(newcomer, victims):
                victims.append(victim)
        return victims

    def idle_victims_of(self, newcomer: Sequence, measures: list[int]) -> list[Sequence]:
        """Idle sessions of those who hold more, in sessions (0) or positions (1), than it will."""
        victims = []
        for one in self.attached():
            held, will_hold = self.held(one, newcomer, False), self.held(newcomer, one, True)
            holds_more = any(held[measure] > will_hold[measure] for measure in measures)
            if holds_more and one.is_idle(self.cloud.now):
                victims.append(one)
        return victims

    def held(self, one: Sequence, other: Sequence, is_new: bool) -> tuple[int, int]:
        """What the owner of one holds: an identity, or a connection if both are of the same."""
        is_same = one.identity == other.identity
        mine = [
            s
            for s in self.sequences.values()
            if (s.connection == one.connection if is_same else s.identity == one.identity)
        ]
        mine += [one] if is_new else []
        return len(mine), sum(self.charge(s.max_tokens) for s in mine)

    def has_room(self, newcomer: Sequence, victims: list[Sequence]) -> bool:
        left = [s for s in self.sequences.values() if s not in victims]
        num_tokens = sum(self.charge(s.max_tokens) for s in [*left, newcomer])
        return num_tokens <= self.capacity_tokens and len(left) < CONFIG.max_sessions

    def is_within_its_share(self, newcomer: Sequence, victims: list[Sequence]) -> bool:
        devices = self.cloud.devices
        if {self.cloud.identities[c] for c in devices} <= {newcomer.identity}:
            return True
        share = self.config.identity_share
        context_tokens = self.charge(CONFIG.max_context_tokens)
        most_tokens = max(context_tokens, int(share * CONFIG.capacity_tokens))
        own = [s for s in self.sequences.values() if s.identity == newcomer.identity]
        own = [s for s in own if s not in victims]
        num_tokens = sum(self.charge(s.max_tokens) for s in [*own, newcomer])
        return num_tokens <= most_tokens and len(own) < max(1, int(share * CONFIG.max_sessions))

    def was_evicted(self, sequence: Sequence) -> bool:
        assert sequence.connection is not None
        messages = self.cloud.inbox[sequence.connection]
        faults = [m for m in messages if isinstance(m, Fault) and m.session == sequence.number]
        return any(fault.code is FaultCode.CAPACITY for fault in faults)

    def attach(self, sequence: Sequence, connection: ConnectionId, number: SessionId) -> None:
        sequence.connection, sequence.number, sequence.epoch = connection, number, 0
        sequence.identity = self.cloud.identities[connection]
        sequence.quiet_since_s = self.cloud.now

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
        """Run rows of the first frame that has any in the model, as the step will."""
        sequence = self.by_handle[handle]
        assert self.is_live(sequence)
        frame = next(f for f in sequence.frames if f.num_run < f.states.num_rows)
        position = frame.states.position + frame.num_run
        new_rows = rows_of(frame.states.payload)[frame.num_run : frame.num_run + num_rows]
        assert position <= len(sequence.rows)
        assert len(new_rows) == num_rows
        assert sequence.num_in_steps < self.steps_in_flight
        assert sequence.num_in_steps == 0 or position == len(sequence.rows), "pieces follow"
        sequence.num_in_steps += 1
        sequence.certain = min(sequence.certain, position)
        sequence.rows = sequence.rows[:position] + new_rows
        deep = [deep_row(sequence.rows[: position + i + 1]) for i in range(num_rows)]
        frame.num_run += num_rows
        return Running(sequence, frame, num_rows, deep, len(sequence.rows))

    def finish(self, piece: Running) -> None:
        piece.sequence.num_in_steps -= 1
        piece.sequence.certain = piece.end
        piece.sequence.quiet_since_s, piece.sequence.has_run = self.cloud.now, True
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
