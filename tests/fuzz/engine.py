"""An engine that computes nothing and forgives nothing: it keeps lengths, and breaks on a gap."""

from cloud_server.core.actions import (
    Command,
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
from wire.errors import FaultCode
from wire.messages import Payload

_GONE = Refusal(FaultCode.INTERNAL, "it is not there")


class LengthEngine:
    """Positions held by each sequence, here and in host memory.

    `has_failed`: a step raised, so what followed it may name sequences that were never opened.
    """

    def __init__(self, capacity_tokens: int, block_tokens: int, row_bytes: int) -> None:
        self._capacity_tokens = capacity_tokens
        self._block_tokens = block_tokens
        self._row_bytes = row_bytes
        self.lengths: dict[SequenceHandle, int] = {}
        self.copies: dict[SequenceHandle, int] = {}
        self._most: dict[SequenceHandle, int] = {}
        self.has_failed = False

    def run(self, step: Step, refused: bool) -> StepOutcome:
        """What a step gives; `refused`: of its items the first is."""
        failed = [each for command in step.commands if (each := self._perform(command))]
        assert self.has_failed or self._num_reserved() <= self._capacity_tokens, "full"
        handles = [item.handle for item in step.items]
        assert len({*handles}) == len(handles), "one item of each sequence"
        results = [self._run(item) for item in step.items]
        if refused and results:
            results[0] = Refusal(FaultCode.BAD_FRAME, "not finite")
        return StepOutcome(tuple(results), 0.001, tuple(failed))

    def _perform(self, command: Command) -> tuple[SequenceHandle, Refusal] | None:
        match command:
            case OpenSequence():
                return self._open(command)
            case ReleaseSequence(handle):
                self._release(handle)
            case DropCopy(handle):
                self.copies.pop(handle, None)
            case SaveSequence(handle, begin, end, is_last):
                held = self.copies.get(handle, 0) if begin else 0
                is_whole = held == begin < end <= self.lengths.get(handle, -1)
                assert is_whole or self.has_failed, "saved piece by piece"
                if not is_whole:
                    return handle, _GONE
                self.copies[handle] = end
                if is_last:
                    assert end == self.lengths[handle], "all of it"
                    self._release(handle)
            case RestoreSequence(handle, source, begin, end):
                is_whole = self.lengths.get(handle) == begin < end <= self.copies.get(source, -1)
                assert is_whole or self.has_failed, "restored piece by piece"
                if not is_whole:
                    return handle, _GONE
                self.lengths[handle] = end
        return None

    def _open(self, command: OpenSequence) -> tuple[SequenceHandle, Refusal] | None:
        assert self.has_failed or command.handle not in self.lengths, "opened once"
        length = 0
        if command.fork_of is not None:
            source = self.lengths.get(command.fork_of, -1)
            assert self.has_failed or command.fork_tokens <= source, "a fork of what is there"
            if command.fork_tokens > source:
                return command.handle, _GONE
            length = command.fork_tokens
        self.lengths[command.handle] = length
        self._most[command.handle] = command.max_tokens
        return None

    def _release(self, handle: SequenceHandle) -> None:
        self.lengths.pop(handle, None)
        self._most.pop(handle, None)

    def _run(self, item: StepWork) -> Payload | Refusal:
        assert item.num_rows >= 1
        assert len(item.payload) == item.num_rows * self._row_bytes, "whole rows"
        held = self.lengths.get(item.handle, -1)
        assert self.has_failed or 0 <= item.position <= held, "no gap"
        if item.position > held:
            return _GONE
        end = item.position + item.num_rows
        assert end <= self._most[item.handle], "within its reservation"
        self.lengths[item.handle] = end
        return bytes(item.num_answer_rows * self._row_bytes)

    def _num_reserved(self) -> int:
        block = self._block_tokens
        return sum(-(-tokens // block) * block for tokens in self._most.values())
