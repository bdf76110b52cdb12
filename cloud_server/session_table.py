"""All sessions of the cloud: found by key, admitted by count and KV capacity, kept for a while."""

from collections.abc import Iterator
from hashlib import sha256
from hmac import compare_digest

from cloud_server.actions import SequenceHandle
from cloud_server.admission import AdmissionError
from cloud_server.kv_accounting import KvAccounting, KvFullError
from cloud_server.session import Session
from wire.errors import FaultCode


class SessionTable:
    """The sessions that exist, and since when those without a socket wait for one."""

    def __init__(self, max_sessions: int, accounting: KvAccounting, max_pieces: int = 1) -> None:
        self._max_sessions = max_sessions
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

    def find(self, key: bytes) -> Session | None:
        """The session of this key, looked up so that timing tells nothing about other keys."""
        session = self._by_key.get(sha256(key).digest())
        if session is None or not compare_digest(session.key, key):
            return None
        return session

    def victims(self, max_tokens: int) -> list[Session]:
        """The sessions without a socket, longest lost first, whose end makes room for a new one.

        Raises:
            AdmissionError: their end would not be enough; none is to be ended then.
        """
        capacity, charge = self._accounting.capacity_tokens, self._accounting.charge
        max_tokens = charge(max_tokens)
        if max_tokens > capacity:
            reason = f"expected at most {capacity} tokens of capacity, got {max_tokens}"
            raise AdmissionError(FaultCode.CAPACITY, reason, can_retry=False)
        victims: list[Session] = []
        num_free_sessions = self._max_sessions - len(self)
        num_free_tokens = self._accounting.free_tokens
        candidates = iter(self._detached_s)
        while num_free_sessions < 1 or num_free_tokens < max_tokens:
            handle = next(candidates, None)
            if handle is None:
                raise self._refusal(num_free_sessions, num_free_tokens, max_tokens)
            victims.append(self._sessions[handle])
            num_free_sessions += 1
            num_free_tokens += charge(self._sessions[handle].max_tokens)
        return victims

    def add(self, key: bytes, max_tokens: int) -> Session:
        """A new session with its reservation; the caller has made room for it."""
        handle = SequenceHandle(self._last_handle + 1)
        try:
            self._accounting.reserve(handle, max_tokens)
        except KvFullError as error:
            raise AdmissionError(FaultCode.CAPACITY, str(error)) from error
        self._last_handle = handle
        session = Session(handle, key, max_tokens, self._max_pieces)
        self._sessions[handle] = session
        self._by_key[sha256(key).digest()] = session
        return session

    def remove(self, session: Session) -> None:
        """End a session; its reservation comes back."""
        del self._sessions[session.handle]
        del self._by_key[sha256(session.key).digest()]
        self._detached_s.pop(session.handle, None)
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

    def late(self, now: float, deadline_s: float) -> list[Session]:
        """The sessions whose rows have waited longer than `deadline_s` for a step."""
        waiting = (each for each in self if each.is_waiting and not each.is_running)
        return [session for session in waiting if now - session.waiting_since_s > deadline_s]

    def _refusal(self, num_sessions: int, num_tokens: int, max_tokens: int) -> AdmissionError:
        if num_tokens < max_tokens:
            reason = f"expected at most {num_tokens} free tokens, got {max_tokens}"
            return AdmissionError(FaultCode.CAPACITY, reason)
        reason = f"expected fewer than {self._max_sessions} sessions, got {len(self)}"
        assert num_sessions < 1, "one of both is short"
        return AdmissionError(FaultCode.TOO_MANY_SESSIONS, reason)
