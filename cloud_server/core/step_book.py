"""The steps that were given out and not ended, and what the next one must do to the engine."""

from collections import Counter
from collections.abc import Mapping, Sequence

from cloud_server.core.actions import (
    Command,
    ConnectionId,
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
from cloud_server.core.session import Piece, Session

Running = tuple[Session, Piece]

MAX_COMMANDS = 8
"""Of one step, unless its rows need more: what others ask to be opened must not hold rows up."""


def rows_by_connection(pieces: Sequence[Running]) -> Mapping[ConnectionId, int]:
    """How many of a step's rows are whose: a device learns the number of its own alone."""
    rows: Counter[ConnectionId] = Counter()
    for _, piece in pieces:
        rows[piece.connection] += piece.num_rows
    return rows


class StepBook:
    """Numbers steps, keeps their pieces until they end, and orders the engine's commands.

    A sequence is opened with its first rows, or with the first copy of it: one that ends before
    them costs the engine nothing. Copies and releases do not wait.
    """

    def __init__(self, row_bytes: int) -> None:
        self._row_bytes = row_bytes
        self._unused: dict[SequenceHandle, OpenSequence] = {}
        self._commands: dict[tuple[type[Command], SequenceHandle], Command] = {}
        self._running: dict[int, tuple[Running, ...]] = {}
        self._num_steps = 0

    @property
    def num_commands(self) -> int:
        """Sequences to open or release with the next step, whether it has rows or not."""
        return len(self._commands)

    @property
    def has_steps(self) -> bool:
        """Whether a step has not ended."""
        return bool(self._running)

    def open(self, command: OpenSequence) -> None:
        """Have a sequence opened before anything that needs it."""
        if command.fork_of is None:
            self._unused[command.handle] = command
            return
        self._order(command.fork_of)
        self._commands[OpenSequence, command.handle] = command

    def release(self, handle: SequenceHandle) -> None:
        """Have a sequence released, after what was asked for before.

        One that the engine has not heard of, and that nothing is copied from, is forgotten.
        """
        if self._unused.pop(handle, None) is not None:
            return
        if (OpenSequence, handle) in self._commands and not self._is_source(handle):
            del self._commands[OpenSequence, handle]
        else:
            self._commands[ReleaseSequence, handle] = ReleaseSequence(handle)

    def copy(self, command: SaveSequence | RestoreSequence) -> None:
        """Have positions copied with the next step, after all that was asked for before."""
        self._order(command.handle)
        self._commands[type(command), command.handle] = command

    def drop_copy(self, handle: SequenceHandle) -> None:
        """Have a copy in host memory forgotten, after what was asked for before."""
        self._commands[DropCopy, handle] = DropCopy(handle)

    def begin(self, work: Sequence[tuple[Running, StepWork]]) -> Step:
        """The next step, with the oldest commands and all that its rows need."""
        self._num_steps += 1
        self._running[self._num_steps] = tuple(running for running, _ in work)
        items = tuple(item for _, item in work)
        for item in items:
            self._order(item.handle)
        return Step(self._num_steps, self._take_commands(items), items)

    def _order(self, handle: SequenceHandle) -> None:
        """Have a sequence opened with the next step, after all that was asked for before."""
        command = self._unused.pop(handle, None)
        if command is not None:
            self._commands[OpenSequence, handle] = command

    def _take_commands(self, items: Sequence[StepWork]) -> tuple[Command, ...]:
        if not self._commands:
            return ()
        keys = list(self._commands)
        handles = {item.handle for item in items}
        # Rows may write over what is still to be copied from their sequence. And whoever asked for
        # copies in host memory has said how many this step may make.
        needed = {
            key
            for key, command in self._commands.items()
            if isinstance(command, SaveSequence | RestoreSequence)
            or (isinstance(command, OpenSequence) and {command.handle, command.fork_of} & handles)
        }
        num_commands = MAX_COMMANDS
        if needed:
            last = max(place for place, key in enumerate(keys) if key in needed)
            num_commands = max(num_commands, last + 1)
        return tuple(self._commands.pop(key) for key in keys[:num_commands])

    def _is_source(self, handle: SequenceHandle) -> bool:
        """Whether a sequence that is still to be opened is copied from this one."""
        opens = (each for each in self._commands.values() if isinstance(each, OpenSequence))
        return any(each.fork_of == handle for each in opens)

    def end(self, step: Step, outcome: StepOutcome) -> tuple[Running, ...]:
        """The pieces of a step that ran.

        Raises:
            ValueError: it is not the oldest one, or its results are not one per item with exactly
                the wanted rows.
        """
        if len(outcome.results) != len(step.items):
            raise ValueError(f"expected {len(step.items)} results, got {len(outcome.results)}")
        for item, result in zip(step.items, outcome.results, strict=True):
            expected_bytes = item.num_answer_rows * self._row_bytes
            if not isinstance(result, Refusal) and len(result) != expected_bytes:
                raise ValueError(f"expected {expected_bytes} bytes of rows, got {len(result)}")
        return self._pop(step)

    def end_failed(self, step: Step) -> tuple[Running, ...]:
        """The pieces of a step that raised; what it was to free is asked for again.

        Raises:
            ValueError: it is not the oldest one.
        """
        pieces = self._pop(step)
        # First of all: sequences to be opened next may count on their room.
        again: dict[tuple[type[Command], SequenceHandle], Command] = {}
        for each in step.commands:
            match each:
                case ReleaseSequence() | SaveSequence(is_last=True):
                    again[ReleaseSequence, each.handle] = ReleaseSequence(each.handle)
                case DropCopy():
                    again[DropCopy, each.handle] = each
        self._commands = {**again, **self._commands}
        return pieces

    def abandon(self) -> list[Running]:
        """Forget every step that has not ended; their pieces."""
        pieces = [running for pieces in self._running.values() for running in pieces]
        self._running.clear()
        return pieces

    def forget_commands(self) -> None:
        """Forget what was asked of an engine that is gone."""
        self._unused.clear()
        self._commands.clear()

    def _pop(self, step: Step) -> tuple[Running, ...]:
        expected = next(iter(self._running), None)
        if step.number != expected:
            raise ValueError(f"expected the end of step {expected}, got {step.number}")
        return self._running.pop(step.number)
