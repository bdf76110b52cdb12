"""Who a device is, by what it shows, and what that name may have now."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from hmac import compare_digest

from cloud_server.core.actions import Identity
from cloud_server.core.names.quota import MOST, NO_QUOTA, Quota
from cloud_server.core.names.tokens import (
    ANYONE,
    OTHER,
    SHARED,
    Entry,
    Name,
    Tokens,
    check_name,
)
from cloud_server.core.names.usage import Usage

_MARK = "@"
"""Before the name in an identity; no address has it."""


_MOST_LABELS = 100
"""Names with figures of their own: as many lines of each metric, and no more."""


@dataclass(slots=True)
class Counts:
    """Of one name, so far."""

    num_rows: int = 0
    num_refused: int = 0


@dataclass(frozen=True, slots=True)
class Person:
    """A name, and by what it was known: of a token its hash, so that another token is another."""

    name: Name
    proof: bytes = b""

    @property
    def is_named(self) -> bool:
        """Whether it has a name of its own, and not one that many share."""
        return self.name not in (SHARED, ANYONE)

    def identity_at(self, address: Identity) -> Identity:
        """What limits and fairness count by: its name, wherever it comes from, or the address."""
        return Identity(_MARK + self.name) if self.is_named else address


def name_in(identity: Identity | None) -> Name | None:
    """The name that an identity is of; None for an address."""
    is_name = identity is not None and identity.startswith(_MARK)
    return Name(identity.removeprefix(_MARK)) if identity is not None and is_name else None


def told(identity: Identity) -> str:
    """What an identity is, for messages."""
    return "name" if identity.startswith(_MARK) else "address"


class People:
    """The names of a cloud. `now` is the core's clock; the register's times are the world's.

    Without secret, register and certificates everybody is let in.
    """

    def __init__(self, secret: bytes, takes_certificates: bool = False) -> None:
        self._secret = secret
        self._takes_certificates = takes_certificates
        self._tokens: Tokens | None = None
        self._offset_s = 0.0
        self.usage = Usage()
        self._refused: Counter[Name] = Counter()
        """Since it was last looked whether they have reached a quota."""
        self.counted: dict[Name, Counts] = {}
        """By name, of at most `_MOST_LABELS` and of all others together."""

    def admit(self, tokens: Tokens | None, unix_s: float, now: float) -> None:
        """These are the names from now on; None: there is no register."""
        self._offset_s = unix_s - now
        if tokens is not self._tokens:
            self._tokens = tokens
            self.usage.forget_others(self._entries)
            self._refused.clear()

    def who(self, credential: bytes, certificate: str | None, now: float) -> Person | None:
        """Whose a device is that shows this; None: nobody's who may come.

        What it says counts more than its certificate. `certificate` is a name that an authority of
        the cloud's has signed.
        """
        if credential:
            if self._secret and compare_digest(credential, self._secret):
                return Person(SHARED)
            entry = self._find(credential)
            if entry is not None and entry.why_not(self.unix_s(now)) is None:
                assert entry.digest is not None, "it was found by it"
                return Person(entry.name, entry.digest)
        elif certificate is not None:
            return self._certified(certificate, now)
        return None if self._asks else Person(ANYONE)

    def why_not(self, credential: bytes, certificate: str | None, now: float) -> str:
        """What to tell a device that is nobody's."""
        entry = self._find(credential) if credential else None
        if entry is None and certificate is not None:
            entry = self._entries.get(Name(certificate))
        reason = None if entry is None else entry.why_not(self.unix_s(now))
        if reason is not None:
            return reason
        if certificate is not None and not credential:
            got = repr(certificate[:64]) if certificate else "one without a name"
            return f"expected a certificate of a name that may come, got {got}"
        wanted = ["the shared secret"] if self._secret else []
        wanted += ["a token"] if self._tokens is not None else []
        wanted += ["a certificate"] if self._takes_certificates else []
        got = "one that lets nobody in" if credential else "none"
        return f"expected {' or '.join(wanted)}, got {got}"

    def why_no_more(self, person: Person, now: float) -> str | None:
        """Why somebody who was let in may stay no longer; None while he may."""
        if person.name == ANYONE and self._asks:
            return self.why_not(b"", None, now)
        if not person.is_named:
            return None
        entry = self._entries.get(person.name)
        if not person.proof:
            return None if entry is None else entry.why_not(self.unix_s(now))
        if entry is None or entry.digest != person.proof:
            return f"the token of {person.name} is one no more"
        return entry.why_not(self.unix_s(now))

    def ran(self, identity: Identity | None, num_rows: int, now: float) -> None:
        """Rows of an identity were put into a step."""
        name = name_in(identity)
        self._counts(name).num_rows += num_rows
        if name is not None:
            self.usage.ran(name, self.quota_of(identity), num_rows, now, self.unix_s(now))

    def has_reached_quota(self, identity: Identity, now: float) -> bool:
        """Whether an identity has run at its rate lately, or keeps asking for more than it may
        have."""
        quota, name = self.quota_of(identity), name_in(identity)
        if name is None:
            return False
        if num_refused := self._refused.pop(name, 0):
            self.usage.refused(name, num_refused, now)
        insists = self.usage.insists(name, now)
        return self.usage.has_reached_rate(name, quota, now) or insists

    def free_rows(self, identity: Identity, now: float) -> int:
        """How many rows of an identity may run now by its rate."""
        quota, name = self.quota_of(identity), name_in(identity)
        return MOST if name is None else self.usage.free_rows(name, quota, now)

    def refused(self, identity: Identity) -> None:
        """A quota has refused something to an identity."""
        name = name_in(identity)
        self._counts(name).num_refused += 1
        if name is not None:
            self._refused[name] += 1

    def label_of(self, name: Name | None) -> Name:
        """Under which label a name counts; the first ones that come have their own, for good."""
        label = name or (SHARED if self._secret else ANYONE)
        if name is not None and name not in self.counted and len(self.counted) >= _MOST_LABELS:
            label = OTHER
        self.counted.setdefault(label, Counts())
        return label

    def _counts(self, name: Name | None) -> Counts:
        return self.counted[self.label_of(name)]

    def quota_of(self, identity: Identity | None) -> Quota:
        """What an identity may have; nothing bounds an address here."""
        name = name_in(identity)
        entry = None if name is None else self._entries.get(name)
        return NO_QUOTA if entry is None else entry.quota

    def unix_s(self, now: float) -> float:
        """The world's time."""
        return now + self._offset_s

    @property
    def _asks(self) -> bool:
        return bool(self._secret) or self._tokens is not None or self._takes_certificates

    @property
    def _entries(self) -> Mapping[Name, Entry]:
        return {} if self._tokens is None else self._tokens.entries

    def _find(self, credential: bytes) -> Entry | None:
        return None if self._tokens is None else self._tokens.find(credential)

    def _certified(self, certificate: str, now: float) -> Person | None:
        try:
            name = check_name(certificate)
        except ValueError:
            return None
        entry = self._entries.get(name)
        is_refused = entry is not None and entry.why_not(self.unix_s(now)) is not None
        return None if is_refused else Person(name)
