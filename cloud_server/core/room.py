"""Whether there is room for one more session, and whose sessions give way to it.

Sessions that have lost their socket go first, the longest lost before others. Then who holds less
may take from who holds more, and only what lies idle: nothing has run in it for `quiet_s`, or ever.
The largest holder loses first, and never so much that it would hold less than the newcomer; where
one session is enough, no second one goes.
Identities are compared with each other; devices of one identity, such as those behind one address,
are compared by connection.

Where only positions are short, a session may go to host memory instead of ending. Then the idle
sessions of the newcomer's own connection may give way to it too, the longest idle one first.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import NamedTuple, NoReturn

from cloud_server.core.actions import SequenceHandle
from cloud_server.core.admission import AdmissionError, over_quota
from cloud_server.core.config import CoreConfig
from cloud_server.core.links import Link, Links
from cloud_server.core.names.people import People, name_in, told
from cloud_server.core.names.quota import Quota, QuotaKind, refusal_of, there_are
from cloud_server.core.saving.saver import Saver
from cloud_server.core.scheduling.kv_accounting import KvAccounting
from cloud_server.core.session import Session
from cloud_server.core.session_table import SessionTable
from cloud_server.core.tally import Holding, Tally
from wire.errors import FaultCode

_Measure = Callable[[Holding], int]


@dataclass(slots=True)
class _Need:
    """What is still short: places for sessions, and KV positions."""

    num_sessions: int
    num_tokens: int

    @property
    def is_met(self) -> bool:
        return self.num_sessions <= 0 and self.num_tokens <= 0


class _Candidate(NamedTuple):
    """An idle session, and under whose name it is held; sorted by the first three."""

    minus_excess: int
    """How much less than the newcomer its holder has, in the measure that is short."""
    quiet_since_s: float
    handle: SequenceHandle
    session: Session
    name: object


@dataclass(frozen=True, slots=True)
class Newcomer:
    """A session that asks for a place in the engine."""

    link: Link
    max_tokens: int
    is_new: bool = True
    """Whether it also needs a place among the sessions: one in host memory has that."""
    source: Session | None = None
    """What it begins as a copy of, which stays."""


@dataclass(frozen=True, slots=True)
class GivingWay:
    """Who makes room: some sessions end, and others need only leave the engine."""

    ending: list[Session] = field(default_factory=list)
    leaving: list[Session] = field(default_factory=list)

    @property
    def all(self) -> list[Session]:
        """Both."""
        return self.ending + self.leaving


class Room:
    """The cloud's places and positions, and who has them."""

    def __init__(
        self,
        config: CoreConfig,
        accounting: KvAccounting,
        table: SessionTable,
        tally: Tally,
        links: Links,
        saver: Saver,
        people: People,
    ) -> None:
        self._config = config
        self._people = people
        self._accounting = accounting
        self._table = table
        self._tally = tally
        self._links = links
        self._saver = saver

    def giving_way(self, newcomer: Newcomer, now: float) -> GivingWay:
        """The sessions whose going makes room for a newcomer.

        Raises:
            AdmissionError: that would not be enough, or its identity has its share; none is to go
                then.
        """
        charge = self._accounting.charge(newcomer.max_tokens)
        capacity = self._accounting.capacity_tokens
        if charge > capacity:
            reason = f"expected at most {capacity} tokens of capacity, got {charge}"
            raise AdmissionError(FaultCode.CAPACITY, reason, can_retry=False)
        own = self._own_victims(newcomer, charge, now)
        num_freed = sum(self._accounting.held(victim.handle) for victim in own.all)
        num_free_tokens = self._accounting.free_tokens + num_freed
        num_sessions = len(self._table) - len(own.ending)
        num_places = num_sessions + newcomer.is_new - self._config.max_sessions
        need = _Need(num_places, charge - num_free_tokens)
        others = self._taken((each for each in self._table.lost() if each not in own.all), need)
        others += self._taken_idle(newcomer.link, charge, need, now, self._links, own.all)
        others += self._taken_to_save(newcomer, need, now, [*own.all, *others])
        if need.num_tokens > 0:
            # How much of it others hold is not for a device to know.
            reason = f"expected room for {charge} tokens of KV cache, which others have now"
            raise AdmissionError(FaultCode.CAPACITY, reason)
        if need.num_sessions > 0:
            reason = f"expected fewer than {self._config.max_sessions} sessions, got {num_sessions}"
            raise AdmissionError(FaultCode.TOO_MANY_SESSIONS, reason)
        theirs = self._divided(others, num_places)
        return GivingWay(own.ending + theirs.ending, own.leaving + theirs.leaving)

    def _own_victims(self, newcomer: Newcomer, charge: int, now: float) -> GivingWay:
        """An identity's own sessions whose going keeps it within its share and its quota."""
        link = newcomer.link
        is_alone = self._links.is_alone(link.identity)
        quota = self._people.quota_of(link.identity)
        most_sessions = _least(self._config.most_sessions(is_alone), quota.sessions)
        most_tokens = _least(self._config.most_tokens(is_alone), quota.kv_tokens)
        if is_alone and quota.sessions is None and quota.kv_tokens is None:
            return GivingWay()
        held = self._tally.of_identity(link.identity)
        num_places = held.num_sessions + newcomer.is_new - most_sessions
        need = _Need(num_places, held.reserved_tokens + charge - most_tokens)
        lost = (each for each in self._table.lost() if each.identity == link.identity)
        own_links = [each for each in self._links if each.identity == link.identity]
        victims = self._taken(lost, need)
        victims += self._taken_idle(link, charge, need, now, own_links)
        victims += self._taken_to_save(newcomer, need, now, victims)
        whose = told(link.identity)
        if need.num_tokens > 0:
            if most_tokens == quota.kv_tokens:
                got = f"{held.reserved_tokens} are reserved, and {charge} more were asked for"
                self._refuse(link, quota, QuotaKind.KV_TOKENS, got, charge <= most_tokens)
            reason = (
                f"expected at most {most_tokens} tokens of one {whose}, got {need.num_tokens} more"
            )
            raise AdmissionError(FaultCode.CAPACITY, reason)
        if need.num_sessions > 0:
            if most_sessions == quota.sessions:
                self._refuse(link, quota, QuotaKind.SESSIONS, there_are(held.num_sessions))
            reason = f"expected at most {most_sessions} sessions of one {whose}"
            raise AdmissionError(FaultCode.TOO_MANY_SESSIONS, reason)
        return self._divided(victims, num_places)

    def _refuse(
        self, link: Link, quota: Quota, kind: QuotaKind, got: str, can_retry: bool = True
    ) -> NoReturn:
        retry_s = self._config.quiet_s if can_retry else 0.0
        name = name_in(link.identity)
        assert name is not None, "an address has no quota"
        raise over_quota(refusal_of(name, quota, kind, got, retry_s))

    def _divided(self, victims: Sequence[Session], num_places: int) -> GivingWay:
        """Whose place is needed has to end, and so has what is not worth a copy."""
        num_ending = max(0, num_places)
        ending = list(victims[:num_ending])
        leaving: list[Session] = []
        for session in victims[num_ending:]:
            can_leave = self._saver.is_away(session) or self._saver.can_save(session)
            (leaving if can_leave else ending).append(session)
        return GivingWay(ending, leaving)

    def _taken_to_save(
        self, newcomer: Newcomer, need: _Need, now: float, without: Sequence[Session]
    ) -> list[Session]:
        """Idle sessions of its own connection that can go to host memory, the longest idle first,
        if so the positions that are short are to be had."""
        if need.num_sessions > 0 or need.num_tokens <= 0:
            return []
        taken: list[Session] = []
        left_tokens = self._saver.savable_tokens
        left_tokens -= sum(map(self._saver.copied_tokens, without))
        own = newcomer.link.sessions.values()
        for session in sorted(own, key=lambda each: (each.quiet_since_s, each.handle)):
            copied_tokens = self._saver.copied_tokens(session)
            is_spared = session is newcomer.source or session in without
            if need.num_tokens <= 0 or is_spared or copied_tokens > left_tokens:
                continue
            if self._is_idle(session, now) and self._saver.can_save(session):
                need.num_tokens -= self._accounting.held(session.handle)
                left_tokens -= copied_tokens
                taken.append(session)
        return taken

    def _taken(self, candidates: Iterable[Session], need: _Need) -> list[Session]:
        """As many of the first candidates as it takes; of no use is who has none of what is
        short."""
        taken: list[Session] = []
        for session in candidates:
            if need.is_met:
                break
            num_tokens = self._accounting.held(session.handle)
            if need.num_sessions <= 0 and not num_tokens:
                continue
            need.num_sessions -= 1
            need.num_tokens -= num_tokens
            taken.append(session)
        return taken

    def _taken_idle(
        self,
        link: Link,
        charge: int,
        need: _Need,
        now: float,
        others: Iterable[Link],
        without: Sequence[Session] = (),
    ) -> list[Session]:
        """Idle sessions of those who hold more than the newcomer will: one that is enough, or as
        many as it takes of the largest holder, then the next, as long as they hold more."""
        if need.is_met:
            return []
        measure = _tokens if need.num_tokens > 0 else _sessions
        newcomer = charge if need.num_tokens > 0 else 1
        candidates = [
            _Candidate(-excess, session.quiet_since_s, session.handle, session, name)
            for name, excess, rival in self._rivals(link, others, measure)
            for session in rival.sessions.values()
            if excess > newcomer and self._is_idle(session, now) and session not in without
        ]
        candidates.sort(key=lambda each: each[:3])
        enough = (each.session for each in candidates if self._is_enough(each.session, need))
        return self._taken(
            chain(islice(enough, 1), self._spared(candidates, newcomer, measure)), need
        )

    def _is_enough(self, session: Session, need: _Need) -> bool:
        return need.num_sessions <= 1 and need.num_tokens <= self._accounting.held(session.handle)

    def _spared(
        self, candidates: Iterable[_Candidate], newcomer: int, measure: _Measure
    ) -> Iterator[Session]:
        """The candidates that leave their holder with more than the newcomer."""
        taken: Counter[object] = Counter()
        for each in candidates:
            if -each.minus_excess - taken[each.name] > newcomer:
                is_tokens = measure is _tokens
                num_held = self._accounting.held(each.session.handle)
                taken[each.name] += num_held if is_tokens else 1
                yield each.session

    def _rivals(
        self, link: Link, others: Iterable[Link], measure: _Measure
    ) -> Iterator[tuple[object, int, Link]]:
        """The other sockets, under whose name each holds, and how much more that is."""
        own_identity = measure(self._tally.of_identity(link.identity))
        own_connection = measure(self._tally.of_connection(link.connection))
        for other in others:
            if other.identity != link.identity:
                held = measure(self._tally.of_identity(other.identity))
                yield other.identity, held - own_identity, other
            elif other is not link:
                held = measure(self._tally.of_connection(other.connection))
                yield other.connection, held - own_connection, other

    def _is_idle(self, session: Session, now: float) -> bool:
        is_long = now - session.quiet_since_s >= self._config.quiet_s
        is_quiet = session.is_quiet and not session.num_holds
        return is_quiet and (is_long or not session.has_run)


def _least(most: int, quota: int | None) -> int:
    return most if quota is None else min(most, quota)


def _tokens(holding: Holding) -> int:
    return holding.reserved_tokens


def _sessions(holding: Holding) -> int:
    return holding.num_sessions
