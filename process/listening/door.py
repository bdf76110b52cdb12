"""Which connections may stay: bounded in all and per address, the unproven make room first.

Whoever only opens connections pushes out his own oldest ones; whoever says something useful at
once (a request, a Hello) is proven before it is his turn to go.
"""

from collections import Counter
from collections.abc import Callable


class Visit:
    """One connection. `address` None is a proxy, whose connections are many peers'.

    `begun_s` is when it was accepted, or when the first byte of its latest request came.
    """

    __slots__ = ("address", "begun_s", "host", "is_proven", "put_out")

    def __init__(
        self, host: str, address: str | None, begun_s: float, put_out: Callable[[], None]
    ) -> None:
        self.host = host
        self.address = address
        self.begun_s = begun_s
        self.put_out = put_out
        self.is_proven = False


class FullError(Exception):
    """There is no room, and nobody who must make some."""


class Door:
    """Counts visits; the caller performs what it decides."""

    def __init__(self, max_connections: int, max_per_address: int) -> None:
        self._max_connections = max_connections
        self._max_per_address = max_per_address
        self._visits: set[Visit] = set()
        self._per_address: Counter[str | None] = Counter()
        self._unproven: dict[str | None, dict[Visit, None]] = {}

    def __len__(self) -> int:
        return len(self._visits)

    def num_of(self, address: str | None) -> int:
        """Connections of an address."""
        return self._per_address[address]

    def enter(self, visit: Visit) -> Visit | None:
        """Let a new connection in.

        Returns:
            The unproven visit that must be put out for it; it is counted no more.

        Raises:
            FullError: no room.
        """
        victim = self._make_room(visit.address)
        self._visits.add(visit)
        self._per_address[visit.address] += 1
        self._unproven.setdefault(visit.address, {})[visit] = None
        return victim

    def leave(self, visit: Visit) -> None:
        """Forget a connection that is gone. Repeats are harmless."""
        if visit not in self._visits:
            return
        self._visits.discard(visit)
        self._drop_unproven(visit)
        self._per_address[visit.address] -= 1
        if self._per_address[visit.address] == 0:
            del self._per_address[visit.address]

    def prove(self, visit: Visit) -> None:
        """It is at work: from now on it makes room for nobody."""
        visit.is_proven = True
        self._drop_unproven(visit)

    def doubt(self, visit: Visit) -> None:
        """It is idle, or has still to show what it is for: it makes room again, as the newest."""
        visit.is_proven = False
        if visit in self._visits:
            self._unproven.setdefault(visit.address, {})[visit] = None

    def move(self, visit: Visit, address: str) -> Visit | None:
        """Count a visit under the address that a proxy forwarded; else as `enter`."""
        if visit not in self._visits or visit.address == address:
            return None
        victim = None
        if self._per_address[address] >= self._max_per_address:
            victim = self._take_oldest(address)
        is_proven = visit.is_proven
        self.leave(visit)
        visit.address = address
        self._visits.add(visit)
        self._per_address[address] += 1
        if not is_proven:
            self.doubt(visit)
        return victim

    def _make_room(self, address: str | None) -> Visit | None:
        if address is not None and self._per_address[address] >= self._max_per_address:
            return self._take_oldest(address)
        if len(self._visits) < self._max_connections:
            return None
        crowds = self._unproven
        if not crowds:
            raise FullError
        return self._take_oldest(max(crowds, key=lambda each: len(crowds[each])))

    def _take_oldest(self, address: str | None) -> Visit:
        crowd = self._unproven.get(address)
        if not crowd:
            raise FullError
        visit = next(iter(crowd))
        self.leave(visit)
        return visit

    def _drop_unproven(self, visit: Visit) -> None:
        crowd = self._unproven.get(visit.address)
        if crowd is not None:
            crowd.pop(visit, None)
            if not crowd:
                del self._unproven[visit.address]
