"""Credit: how many rows a device may have sent in all, and when that grows (rules W20 to W23).

The limit is cumulative and never falls, so a repeated or late Credit does no harm (the scheme of
QUIC's MAX_DATA, RFC 9000 section 4.1).
"""

from wire.errors import FaultCode, LocalProtocolError, RemoteProtocolError
from wire.messages import Credit


class CreditGiver:
    """The cloud's side: never more than `window_tokens` rows outstanding."""

    def __init__(self, window_tokens: int) -> None:
        self._window_tokens = window_tokens
        self._num_received = 0
        self._num_returned = 0
        self.limit_tokens = window_tokens

    @property
    def num_outstanding(self) -> int:
        """Rows received and not yet computed, dropped or refused."""
        return self._num_received - self._num_returned

    @property
    def num_available(self) -> int:
        """Rows that the device may still send."""
        return self.limit_tokens - self._num_received

    def receive(self, num_rows: int) -> None:
        """Count rows of a States frame.

        Raises:
            RemoteProtocolError: CREDIT_EXCEEDED; nothing is counted then.
        """
        if self._num_received + num_rows > self.limit_tokens:
            total = self._num_received + num_rows
            reason = f"expected at most {self.limit_tokens} rows in all, got {total}"
            raise RemoteProtocolError(FaultCode.CREDIT_EXCEEDED, reason)
        self._num_received += num_rows

    def give_back(self, num_rows: int) -> Credit | None:
        """Count rows that are done with, and the Credit to send once a quarter window is free.

        Less than a quarter is never worth a frame: three quarters are still the device's.
        """
        assert num_rows <= self.num_outstanding, "rows come back once"
        self._num_returned += num_rows
        limit_tokens = self._num_returned + self._window_tokens
        if 4 * (limit_tokens - self.limit_tokens) < self._window_tokens:
            return None
        self.limit_tokens = limit_tokens
        return Credit(limit_tokens)


class CreditTaker:
    """The device's side: rows it may still send."""

    def __init__(self, limit_tokens: int) -> None:
        self._limit_tokens = limit_tokens
        self._num_sent = 0

    @property
    def num_available(self) -> int:
        """Rows that may be sent now."""
        return self._limit_tokens - self._num_sent

    def send(self, num_rows: int) -> None:
        """Count rows of a States frame that is about to be sent.

        Raises:
            LocalProtocolError: CREDIT_EXCEEDED; nothing is counted then.
        """
        if num_rows > self.num_available:
            reason = f"expected at most {self.num_available} rows, got {num_rows}"
            raise LocalProtocolError(FaultCode.CREDIT_EXCEEDED, reason)
        self._num_sent += num_rows

    def receive(self, credit: Credit) -> None:
        """Raise the limit; a lower or equal one changes nothing."""
        self._limit_tokens = max(self._limit_tokens, credit.limit_tokens)
