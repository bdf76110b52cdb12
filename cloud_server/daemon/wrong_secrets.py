"""What a wrong secret or token costs: the next wrong one of its address waits, ever longer."""

from collections import OrderedDict

from cloud_server.core.actions import Identity

_FIRST_DELAY_S = 0.1
_LONGEST_DELAY_S = 2.0
"""Well within the time for a Hello, so that the answer says what is wrong."""

_FORGET_S = 60.0
_MAX_ADDRESSES = 4096
_MAX_DOUBLINGS = 16


class WrongSecrets:
    """Failures per address; forgotten a minute after the last one, the oldest when there are many.

    With the bound on connections per address the delay bounds how many secrets can be tried.
    """

    def __init__(self, max_addresses: int = _MAX_ADDRESSES) -> None:
        self._max_addresses = max_addresses
        self._failures: OrderedDict[Identity, tuple[int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._failures)

    def note(self, address: Identity, now: float) -> None:
        """A secret was wrong."""
        num_failures = self._num_failures(address, now) + 1
        self._failures[address] = (num_failures, now)
        self._failures.move_to_end(address)
        if len(self._failures) > self._max_addresses:
            self._failures.popitem(last=False)

    def delay_s(self, address: Identity, now: float) -> float:
        """How long the next wrong Hello from there waits for its answer."""
        num_failures = self._num_failures(address, now)
        if num_failures == 0:
            return 0.0
        doublings = min(num_failures - 1, _MAX_DOUBLINGS)
        return min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2.0**doublings)

    def _num_failures(self, address: Identity, now: float) -> int:
        num_failures, last_s = self._failures.get(address, (0, now))
        return num_failures if now - last_s <= _FORGET_S else 0
