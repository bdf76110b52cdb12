"""A step of the core performed on an engine: sequences opened and released, rows in, rows out."""

from collections.abc import Sequence
from dataclasses import dataclass

from cloud_server.core.actions import (
    OpenSequence,
    Refusal,
    ReleaseSequence,
    SequenceHandle,
    Step,
    StepOutcome,
    StepWork,
)
from cloud_server.engines.engine import (
    EngineFullError,
    MiddleEngine,
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
        for command in step.commands:
            match command:
                case OpenSequence():
                    refusal = self._open(command, failed_opens)
                    if refusal is not None:
                        failed_opens[command.handle] = refusal
                case ReleaseSequence():
                    self._release(command.handle)
        prepared = [self._prepare(work, failed_opens) for work in step.items]
        items = [item for item in prepared if isinstance(item, StepItem)]
        started_s = self._clock()
        rows = _begin(self._engine, items)
        return RunningStep(
            prepared, rows, tuple(failed_opens.items()), self._wire, started_s, self._clock
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
        self._sequences[command.handle] = sequence
        return None

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
    wire: Dtype
    started_s: float
    clock: Clock

    def finish(self) -> StepOutcome:
        """Wait for the rows and pack them.

        Raises:
            Exception: whatever the engine raised.
        """
        deep = iter(self.rows.wait())
        seconds = self.clock() - self.started_s
        results: list[Payload | Refusal] = [
            item if isinstance(item, Refusal) else _packed(next(deep), self.wire)
            for item in self.prepared
        ]
        return StepOutcome(tuple(results), seconds, self.failed_opens)


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
