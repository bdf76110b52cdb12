"""A step of the core performed on an engine: sequences opened and released, rows in, rows out."""

from collections.abc import Sequence
from dataclasses import dataclass

from cloud_server.core.actions import (
    DropCopy,
    OpenSequence,
    Refusal,
    ReleaseSequence,
    RestoreSequence,
    SaveSequence,
    SequenceHandle,
    Step,
    StepOutcome,
    StepWork,
)
from cloud_server.engines.engine import (
    EngineFullError,
    HostCopy,
    MiddleEngine,
    PendingCopy,
    PendingRows,
    PipelinedEngine,
    Rows,
    SequenceId,
    StepItem,
)
from process.world import Clock
from wire.errors import FaultCode, RemoteProtocolError
from wire.messages import Dtype, Payload
from wire.numbers import RowRangeError, convert_rows, pack_rows, unpack_rows


class StepRunner:
    """Owns an engine and the map from the core's handles to its sequences.

    Rows come and go in the number format `wire`; they are converted to the engine's and back here.
    """

    def __init__(self, engine: MiddleEngine, clock: Clock, wire: Dtype) -> None:
        self._engine = engine
        self._wire = wire
        self._clock = clock
        self._sequences: dict[SequenceHandle, SequenceId] = {}
        self._copies: dict[SequenceHandle, list[HostCopy]] = {}

    def run(self, step: Step) -> StepOutcome:
        """Begin a step and wait for its end, with what `begin` and `RunningStep.finish` raise."""
        return self.begin(step).finish()

    def begin(self, step: Step) -> "RunningStep":
        """Do the commands in order, then start one forward over the items that can run.

        A sequence that could not be opened, or rows that are not finite, end their own session.

        Raises:
            Exception: whatever the engine raised; nothing is known about the step's sequences then.
        """
        failed_opens: dict[SequenceHandle, Refusal] = {}
        copied_from_s = self._clock()
        copies: list[PendingCopy] = []
        for command in step.commands:
            match command:
                case OpenSequence():
                    refusal = self._open(command, failed_opens)
                    if refusal is not None:
                        failed_opens[command.handle] = refusal
                case ReleaseSequence():
                    self._release(command.handle)
                case _:
                    self._copy(command, copies, failed_opens)
        prepared = [self._prepare(work, failed_opens) for work in step.items]
        items = [item for item in prepared if isinstance(item, StepItem)]
        started_s = self._clock()
        rows = _begin(self._engine, items)
        return RunningStep(
            prepared=prepared,
            rows=rows,
            failed_opens=tuple(failed_opens.items()),
            copies=copies,
            wire=self._wire,
            copied_from_s=copied_from_s,
            started_s=started_s,
            clock=self._clock,
        )

    def _open(self, command: OpenSequence, failed: dict[SequenceHandle, Refusal]) -> Refusal | None:
        source = None
        if command.fork_of is not None:
            source = self._sequences.get(command.fork_of)
            if source is None:
                reason = "the session to fork could not be opened"
                return failed.get(command.fork_of, Refusal(FaultCode.UNKNOWN_SESSION, reason))
        try:
            sequence = self._engine.open(command.max_tokens, source, command.fork_tokens)
        except EngineFullError as error:
            return Refusal(FaultCode.CAPACITY, str(error))
        self._release(command.handle)
        self._sequences[command.handle] = sequence
        return None

    def _copy(
        self,
        command: SaveSequence | RestoreSequence | DropCopy,
        pending: list[PendingCopy],
        failed: dict[SequenceHandle, Refusal],
    ) -> None:
        """Begin what is to be copied, which `pending` gets; a failure ends that session alone."""
        try:
            match command:
                case SaveSequence():
                    pending += self._save(command)
                case RestoreSequence():
                    pending += self._restore(command)
                case DropCopy():
                    pending += self._drop(command.handle)
        except (EngineFullError, LookupError) as error:
            refusal = Refusal(FaultCode.CAPACITY, f"it could not be copied: {error}")
            failed.setdefault(command.handle, refusal)
            if isinstance(command, RestoreSequence):
                # Rows that are on their way already must not meet a sequence that is short.
                self._release(command.handle)

    def _save(self, command: SaveSequence) -> list[PendingCopy]:
        pending: list[PendingCopy] = []
        if command.begin == 0:
            pending += self._drop(command.handle)
            self._copies[command.handle] = []
        sequence = self._opened(command.handle)
        try:
            copy = self._engine.save(sequence, command.begin, command.end)
        finally:
            if command.is_last:
                self._release(command.handle)
        self._copies[command.handle].append(copy)
        return [*pending, copy]

    def _restore(self, command: RestoreSequence) -> list[PendingCopy]:
        sequence = self._opened(command.handle)
        pending: list[PendingCopy] = []
        done = command.begin
        for copy in self._copies.get(command.source, ()):
            end = min(copy.end, command.end)
            if copy.begin <= done < end:
                pending.append(self._engine.restore(sequence, copy, done, end))
                done = end
        if done < command.end:
            raise LookupError(f"its copy ends at {done}, not at {command.end}")
        return pending

    def _drop(self, handle: SequenceHandle) -> list[PendingCopy]:
        return [self._engine.drop(copy) for copy in self._copies.pop(handle, ())]

    def _opened(self, handle: SequenceHandle) -> SequenceId:
        sequence = self._sequences.get(handle)
        if sequence is None:
            raise LookupError("its sequence could not be opened")
        return sequence

    def _release(self, handle: SequenceHandle) -> None:
        sequence = self._sequences.pop(handle, None)
        if sequence is not None:
            self._engine.release(sequence)

    def _prepare(
        self, work: StepWork, failed_opens: dict[SequenceHandle, Refusal]
    ) -> StepItem | Refusal:
        if work.handle in failed_opens:
            return failed_opens[work.handle]
        sequence = self._sequences.get(work.handle)
        if sequence is None:
            # It could not be opened in an earlier step, whose end was not known yet.
            return Refusal(FaultCode.UNKNOWN_SESSION, "the session could not be opened")
        try:
            rows = unpack_rows(work.payload, work.num_rows, self._engine.hidden_size, self._wire)
            if self._wire is not self._engine.dtype:
                rows = convert_rows(rows, self._engine.dtype)
        except RemoteProtocolError as error:
            return Refusal(error.code, error.message)
        except RowRangeError as error:
            return Refusal(FaultCode.BAD_FRAME, f"{error}; the engine computes in that format")
        return StepItem(sequence, work.position, rows, work.want, work.taps)


@dataclass(frozen=True, slots=True)
class RunningStep:
    """A forward under way; `finish` may be called from another thread, in begun order."""

    prepared: list[StepItem | Refusal]
    rows: PendingRows
    failed_opens: tuple[tuple[SequenceHandle, Refusal], ...]
    copies: Sequence[PendingCopy]
    wire: Dtype
    copied_from_s: float
    started_s: float
    clock: Clock

    def finish(self) -> StepOutcome:
        """Wait for copies and rows, and pack these.

        Raises:
            Exception: whatever the engine raised.
        """
        for copy in self.copies:
            copy.wait()
        copied_s = self.clock() if self.copies else self.started_s
        deep = iter(self.rows.wait())
        seconds = self.clock() - copied_s
        results: list[Payload | Refusal] = [
            item if isinstance(item, Refusal) else _packed(next(deep), self.wire)
            for item in self.prepared
        ]
        copy_s = copied_s - self.copied_from_s if self.copies else 0.0
        return StepOutcome(tuple(results), seconds, self.failed_opens, copy_s)


@dataclass(frozen=True, slots=True)
class _Done:
    rows: list[Rows]

    def wait(self) -> list[Rows]:
        return self.rows


@dataclass(frozen=True, slots=True)
class _Whole:
    """A step of an engine that does one at a time: it runs when it is waited for."""

    engine: MiddleEngine
    items: Sequence[StepItem]

    def wait(self) -> list[Rows]:
        return self.engine.step(self.items)


def _packed(deep: Rows, wire: Dtype) -> Payload | Refusal:
    try:
        return pack_rows(deep, wire)
    except RowRangeError as error:
        return Refusal(FaultCode.BAD_FRAME, f"what the layers made of the rows: {error}")


def _begin(engine: MiddleEngine, items: Sequence[StepItem]) -> PendingRows:
    if not items:
        return _Done([])
    return engine.begin(items) if isinstance(engine, PipelinedEngine) else _Whole(engine, items)
