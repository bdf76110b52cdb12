"""What names have used of their quotas: rows today, rows a second, and patience.

Times are given. `now` is a monotonic clock, `unix_s` the world's, which may jump.
"""

from collections import Counter
from collections.abc import Container
from dataclasses import dataclass

from cloud_server.core.names.quota import MOST, Quota, QuotaKind, QuotaRefusal, refusal_of
from cloud_server.core.names.tokens import Name

_DAY_S = 86_400.0

_BURST_S = 1.0
"""What a name that used little may use at once, in seconds at its rate."""


_INSISTS, _INSISTS_NO_MORE, _MOST_ASKS = 20.0, 1.0, 25.0
_ASKS_PER_S = 1.0
"""Refusals that devices which come back when they are told to may have: so many a second, and a
program's worth of requests at once."""


@dataclass(slots=True)
class _Asks:
    """What a quota has refused to a name lately; it is forgotten at a rate."""

    level: float = 0.0
    at_s: float = 0.0
    is_insisting: bool = False

    def look(self, now: float) -> None:
        self.level = max(0.0, self.level - _ASKS_PER_S * max(0.0, now - self.at_s))
        self.at_s = max(self.at_s, now)
        most = _INSISTS_NO_MORE if self.is_insisting else _INSISTS
        self.is_insisting = self.level >= most


@dataclass(slots=True)
class _Rate:
    """A bucket of rows: it fills at a rate, and what runs takes from it, even below nothing."""

    level_rows: float
    at_s: float
    is_reached: bool = False
    """Since it was empty, until it is full again."""

    def fill(self, rows_per_s: int, now: float) -> None:
        full_rows = _BURST_S * rows_per_s
        gained = max(0.0, now - self.at_s) * rows_per_s
        self.level_rows = min(full_rows, self.level_rows + gained)
        self.at_s = max(self.at_s, now)
        if self.level_rows >= full_rows:
            self.is_reached = False


class Usage:
    """Counts by name, of names that have such quotas; as many as the register has at the most."""

    def __init__(self) -> None:
        self._today: Counter[Name] = Counter()
        self._day = 0
        self._rates: dict[Name, _Rate] = {}
        self._asks: dict[Name, _Asks] = {}

    def ran(self, name: Name, quota: Quota, num_rows: int, now: float, unix_s: float) -> None:
        """Rows of a name were put into a step."""
        if quota.tokens_per_day is not None:
            self._turn(unix_s)
            self._today[name] += num_rows
        if quota.rows_per_s is not None:
            rate = self._rate(name, quota.rows_per_s, now)
            rate.level_rows -= num_rows
            rate.is_reached = rate.is_reached or rate.level_rows <= 0

    def refuse_rows(
        self, name: Name, quota: Quota, num_rows: int, unix_s: float
    ) -> QuotaRefusal | None:
        """Why a name may not have so many rows more today, those that wait included; None: it may.

        The day is that of UTC; the refusal says when the next one begins.
        """
        if quota.tokens_per_day is None:
            return None
        self._turn(unix_s)
        used = self._today[name]
        if used + num_rows <= quota.tokens_per_day:
            return None
        retry_s = max(1.0, (self._day + 1) * _DAY_S - unix_s)
        got = f"{used} were used today, and a new day begins at 00:00 UTC"
        return refusal_of(name, quota, QuotaKind.TOKENS_PER_DAY, got, retry_s)

    def free_rows(self, name: Name, quota: Quota, now: float) -> int:
        """How many rows of a name may run now by its rate; below 1: none."""
        if quota.rows_per_s is None:
            return MOST
        rate = self._rate(name, quota.rows_per_s, now)
        return int(rate.level_rows) if rate.level_rows >= 1 else 0

    def has_reached_rate(self, name: Name, quota: Quota, now: float) -> bool:
        """Whether a name has run at its rate lately: from when it had nothing left until it has
        let as much be as it may use at once."""
        if quota.rows_per_s is None:
            return False
        return self._rate(name, quota.rows_per_s, now).is_reached

    def refused(self, name: Name, num_times: int, now: float) -> None:
        """A quota has refused something to a name, so many times."""
        asks = self._asks.setdefault(name, _Asks())
        asks.look(now)
        asks.level = min(_MOST_ASKS, asks.level + num_times)

    def insists(self, name: Name, now: float) -> bool:
        """Whether a name keeps asking for more than it may have."""
        asks = self._asks.get(name)
        if asks is None:
            return False
        asks.look(now)
        if asks.level == 0:
            del self._asks[name]
        return asks.is_insisting

    def wait_s(self, name: Name, quota: Quota, num_rows: int, now: float) -> float:
        """How long so many rows of a name wait by its rate alone."""
        if quota.rows_per_s is None:
            return 0.0
        rate = self._rate(name, quota.rows_per_s, now)
        return max(0.0, (num_rows - rate.level_rows) / quota.rows_per_s)

    def forget_others(self, names: Container[Name]) -> None:
        """Keep what is known of these names alone."""
        self._rates = {name: rate for name, rate in self._rates.items() if name in names}
        self._asks = {name: asks for name, asks in self._asks.items() if name in names}
        self._today = Counter({name: n for name, n in self._today.items() if name in names})

    def _turn(self, unix_s: float) -> None:
        """Begin a new day, if it is one; a clock that was set back changes nothing."""
        day = int(unix_s // _DAY_S)
        if day > self._day:
            self._day = day
            self._today.clear()

    def _rate(self, name: Name, rows_per_s: int, now: float) -> _Rate:
        rate = self._rates.setdefault(name, _Rate(_BURST_S * rows_per_s, now))
        rate.fill(rows_per_s, now)
        return rate
