"""One sequence of a device: its cached length, its queued frames in order, and the running piece.

The rules are those of docs/wire-protocol.md, W16 to W19 (epochs and positions) and W24 (replies).
"""

from collections import deque
from dataclasses import dataclass, field
from enum import Enum

from cloud_server.core.actions import ConnectionId, Identity, Owner, SequenceHandle, StepWork
from cloud_server.core.names.people import Person
from wire.errors import FaultCode, RemoteProtocolError
from wire.messages import Codec, Payload, Reply, SessionId, States, Want


@dataclass(slots=True)
class _QueuedFrame:
    """A States frame that is not wholly computed yet; the first `num_done` rows are."""

    states: States
    """With a RAW payload, whatever codec they came in."""
    arrived_s: float
    codec: Codec = Codec.RAW
    """What they came in, and so what their Reply may be in."""
    num_done: int = 0
    started_s: float | None = None
    compute_s: float = 0.0
    payloads: list[Payload] = field(default_factory=list)

    @property
    def end(self) -> int:
        """How much is cached once it has run."""
        return self.states.position + self.states.num_rows

    def is_verification(self, verify_tokens: int) -> bool:
        """See `Session.is_verification`."""
        states = self.states
        return states.want is not Want.NONE and states.num_rows <= verify_tokens


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of one frame that are in a step, and the connection whose credit they hold."""

    frame: _QueuedFrame
    connection: ConnectionId
    position: int
    num_rows: int

    @property
    def end(self) -> int:
        """How much is cached once it has run."""
        return self.position + self.num_rows

    @property
    def codec(self) -> Codec:
        """What the frame's Reply may be in."""
        return self.frame.codec

    def is_verification(self, verify_tokens: int) -> bool:
        """Whether it is one, and not the last rows of a prompt's frame, however few these are."""
        return self.frame.is_verification(verify_tokens)


@dataclass(frozen=True, slots=True)
class PieceDone:
    """What a step gave for a piece: packed deep rows, and what was measured.

    `batch_tokens` are the step's rows that are of the piece's connection.
    """

    payload: Payload
    seconds: float
    batch_tokens: int


class Home(Enum):
    """Where the cache of a session is."""

    ENGINE = "in the engine, or nowhere yet and to be opened with its first rows"
    AWAITED = "nowhere or in host memory; its place in the engine is being cleared"
    RETURNING = "on its way from host memory into its place in the engine"
    LEAVING = "on its way from the engine to host memory"
    HOST = "in host memory"


class Session:
    """One sequence. The core calls it for every frame, step, socket taken up or lost.

    `num_queued_tokens` are the rows of its frames that were in no step yet. `has_run` tells
    whether a row ever was. It is `person`'s, whoever has its key.

    Up to `max_pieces` of its rows may be in steps that have not ended, each of which begins where
    the one before it ends: they follow each other through the stages of a pipeline.
    """

    def __init__(
        self,
        handle: SequenceHandle,
        key: bytes,
        max_tokens: int,
        person: Person,
        max_pieces: int = 1,
    ) -> None:
        self.handle = handle
        self.key = key
        self.max_tokens = max_tokens
        self.person = person
        self.cached_tokens = 0
        self.owner: Owner | None = None
        self.is_attached = False
        self.number = SessionId(0)
        self.quiet_since_s = 0.0
        self.has_run = False
        self.trace_id = b""
        """Of the request that it works for, if its device said so since it was attached."""
        self.taps: tuple[int, ...] = ()
        """After how many of the engine's layers its Replies have further rows."""
        self.num_queued_tokens = 0
        self.home = Home.ENGINE
        self.num_holds = 0
        """Copies of it that are still to be made, before which no row of it may run."""
        self._epoch = 0
        self._queue: deque[_QueuedFrame] = deque()
        self._max_pieces = max_pieces
        self._running: deque[Piece] = deque()

    @property
    def connection(self) -> ConnectionId | None:
        """The socket that it belongs to, if there is one."""
        return self.owner.connection if self.owner is not None and self.is_attached else None

    @property
    def identity(self) -> Identity | None:
        """Whose it is, with or without a socket; None before it belongs to anybody."""
        return None if self.owner is None else self.owner.identity

    @property
    def is_quiet(self) -> bool:
        """Whether nothing of it runs or waits; `quiet_since_s` says since when."""
        return not self._queue and not self._running

    def away_s(self, now: float) -> float | None:
        """For how long it has been without work; None while it has some, or never had."""
        return now - self.quiet_since_s if self.is_quiet and self.has_run else None

    @property
    def num_queued_frames(self) -> int:
        """Frames that are not wholly computed."""
        return len(self._queue)

    @property
    def is_running(self) -> bool:
        """Whether a piece of it is in a step."""
        return bool(self._running)

    @property
    def is_waiting(self) -> bool:
        """Whether it has rows that may be in the next step."""
        frame = self._head()
        if frame is None or len(self._running) >= self._max_pieces or not self._may_run:
            return False
        return not self._running or self._start_of(frame) == self._running[-1].end

    @property
    def _may_run(self) -> bool:
        return self.home is Home.ENGINE and not self.num_holds

    @property
    def num_head_tokens(self) -> int:
        """Rows of the first frame with any that were in no step yet."""
        frame = self._head()
        return 0 if frame is None else self._num_waiting(frame)

    @property
    def certain_tokens(self) -> int:
        """The cached positions that no running or queued frame rewrites."""
        starts = [frame.states.position + frame.num_done for frame in self._queue]
        running = [piece.position for piece in self._running]
        return min([self.cached_tokens, *starts, *running])

    def is_verification(self, verify_tokens: int) -> bool:
        """Whether what it waits with is decoding work: a frame that wants rows back and is small.

        A round of speculative decoding is a draft and one token; prefill wants none or one row
        for many. The last bit of a prompt counts too when it is as small: a user waits for it.
        """
        frame = self._head()
        assert frame is not None, "it waits"
        return frame.is_verification(verify_tokens)

    def attach(self, owner: Owner, number: SessionId, now: float) -> None:
        """Belong to a connection, under its number; epochs begin anew."""
        self.owner, self.number, self.is_attached = owner, number, True
        self.trace_id = b""
        self.quiet_since_s = now
        self._epoch = 0

    def detach(self) -> int:
        """Lose the connection and all queued rows; a running piece gets no Reply.

        It stays its last owner's until another one takes it up.

        Returns:
            How many queued rows were dropped.
        """
        self.is_attached = False
        return self._drop_queued()

    def accept(self, states: States, now: float, codec: Codec = Codec.RAW) -> int:
        """Queue a frame by the rules of epoch, position and context.

        Its payload is RAW; `codec` is what it came in.

        Returns:
            How many rows were dropped: the frame's own when its epoch is over, else those of
            queued frames of older epochs.

        Raises:
            RemoteProtocolError: POSITION_MISMATCH for a start beyond the expected end,
                CONTEXT_EXCEEDED for rows beyond `max_tokens`. Nothing has changed then.
        """
        if states.epoch < self._epoch:
            return states.num_rows
        is_new_epoch = states.epoch > self._epoch
        self._check_place(states, self._expected_end(with_queue=not is_new_epoch))
        num_dropped = self._drop_queued() if is_new_epoch else 0
        self._epoch = states.epoch
        self._queue.append(_QueuedFrame(states, now, codec))
        self.num_queued_tokens += states.num_rows
        self.quiet_since_s = now
        return num_dropped

    def start(self, num_rows: int, now: float) -> tuple[Piece, StepWork]:
        """Put the next `num_rows` of the frame that waits into a step."""
        frame = self._head()
        assert self.is_waiting, "it was offered"
        assert frame is not None, "it waits"
        assert 0 < num_rows <= self._num_waiting(frame), "rows of one frame only"
        assert self.connection is not None, "a detached session has nothing queued"
        self.num_queued_tokens -= num_rows
        if frame.started_s is None:
            frame.started_s = now
        states = frame.states
        begin = states.num_rows - self._num_waiting(frame)
        end = begin + num_rows
        row_bytes = len(states.payload) // states.num_rows
        want = states.want
        if want is Want.LAST and end < states.num_rows:
            want = Want.NONE
        view = memoryview(states.payload)[begin * row_bytes : end * row_bytes]
        piece = Piece(frame, self.connection, states.position + begin, num_rows)
        self._running.append(piece)
        return piece, StepWork(self.handle, piece.position, num_rows, want, view, self.taps)

    def finish(self, piece: Piece, done: PieceDone, now: float) -> Reply | None:
        """Take the results of the oldest running piece; the Reply when they complete a frame.

        There is none for a frame that was dropped while it ran.
        """
        assert self._running, "pieces end once"
        assert piece is self._running[0], "pieces end in order"
        self._running.popleft()
        self.cached_tokens = piece.end
        self.quiet_since_s = now
        self.has_run = True
        if not (self._queue and self._queue[0] is piece.frame):
            return None
        frame = piece.frame
        frame.num_done += piece.num_rows
        frame.compute_s += done.seconds
        frame.payloads.append(done.payload)
        if frame.num_done < frame.states.num_rows:
            return None
        self._queue.popleft()
        return self._reply(frame, done.batch_tokens)

    def _reply(self, frame: _QueuedFrame, batch_tokens: int) -> Reply:
        states = frame.states
        assert frame.started_s is not None, "it ran"
        parts = frame.payloads
        return Reply(
            session=self.number,
            epoch=states.epoch,
            position=states.position,
            num_rows=states.want.num_rows(states.num_rows),
            dtype=states.dtype,
            codec=Codec.TAPPED if self.taps else Codec.RAW,
            cached_tokens=self.cached_tokens,
            queue_s=max(0.0, frame.started_s - frame.arrived_s),
            compute_s=frame.compute_s,
            batch_tokens=batch_tokens,
            payload=parts[0] if len(parts) == 1 else b"".join(parts),
        )

    def _check_place(self, states: States, expected_end: int) -> None:
        if states.position > expected_end:
            reason = f"expected a start of at most {expected_end}, got {states.position}"
            raise RemoteProtocolError(FaultCode.POSITION_MISMATCH, reason)
        end = states.position + states.num_rows
        if end > self.max_tokens:
            reason = f"expected rows before position {self.max_tokens}, got rows up to {end}"
            raise RemoteProtocolError(FaultCode.CONTEXT_EXCEEDED, reason)

    def _expected_end(self, with_queue: bool) -> int:
        """The cached length once all that runs, and all that is queued, is computed."""
        if with_queue and self._queue:
            return self._queue[-1].end
        return self._running[-1].end if self._running else self.cached_tokens

    def _head(self) -> _QueuedFrame | None:
        """The first frame with rows that were in no step yet."""
        return next((frame for frame in self._queue if self._num_waiting(frame)), None)

    def _start_of(self, frame: _QueuedFrame) -> int:
        """Where the first of its rows that were in no step yet stands."""
        return frame.states.position + frame.states.num_rows - self._num_waiting(frame)

    def _num_waiting(self, frame: _QueuedFrame) -> int:
        num_running = sum(piece.num_rows for piece in self._running if piece.frame is frame)
        return frame.states.num_rows - frame.num_done - num_running

    def _drop_queued(self) -> int:
        num_dropped, self.num_queued_tokens = self.num_queued_tokens, 0
        self._queue.clear()
        return num_dropped
