"""The register of names: the hash of each one's token, its quota, and until when it may come.

A token is random, of 128 bits or more, so that its SHA-256 says nothing of it and needs no salt:
who reads the register cannot make a token of it, and a look-up by hash tells nothing by its time.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from types import MappingProxyType
from typing import Any, Final, NewType

from cloud_server.core.names.quota import NO_QUOTA, Quota

Name = NewType("Name", str)
"""Whose a device is, in the operator's words: in logs, in metrics and in refusals."""

SHARED: Final = Name("shared")
"""All who know the cloud's one secret."""

ANYONE: Final = Name("anyone")
"""All devices of a cloud that asks for nothing."""

OTHER: Final = Name("other")
"""In metrics: the names beyond those that have a label."""

RESERVED: Final = frozenset({SHARED, ANYONE, OTHER})

TOKEN_BYTES: Final = 32
"""Of chance in a new token."""

TOKEN_PREFIX: Final = "hat_"
"""What tokens begin with, so that scanners for secrets find one that was published."""

LEAST_TOKEN_CHARACTERS: Final = 22
"""What 128 bits take in base64; a shorter one can be none of ours."""

_VERSION = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_DIGEST_BYTES = 32
_MOST_SHOWN = 64
MOST_SECONDS: Final = 253_402_300_799.0
"""The last second of the year 9999, since 1970: no name lasts longer, nor can that be written."""


class TokensError(ValueError):
    """A register that cannot be read, or a name that cannot be had; the message says why."""


def check_name(text: str) -> Name:
    """The name itself.

    Raises:
        TokensError: it is none, or one that has a meaning already.
    """
    if not _NAME.fullmatch(text):
        allowed = "of a to z, A to Z, 0 to 9, '.', '_', '-' and '@', the first a letter or digit"
        raise TokensError(f"expected a name of 1 to 64 {allowed}, got {text!r}")
    if text in RESERVED:
        raise TokensError(f"the name {text} has a meaning of its own; take another")
    return Name(text)


def digest_of(token: str | bytes) -> bytes:
    """What the register holds of a token."""
    return sha256(token if isinstance(token, bytes) else token.encode()).digest()


@dataclass(frozen=True, slots=True)
class Entry:
    """One name. Without a `digest` it has no token: a certificate of that name is what it shows."""

    name: Name
    digest: bytes | None
    made_unix_s: float
    quota: Quota = NO_QUOTA
    expires_unix_s: float | None = None
    revoked_unix_s: float | None = None

    def why_not(self, unix_s: float) -> str | None:
        """Why it lets nobody in at this time; None when it does."""
        if self.revoked_unix_s is not None:
            return f"{self.name} was revoked"
        if self.expires_unix_s is not None and unix_s >= self.expires_unix_s:
            return f"{self.name} has expired on {day_of(self.expires_unix_s)}"
        return None


@dataclass(frozen=True, slots=True)
class Tokens:
    """All names of a cloud. A value: what changes it gives another one."""

    entries: Mapping[Name, Entry] = field(default_factory=lambda: MappingProxyType({}))
    _by_digest: Mapping[bytes, Entry] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        digests = {each.digest: each for each in self.entries.values() if each.digest is not None}
        object.__setattr__(self, "_by_digest", digests)

    def find(self, token: bytes) -> Entry | None:
        """The entry of a token, whether it lets anybody in or not."""
        return self._by_digest.get(digest_of(token))

    def get(self, name: Name) -> Entry | None:
        """The entry of a name."""
        return self.entries.get(name)

    def added(self, entry: Entry) -> "Tokens":
        """With one more name.

        Raises:
            TokensError: it is there and was not revoked.
        """
        known = self.entries.get(entry.name)
        if known is not None and known.revoked_unix_s is None:
            raise TokensError(f"{entry.name} is there already; `hat token revoke` ends it first")
        return self._with(entry)

    def revoked(self, name: Name, unix_s: float) -> "Tokens":
        """Without what let a name in. It stays written down, so that no certificate does either.

        Raises:
            TokensError: there is no such name, or it was revoked before.
        """
        known = self.entries.get(name)
        if known is None:
            raise TokensError(f"there is no name {name}")
        if known.revoked_unix_s is not None:
            raise TokensError(f"{name} was revoked on {day_of(known.revoked_unix_s)}")
        return self._with(replace(known, revoked_unix_s=unix_s))

    def changed(self, name: Name, change: Callable[[Entry], Entry]) -> "Tokens":
        """With another quota or time for a name, whose token stays.

        Raises:
            TokensError: there is no such name, or it was revoked.
        """
        known = self.entries.get(name)
        if known is None:
            raise TokensError(f"there is no name {name}; `hat token add` makes it")
        if known.revoked_unix_s is not None:
            revoked = f"{name} was revoked on {day_of(known.revoked_unix_s)}"
            raise TokensError(f"{revoked}; `hat token add` makes a new token")
        return self._with(change(known))

    def _with(self, entry: Entry) -> "Tokens":
        return Tokens(MappingProxyType({**self.entries, entry.name: entry}))


def tokens_of(entries: Iterable[Entry]) -> Tokens:
    """A register of these names."""
    return Tokens(MappingProxyType({each.name: each for each in entries}))


def day_of(unix_s: float) -> str:
    """`2026-11-29 21:30 UTC`."""
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%d %H:%M} UTC"


def to_text(tokens: Tokens) -> str:
    """The register as a file holds it."""
    names = {entry.name: _to_json(entry) for entry in tokens.entries.values()}
    return json.dumps({"version": _VERSION, "names": names}, indent=2) + "\n"


def from_text(text: str) -> Tokens:
    """The register of a file.

    Raises:
        TokensError: it is none; the message says where, and holds nothing of a hash.
    """
    try:
        # Some editors put a mark of UTF-8 before it.
        raw = json.loads(text.removeprefix("\ufeff"), object_pairs_hook=_without_twins)
    except TokensError:
        raise
    except (ValueError, RecursionError) as error:
        raise TokensError("expected JSON as `hat token` writes it") from error
    if not isinstance(raw, dict) or raw.get("version") != _VERSION:
        raise TokensError(f"expected an object with version {_VERSION}")
    names = raw.get("names")
    if not isinstance(names, dict) or set(raw) != {"version", "names"}:
        raise TokensError("expected version and names, and nothing else")
    entries = [_from_json(name, each) for name, each in names.items()]
    digests = [each.digest for each in entries if each.digest is not None]
    if len(set(digests)) != len(digests):
        raise TokensError("expected a token of its own for each name")
    return tokens_of(entries)


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. Of two entries of one key the last would count: a revocation might not.

    Raises:
        TokensError: a key is there twice.
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise TokensError(f"expected {twice[:_MOST_SHOWN]!r} once, found it twice")
    return found


def _to_json(entry: Entry) -> dict[str, Any]:
    known = {
        "sha256": None if entry.digest is None else entry.digest.hex(),
        "made_unix_s": entry.made_unix_s,
        "expires_unix_s": entry.expires_unix_s,
        "revoked_unix_s": entry.revoked_unix_s,
        "quota": entry.quota.bounds or None,
    }
    return {key: value for key, value in known.items() if value is not None}


def _from_json(name: str, raw: object) -> Entry:
    checked = check_name(name)
    known = {"sha256", "made_unix_s", "expires_unix_s", "revoked_unix_s", "quota"}
    if not isinstance(raw, dict) or not set(raw) <= known:
        raise TokensError(f"{name}: expected an object with no keys but {', '.join(sorted(known))}")
    times = {key: _time(name, key, raw.get(key)) for key in known if key.endswith("_unix_s")}
    quota = raw.get("quota", {})
    try:
        read_quota = Quota(**quota)
    except (TypeError, ValueError) as error:
        bounds = ", ".join(Quota.__dataclass_fields__)
        raise TokensError(f"{name}: expected a quota of whole numbers for {bounds}") from error
    return Entry(
        checked,
        _digest(name, raw.get("sha256")),
        times["made_unix_s"] or 0.0,
        read_quota,
        times["expires_unix_s"],
        times["revoked_unix_s"],
    )


def _time(name: str, key: str, value: object) -> float | None:
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= MOST_SECONDS:  # type: ignore[operator]
        raise TokensError(f"{name}: expected {key} in seconds since 1970")
    return float(value)  # type: ignore[arg-type]


def _digest(name: str, value: object) -> bytes | None:
    if value is None:
        return None
    try:
        digest = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        digest = b""
    if len(digest) != _DIGEST_BYTES:
        raise TokensError(f"{name}: expected sha256 of {2 * _DIGEST_BYTES} hexadecimal digits")
    return digest
