"""A device's engine that computes next to nothing, and the thread on which its time passes."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TypeVar, cast

import numpy as np

from bench.sim.world.acceptance import Guesses
from bench.sim.world.text import VOCAB_SIZE, WRONG_ROW, RowNumbers, truth
from bench.sim.world.times import DeviceTimes
from device_runtime.engines.engine import (
    DeviceEngine,
    DraftLimits,
    DraftRequest,
    Rows,
    SequenceId,
)

T = TypeVar("T")

ASKING: ContextVar[Guesses] = ContextVar("ASKING")
"""The draft model of the request whose task it is; the engine works within the tasks that ask."""

_FIRST = np.eye(VOCAB_SIZE, dtype=np.float32)
"""Logits of each token as the first choice."""

_SURE = np.float32(10.0)
"""Logit of what a draft model chooses: it guesses only where it is sure, and that shows."""


@dataclass(slots=True)
class _Sequence:
    """What is held of one text; of its rows the adapter saw `num_adapted`.

    `num_decided` is the length of the decided text.
    """

    token_ids: list[int] = field(default_factory=list)
    numbers: RowNumbers = field(default_factory=RowNumbers)
    num_adapted: int = 0
    num_decided: int = 0

    def put(self, token_ids: Sequence[int], position: int) -> None:
        """Hold these tokens at a position, and nothing behind them."""
        self.numbers.put(token_ids, position)
        self.token_ids[position:] = token_ids
        self.num_adapted = min(self.num_adapted, position)

    def truncate(self, num_tokens: int) -> None:
        """Forget what is behind."""
        self.numbers.truncate(num_tokens)
        del self.token_ids[num_tokens:]
        self.num_adapted = min(self.num_adapted, num_tokens)


class SimEngine:
    """A `DeviceEngine`. `spent_s` is the time of the work since it was last taken."""

    vocab_size = VOCAB_SIZE
    runs_on = "cpu"

    def __init__(
        self,
        times: DeviceTimes,
        hidden_size: int,
        max_context_tokens: int,
        limits: DraftLimits | None,
        has_output_layers: bool = False,
    ) -> None:
        self.times = times
        self.hidden_size = hidden_size
        self.max_context_tokens = max_context_tokens
        self.num_output_layers = int(has_output_layers)
        self.draft_limits = limits
        self.spent_s = 0.0
        self.sequences: dict[SequenceId, _Sequence] = {}
        self._num_opened = 0

    def open(self) -> SequenceId:
        return self._add(_Sequence())

    def fork(self, sequence: SequenceId, num_tokens: int) -> SequenceId:
        state = self.sequences[sequence]
        copy = _Sequence(state.token_ids[:num_tokens], state.numbers.fork(num_tokens))
        copy.num_adapted = min(state.num_adapted, num_tokens)
        return self._add(copy)

    def release(self, sequence: SequenceId) -> None:
        del self.sequences[sequence]

    def input_rows(self, sequence: SequenceId, token_ids: Sequence[int], position: int) -> Rows:
        """Rows of zeros but for their tokens; what drafting has run of them costs nothing."""
        state = self.sequences[sequence]
        held = state.token_ids[position : position + len(token_ids)]
        num_known = _num_alike(held, token_ids)
        end = position + len(token_ids)
        if num_known < len(token_ids):
            self.spent_s += self.times.input.of(len(token_ids) - num_known)
            state.put(token_ids[num_known:], position + num_known)
        else:
            state.truncate(end)
        rows = np.zeros((len(token_ids), self.hidden_size), np.uint16)
        rows[:, 0] = token_ids
        return cast(Rows, rows.view(np.float16))

    def logits(self, sequence: SequenceId, deep: Rows, position: int, num_logits: int) -> Rows:
        """The target's own tokens, where the deep rows are those of this sequence's text."""
        state = self.sequences[sequence]
        if num_logits == 0:
            # For output layers, which these devices do not have: rows come back and that is all.
            return np.empty((0, self.vocab_size), np.float32)
        self.spent_s += self.times.output.of(num_logits)
        first = position + len(deep) - num_logits
        came = deep[len(deep) - num_logits :, 0].astype(np.float16).view(np.uint16).tolist()
        is_own = came == state.numbers.at(first, num_logits)
        chosen = range(first + 1, first + 1 + num_logits)
        token_ids = [truth(place) if is_own else WRONG_ROW for place in chosen]
        self._decided(state, first + 1, token_ids)
        return _FIRST[token_ids]

    def draft(self, sequence: SequenceId, request: DraftRequest) -> tuple[int, ...]:
        """Guesses behind the request's tokens.

        Heads take one call for all of them, and run no layers that verifying would need.
        """
        state, times, guesses = self.sequences[sequence], self.times, ASKING.get()
        self.spent_s += times.draft_call_s
        self.spent_s += max(0, request.position - state.num_adapted) * times.adapter_row_s
        must = request.min_probability == 0.0
        drafted: list[int] = []
        new, position = request.token_ids, request.position
        while len(drafted) < request.num_tokens:
            if times.draft_step_s:
                self.spent_s += times.draft_step_s
                state.put(new, position)
                state.num_adapted = position + len(new)
            position += len(new)
            index = position - state.num_decided
            choices = guesses.next_choices(new[-1], position, index, must)
            if not choices:
                break
            token = _chosen(choices, request, drafted)
            if token is None:
                break
            drafted.append(token)
            new = (token,)
        return tuple(drafted)

    def prepare_draft(self, sequence: SequenceId, num_rows: int) -> bool:
        """Let the adapter see rows that wait."""
        state = self.sequences[sequence]
        num_waiting = len(state.token_ids) - state.num_adapted
        if num_waiting <= 0 or self.times.adapter_row_s == 0.0:
            return False
        num_seen = min(num_rows, num_waiting)
        self.spent_s += num_seen * self.times.adapter_row_s
        state.num_adapted += num_seen
        return num_seen < num_waiting

    def _add(self, state: _Sequence) -> SequenceId:
        self._num_opened += 1
        sequence = SequenceId(self._num_opened)
        self.sequences[sequence] = state
        return sequence

    def _decided(self, state: _Sequence, first: int, token_ids: Sequence[int]) -> None:
        """Forget what drafting has run behind the first wrong guess.

        `token_ids` are the target's from position `first` on, one more than the draft has. What
        was drafted behind that one is of use if it begins with the last of them.
        """
        held = state.token_ids[first : first + len(token_ids)]
        num_alike = _num_alike(held, token_ids)
        state.num_decided = first + min(num_alike + 1, len(token_ids))
        if num_alike < len(token_ids):
            state.truncate(first + num_alike)


def _num_alike(held: Sequence[int], token_ids: Sequence[int]) -> int:
    """How many tokens that are held are the same as these, up to the first that is not."""
    num_alike = 0
    while num_alike < len(held) and held[num_alike] == token_ids[num_alike]:
        num_alike += 1
    return num_alike


def _chosen(choices: tuple[int, ...], request: DraftRequest, drafted: Sequence[int]) -> int | None:
    """The token that the request's rule picks, by logits that say the first and second choice."""
    logits = _SURE * _FIRST[choices[0]]
    logits[choices[1]] = 0.5 * _SURE
    return request.choose(logits, drafted)


class SimWorkers:
    """A device's `Workers`: calls run at once and in turn, and each lets its time pass."""

    def __init__(self, engine: SimEngine, thread_s: float) -> None:
        self.engine = engine
        self._loop = asyncio.get_running_loop()
        self._thread_s = thread_s
        self._is_busy = False
        self._waiting: deque[asyncio.Future[None] | Callable[[DeviceEngine], None]] = deque()

    def clock(self) -> float:
        """The time, within a call on the engine too: then with what it has taken so far."""
        return self._loop.time() + self.engine.spent_s

    async def run(self, call: Callable[[DeviceEngine], T]) -> T:
        if self._is_busy:
            await self._turn()
        self._is_busy = True
        done = self._loop.create_future()
        try:
            result = call(self.engine)
        except BaseException:
            self.engine.spent_s = 0.0
            self._done(done)
            raise
        spent_s, self.engine.spent_s = self.engine.spent_s + self._thread_s, 0.0
        if spent_s:
            self._loop.call_later(spent_s, self._done, done)
        else:
            self._done(done)
        await done
        return result

    def run_later(self, call: Callable[[DeviceEngine], None]) -> None:
        # What nobody waits for takes no time.
        if self._is_busy:
            self._waiting.append(call)
        else:
            call(self.engine)

    async def spend(self, seconds: float) -> None:
        """Let work of so many seconds pass."""

        def work(_: DeviceEngine) -> None:
            self.engine.spent_s += seconds

        await self.run(work)

    def close(self) -> None:
        pass

    async def _turn(self) -> None:
        """Wait until nobody who came before is left."""
        turn = self._loop.create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                # It had just been given.
                self._pass_on()
            raise

    def _done(self, done: "asyncio.Future[None]") -> None:
        """A call has ended, whether or not its caller was cancelled meanwhile."""
        if not done.done():
            done.set_result(None)
        self._pass_on()

    def _pass_on(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not isinstance(turn, asyncio.Future):
                turn(self.engine)
            elif not turn.done():
                turn.set_result(None)
                return
        self._is_busy = False
