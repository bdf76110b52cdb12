"""A device engine that computes nothing and says how long it would have taken.

It stands in for `DeviceEngine` where the production drafter asks for drafts: its logits are the
draft model's first choices, which `FirstChoice` takes. `take_spent_s` is the time since the last
call; whoever runs work on the engine's turn sleeps that long.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from bench.sim.acceptance import Guesses
from bench.sim.times import DeviceTimes
from device_runtime.engines.engine import DraftLimits, DraftRequest, SequenceId
from device_runtime.sampling.sampler import Sampler


@dataclass(slots=True)
class _Sequence:
    """What is held of one text: rows run up to `num_run`, of which the adapter saw `num_adapted`.

    `num_decided` is the length of the decided text.
    """

    guesses: Guesses
    num_run: int = 0
    num_adapted: int = 0
    num_decided: int = 0


class SimEngine:
    """One device's engine; its owner lets one piece of work at a time to it."""

    num_output_layers = 0

    def __init__(self, times: DeviceTimes, limits: DraftLimits | None) -> None:
        self.times = times
        self.draft_limits = limits
        self._sequences: dict[SequenceId, _Sequence] = {}
        self._num_opened = 0
        self._spent_s = 0.0

    def take_spent_s(self) -> float:
        """Seconds of the work done since the last call."""
        spent_s, self._spent_s = self._spent_s, 0.0
        return spent_s

    def spend(self, seconds: float) -> None:
        """Count the time of work that is none of the below."""
        self._spent_s += seconds

    def open(self, guesses: Guesses, num_cached: int = 0) -> SequenceId:
        """Make a sequence, of which so many positions are there already."""
        self._num_opened += 1
        sequence = SequenceId(self._num_opened)
        self._sequences[sequence] = _Sequence(guesses, num_cached, num_cached)
        return sequence

    def release(self, sequence: SequenceId) -> None:
        """Forget a sequence."""
        self._sequences.pop(sequence, None)

    def go_on(self, sequence: SequenceId, guesses: Guesses) -> None:
        """Another request continues a sequence."""
        self._sequences[sequence].guesses = guesses

    def input_rows(self, sequence: SequenceId, num_rows: int, position: int) -> None:
        """Run the input submodel over what drafting has not run of these rows."""
        state = self._sequences[sequence]
        end = position + num_rows
        num_known = min(max(0, state.num_run - position), num_rows)
        if num_known < num_rows:
            self._spent_s += self.times.input.of(num_rows - num_known)
        state.num_run = end
        state.num_adapted = min(state.num_adapted, end)

    def logits(self, num_rows: int) -> None:
        """Run the output submodel over so many rows."""
        self._spent_s += self.times.output.of(num_rows)

    def decided(self, sequence: SequenceId, num_tokens: int) -> None:
        """The text has so many tokens now; what was run of others behind it is worth nothing."""
        state = self._sequences[sequence]
        state.num_decided = num_tokens
        state.num_run = min(state.num_run, num_tokens - 1)
        state.num_adapted = min(state.num_adapted, num_tokens - 1)

    def draft(self, sequence: SequenceId, request: DraftRequest) -> tuple[int, ...]:
        """Guesses behind the request's tokens; see `DeviceEngine`."""
        state, times = self._sequences[sequence], self.times
        self._spent_s += times.draft_call_s
        num_behind = max(0, request.position - state.num_adapted)
        self._spent_s += num_behind * times.adapter_row_s
        must = request.min_probability == 0.0
        drafted: list[int] = []
        last, position = request.token_ids[-1], request.position + len(request.token_ids)
        while len(drafted) < request.num_tokens:
            self._spent_s += times.draft_step_s
            state.num_run = state.num_adapted = position
            index = position - state.num_decided
            choices = state.guesses.next_choices(last, position, index, must)
            if not choices:
                break
            token = request.choose(cast(Any, choices), drafted)
            if token is None:
                break
            drafted.append(token)
            last, position = token, position + 1
        return tuple(drafted)

    def prepare_draft(self, sequence: SequenceId, num_rows: int) -> bool:
        """Let the adapter see rows that wait; see `DeviceEngine`."""
        state = self._sequences[sequence]
        num_waiting = state.num_run - state.num_adapted
        if num_waiting <= 0 or self.times.adapter_row_s == 0.0:
            return False
        num_seen = min(num_rows, num_waiting)
        self._spent_s += num_seen * self.times.adapter_row_s
        state.num_adapted += num_seen
        return num_seen < num_waiting


class FirstChoice:
    """Stands in for `Sampler` where the drafter chooses: `logits` are choices, the first first."""

    def choose(self, logits: Sequence[int], draft: Sequence[int] = ()) -> int:
        """The first choice."""
        return logits[0]

    def choices(self, logits: Sequence[int], num_tokens: int, draft: Sequence[int]) -> list[int]:
        """The first few."""
        return list(logits[:num_tokens])


def sampler() -> Sampler:
    """What the production drafter is given for a sampler."""
    return cast(Sampler, FirstChoice())
