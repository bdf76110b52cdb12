"""What running generations read, so that a prompt that begins alike need not go up as well."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from chunking.estimates import Estimates
from device_runtime.session.prefix_cache import num_shared_tokens

Place = TypeVar("Place")
"""Whatever the caller keeps for a session: its caches on both sides."""

_MIN_UNKNOWN_TOKENS = 64
"""As long as nothing was measured, so many tokens are taken to be worth a round trip: at 1 KiB a
token that is 10 ms at 50 Mbit/s, and an 8B model's rows are eight times as large."""


class Run(Generic[Place]):
    """A generation from its way to a place until its end, and how much of its prompt is cached.

    Its methods tell whoever listens that something has changed.
    """

    def __init__(self, text: NDArray[np.int64], on_change: Callable[["Run[Place]"], None]) -> None:
        self.text = text
        """The prompt `[N]`."""
        self.place: Place | None = None
        """Where it runs, once that is known."""
        self.num_settled_tokens = 0
        """So many positions of the prompt are cached on both sides, and nothing under way begins
        before their end."""
        self.is_stalled = False
        """Whether it has lost its cloud and does not know what is cached."""
        self.is_over = False
        self._on_change = on_change

    def settle(self, num_tokens: int) -> None:
        """Replies have said that so many positions of the prompt are cached."""
        if num_tokens != self.num_settled_tokens or self.is_stalled:
            self.num_settled_tokens, self.is_stalled = num_tokens, False
            self._on_change(self)

    def stall(self) -> None:
        """Its cloud is gone; what is cached is known again by the next `settle`."""
        self.num_settled_tokens, self.is_stalled = 0, True
        self._on_change(self)

    def end(self) -> None:
        """It runs no longer; repeats are harmless."""
        self.is_over = True
        self._on_change(self)


@dataclass(frozen=True, slots=True)
class Share(Generic[Place]):
    """A running generation whose prompt begins as another, for `num_shared_tokens` tokens."""

    run: Run[Place]
    num_shared_tokens: int

    @property
    def num_ready_tokens(self) -> int:
        """As many of them as may be copied now."""
        return min(self.num_shared_tokens, self.run.num_settled_tokens)

    @property
    def is_decided(self) -> bool:
        """Whether waiting brings nothing any more: all of it is cached, or will not be."""
        is_ready = self.num_ready_tokens == self.num_shared_tokens
        return is_ready or self.run.is_over or self.run.is_stalled


class RunningTexts(Generic[Place]):
    """The runs there are; `on_change` is called whenever more or less of one may be shared."""

    def __init__(self, is_alive: Callable[[Place], bool], on_change: Callable[[], None]) -> None:
        self._is_alive = is_alive
        self._on_change = on_change
        self._runs: list[Run[Place]] = []

    def __len__(self) -> int:
        return len(self._runs)

    def begin(self, prompt_ids: Sequence[int]) -> Run[Place]:
        """A new one, to be ended by whoever has it."""
        run = Run[Place](np.asarray(prompt_ids, dtype=np.int64), self._changed)
        self._runs.append(run)
        return run

    def longest(self, prompt_ids: Sequence[int]) -> Share[Place] | None:
        """The run that shares the longest prefix, always less than the whole prompt.

        Of several it is the one that is furthest.
        """
        prompt = np.asarray(prompt_ids, dtype=np.int64)
        shares = [
            Share(run, num_shared_tokens(run.text, prompt))
            for run in self._runs
            if not run.is_stalled and (run.place is None or self._is_alive(run.place))
        ]
        best = max(
            shares, key=lambda each: (each.num_shared_tokens, each.num_ready_tokens), default=None
        )
        return best if best is not None and best.num_shared_tokens > 0 else None

    def _changed(self, run: Run[Place]) -> None:
        if run.is_over and run in self._runs:
            self._runs.remove(run)
        self._on_change()


def pays_to_wait(num_missing_tokens: int, known: Estimates) -> bool:
    """Whether sending so many tokens takes longer than to hear of those that another sends.

    They pass the same three stages either way, of which the slowest counts; who waits for the other
    pays a round trip and a step more, until the reply says that they are cached.
    """
    times = known.times()
    if times is None:
        return num_missing_tokens >= _MIN_UNKNOWN_TOKENS
    token_s = max(times.device.token_s, times.uplink_token_s, times.cloud.token_s)
    return num_missing_tokens * token_s > times.delay_s + times.cloud.fixed_s
