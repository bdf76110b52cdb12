"""Log lines that peers cause: so many a minute and no more, and how many were left out."""

import logging
from collections.abc import Callable


class QuietLog:
    """Writes at most `burst` lines at once, then one every `refill_s`.

    `say` gives the number of lines left out with the next line that is written; `flush` with a
    line of its own, for somebody who asks regularly.
    """

    def __init__(
        self,
        logger: logging.Logger,
        clock: Callable[[], float],
        burst: int = 20,
        refill_s: float = 1.0,
    ) -> None:
        self._logger = logger
        self._clock = clock
        self._burst = burst
        self._refill_s = refill_s
        self._room = float(burst)
        self._counted_s = clock()
        self._num_left_out = 0

    def say(self, level: int, message: str, *values: object) -> None:
        """Write a line, if there is room for it."""
        now = self._clock()
        self._room = min(self._burst, self._room + (now - self._counted_s) / self._refill_s)
        self._counted_s = now
        if self._room < 1:
            self._num_left_out += 1
            return
        self._room -= 1
        self._tell_left_out()
        self._logger.log(level, message, *values)

    def flush(self) -> None:
        """Say how many lines were left out since the last one, if any."""
        self._tell_left_out()

    def _tell_left_out(self) -> None:
        if self._num_left_out:
            self._logger.info("%d more lines like these were left out", self._num_left_out)
            self._num_left_out = 0
