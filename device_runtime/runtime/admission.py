"""Who may generate now, and who waits: first come, first served, in bounded numbers."""

import asyncio
from collections import deque
from contextlib import ExitStack

from device_runtime.generation.request import OverloadedError


class Admission:
    """At most `max_running` at once and `max_waiting` behind them.

    Who is let in already, with another of its request, waits beyond that bound. While it is
    exceeded no other comes, so it is exceeded by about as many as one request has at once.
    """

    def __init__(self, max_running: int, max_waiting: int) -> None:
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._waiters: deque[asyncio.Future[None]] = deque()
        self.num_running = 0

    @property
    def num_waiting(self) -> int:
        """How many wait for a turn."""
        return len(self._waiters)

    async def acquire(self, is_let_in: bool = False) -> ExitStack:
        """Wait for a turn, which ends when it is closed; repeats are harmless.

        Raises:
            OverloadedError: as many wait as may.
        """
        if self.num_running < self._max_running:
            self.num_running += 1
            return self._turn()
        if len(self._waiters) >= self._max_waiting and not is_let_in:
            running, waiting = self._max_running, len(self._waiters)
            raise OverloadedError(f"{running} generations are running and {waiting} are waiting")
        turn = asyncio.get_running_loop().create_future()
        self._waiters.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                # The turn had just been given; the next one gets it.
                self._pass_on()
            elif turn in self._waiters:
                self._waiters.remove(turn)
            raise
        return self._turn()

    def _turn(self) -> ExitStack:
        turn = ExitStack()
        turn.callback(self._pass_on)
        return turn

    def _pass_on(self) -> None:
        """A turn is over; the one who waited longest takes it."""
        while self._waiters:
            turn = self._waiters.popleft()
            # One who has been cancelled in this moment stands here still.
            if not turn.cancelled():
                turn.set_result(None)
                return
        self.num_running -= 1
