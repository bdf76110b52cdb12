"""What one name may have of a cloud."""

from dataclasses import dataclass, fields
from enum import StrEnum


class QuotaKind(StrEnum):
    """What a quota is of; the values are the names of its fields."""

    CONNECTIONS = "connections"
    SESSIONS = "sessions"
    KV_TOKENS = "kv_tokens"
    ROWS_PER_S = "rows_per_s"
    TOKENS_PER_DAY = "tokens_per_day"


MOST = 1 << 53
"""No quota is larger: every JSON reader has such numbers."""


@dataclass(frozen=True, slots=True)
class Quota:
    """Bounds of one name, over all of its devices together; None: the cloud's own apply alone.

    Raises:
        ValueError: one of them is no whole number from 1.
    """

    connections: int | None = None
    sessions: int | None = None
    """At once, kept ones included."""
    kv_tokens: int | None = None
    """Positions that its sessions may reserve together."""
    rows_per_s: int | None = None
    """Rows that are computed, on average; others wait."""
    tokens_per_day: int | None = None
    """Rows that are computed in a day of UTC: those of prompts, and drafts with what was wrong."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            is_whole = isinstance(value, int) and not isinstance(value, bool)
            if value is not None and not (is_whole and 1 <= value <= MOST):
                raise ValueError(f"expected {each.name} of 1 to {MOST}, got {value!r}")

    def __str__(self) -> str:
        """As a user writes it; a dash for none."""
        return ",".join(f"{name}={value}" for name, value in self.bounds.items()) or "-"

    @property
    def bounds(self) -> dict[str, int]:
        """Those that there are, by name."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


NO_QUOTA = Quota()


@dataclass(frozen=True, slots=True)
class QuotaRefusal:
    """Why a name does not get what it asks for: which quota, what it allows, and when to come back.

    `retry_after_s` 0: never, as it is.
    """

    kind: QuotaKind
    message: str
    retry_after_s: float


def refusal_of(name: str, quota: Quota, kind: QuotaKind, got: str, retry_s: float) -> QuotaRefusal:
    """The refusal for one of a name's bounds, of which it has `got` already."""
    allowed = quota.bounds[kind]
    return QuotaRefusal(
        kind, f"the quota of {name} is {_said(allowed, *_WORDS[kind])}; {got}", retry_s
    )


def there_are(num: int) -> str:
    """How many a name has, for its refusal."""
    return "there is 1" if num == 1 else f"there are {num}"


def _said(num: int, one: str, rest: str) -> str:
    return f"{num} {one}{'' if num == 1 else 's'} {rest}"


_WORDS = {
    QuotaKind.CONNECTIONS: ("connection", "at once"),
    QuotaKind.SESSIONS: ("session", "at once"),
    QuotaKind.KV_TOKENS: ("token", "of KV cache at once"),
    QuotaKind.ROWS_PER_S: ("row", "a second"),
    QuotaKind.TOKENS_PER_DAY: ("token", "a day"),
}
