"""When rows of those run who have reached a quota: where they cost others next to nothing.

Whoever has used up his rate (rows a second), or keeps asking for more than another quota gives him,
yields, until he has let a second of it be, or asks no more, and nothing of his waits (see `Usage`).
Until then his rows run, as his rate allows,

- beside rows of others, as many as make a step a tenth longer at the most;
- alone, once nobody else has had rows to run for a while: a step cannot be interrupted, so whoever
  comes while it runs waits for all of it;
- and one offer beside rows of others, however long, where none ran for some seconds.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from cloud_server.core.actions import Identity
from cloud_server.core.scheduling.scheduler import Grant, Scheduler

_ALONE_S = 1.0
"""After the last rows of others: who decodes over any usual link has come back by then."""

_AT_LEAST_EVERY_S = 10.0
"""Rare enough for the 99th percentile of who verifies ten times a second and more."""

_LOOK_S = 0.05
"""How often to look again for those who yield."""


class Quotas(Protocol):
    """What is known of the quotas of identities."""

    def has_reached_quota(self, identity: Identity, now: float) -> bool:
        """Whether it has run at its rate lately, or keeps asking for more than it may have."""
        ...

    def free_rows(self, identity: Identity, now: float) -> int:
        """How many of its rows may run now."""
        ...


class Yielding:
    """Who yields, and what of his runs in the next step.

    `riding_tokens` says how many rows a step of others may have besides.
    """

    def __init__(
        self, scheduler: Scheduler, quotas: Quotas, riding_tokens: Callable[[int], int]
    ) -> None:
        self._scheduler = scheduler
        self._quotas = quotas
        self._riding_tokens = riding_tokens
        self._yielding: dict[Identity, float] = {}
        """And when rows of each had their last step; who has waited longest is first."""
        self._others_s = float("-inf")

    def yields(self, identity: Identity | None) -> bool:
        """Whether an identity does; nobody does not."""
        return identity in self._yielding

    @property
    def has_work(self) -> bool:
        """Whether rows of somebody wait who yields."""
        return any(map(self._scheduler.is_waiting, self._yielding))

    def look_again_s(self) -> float | None:
        """After how long rows that wait now may run; None: none wait."""
        return _LOOK_S if self.has_work else None

    def note(self, identity: Identity | None, now: float) -> None:
        """Rows of an identity come, or have run; those that come do not wait yet."""
        if identity is None:
            return
        self._let_go(identity, now)
        if self._quotas.has_reached_quota(identity, now):
            self._hold(identity, now)
        if identity not in self._yielding:
            self._others_s = now

    def begin(self, now: float) -> None:
        """Before a plan: whoever has let enough be yields no longer."""
        for identity in list(self._yielding):
            self._let_go(identity, now)

    def grants(self, others: Sequence[Grant], budget_tokens: int, now: float) -> list[Grant]:
        """What runs of those who yield, in a step with these rows of others."""
        if not self._yielding:
            return []
        is_alone = not others and now - self._others_s >= _ALONE_S
        left = budget_tokens if is_alone else 0
        if others:
            left = self._riding_tokens(sum(grant.num_rows for grant in others))
        found: list[Grant] = []
        for identity in list(self._yielding):
            granted = self._of(identity, left, is_alone, now) if others or is_alone else []
            left -= sum(grant.num_rows for grant in granted)
            found += granted
        return found

    def _of(self, identity: Identity, most_tokens: int, is_alone: bool, now: float) -> list[Grant]:
        num_free = self._quotas.free_rows(identity, now)
        if num_free < 1 or not self._scheduler.is_waiting(identity):
            return []
        granted: list[Grant] = []
        if most_tokens >= 1:
            most_tokens = min(most_tokens, num_free)
            granted = self._scheduler.plan_held(identity, most_tokens, is_exact=not is_alone)
        if not granted and now - self._yielding[identity] >= _AT_LEAST_EVERY_S:
            granted = self._scheduler.plan_held(identity, 1, is_exact=False)
        if granted:
            del self._yielding[identity]
            self._yielding[identity] = now
        return granted

    def _let_go(self, identity: Identity, now: float) -> None:
        if identity not in self._yielding or self._scheduler.is_waiting(identity):
            return
        if not self._quotas.has_reached_quota(identity, now):
            del self._yielding[identity]
            self._scheduler.let_go(identity)

    def _hold(self, identity: Identity, now: float) -> None:
        if identity not in self._yielding:
            self._yielding[identity] = now
            self._scheduler.hold(identity)
