"""All sessions of the cloud: found by key, with their KV reserved, kept for a while."""

from collections.abc import Iterator
from hashlib import sha256
from hmac import compare_digest

from cloud_server.core.actions import SequenceHandle
from cloud_server.core.admission import AdmissionError
from cloud_server.core.names.people import Person
from cloud_server.core.names.tokens import Name
from cloud_server.core.scheduling.kv_accounting import KvAccounting, KvFullError
from cloud_server.core.session import Session
from wire.errors import FaultCode


class SessionTable:
    """The sessions that exist, and since when those without a socket wait for one."""

    def __init__(self, accounting: KvAccounting, max_pieces: int = 1) -> None:
        self._max_pieces = max_pieces
        self._accounting = accounting
        self._sessions: dict[SequenceHandle, Session] = {}
        self._by_key: dict[bytes, Session] = {}
        self._detached_s: dict[SequenceHandle, float] = {}
        self._last_handle = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(self._sessions.values())

    @property
    def num_detached(self) -> int:
        """Sessions without a socket."""
        return len(self._detached_s)

    def get(self, handle: SequenceHandle) -> Session | None:
        """The session of this handle, if it still exists."""
        return self._sessions.get(handle)

    def find(self, key: bytes, name: Name) -> Session | None:
        """The session of this key and name, looked up so that timing tells nothing about others.

        One of another name is none: a key that was seen is of no use to anybody else.
        """
        session = self._by_key.get(_place(key, name))
        if session is None or not compare_digest(session.key, key):
            return None
        return session

    def lost(self) -> Iterator[Session]:
        """The sessions without a socket, the longest lost first."""
        return (self._sessions[handle] for handle in tuple(self._detached_s))

    def add(self, key: bytes, max_tokens: int, person: Person) -> Session:
        """A new session with its reservation; the caller has made room for it."""
        handle = SequenceHandle(self._last_handle + 1)
        try:
            self._accounting.reserve(handle, max_tokens)
        except KvFullError as error:
            raise AdmissionError(FaultCode.CAPACITY, str(error)) from error
        self._last_handle = handle
        session = Session(handle, key, max_tokens, person, self._max_pieces)
        self._sessions[handle] = session
        self._by_key[_place(key, person.name)] = session
        return session

    def remove(self, session: Session) -> None:
        """End a session; its reservation, if it has one, comes back."""
        del self._sessions[session.handle]
        del self._by_key[_place(session.key, session.person.name)]
        self._detached_s.pop(session.handle, None)
        if self._accounting.held(session.handle):
            self._accounting.release(session.handle)

    def mark_detached(self, session: Session, now: float) -> None:
        """Its socket is lost; from now on it waits for another."""
        self._detached_s[session.handle] = now

    def mark_attached(self, session: Session) -> None:
        """It has a socket again."""
        self._detached_s.pop(session.handle, None)

    def expired(self, now: float, ttl_s: float) -> list[Session]:
        """The sessions that have waited longer than `ttl_s` for a socket."""
        lost = [handle for handle, since_s in self._detached_s.items() if now - since_s > ttl_s]
        return [self._sessions[handle] for handle in lost]

    def unused(self, now: float, ttl_s: float) -> list[Session]:
        """The sessions with a socket in which nothing ran or waited for longer than `ttl_s`,
        since they were opened."""
        unused = (each for each in self if not each.has_run and each.is_attached and each.is_quiet)
        return [session for session in unused if now - session.quiet_since_s > ttl_s]


def _place(key: bytes, name: Name) -> bytes:
    """Where a session is found. Keys are of one length, so that no two pairs are one text."""
    return sha256(key + name.encode()).digest()
