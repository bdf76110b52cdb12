"""Log lines that peers cause: so many a minute and no more, and how many were left out."""

import logging
from collections.abc import Callable, Mapping

_TELL_AFTER_S = 10.0

CallLater = Callable[[float, Callable[[], None]], object]


class QuietLog:
    """Writes at most `burst` lines at once, then one every `refill_s`.

    The number of lines left out is told with the next line, or ten seconds after the first of
    them if none comes. `call_later` is the event loop's; without it a count waits for a line.
    """

    def __init__(
        self,
        logger: logging.Logger,
        clock: Callable[[], float],
        call_later: CallLater | None = None,
        burst: int = 20,
        refill_s: float = 1.0,
    ) -> None:
        self._logger = logger
        self._clock = clock
        self._call_later = call_later
        self._burst = burst
        self._refill_s = refill_s
        self._room = float(burst)
        self._counted_s = clock()
        self._num_left_out = 0
        self._is_telling_due = False

    def say(
        self,
        level: int,
        message: str,
        *values: object,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        """Write a line, if there is room for it; `extra` as in a logging call."""
        now = self._clock()
        self._room = min(self._burst, self._room + (now - self._counted_s) / self._refill_s)
        self._counted_s = now
        if self._room < 1:
            self._leave_out()
            return
        self._room -= 1
        self._tell_left_out()
        self._logger.log(level, message, *values, extra=extra)

    def _leave_out(self) -> None:
        self._num_left_out += 1
        if self._call_later is not None and not self._is_telling_due:
            self._is_telling_due = True
            self._call_later(_TELL_AFTER_S, self._tell)

    def _tell(self) -> None:
        self._is_telling_due = False
        self._tell_left_out()

    def _tell_left_out(self) -> None:
        if self._num_left_out:
            self._logger.info("%d more lines like these were left out", self._num_left_out)
            self._num_left_out = 0
