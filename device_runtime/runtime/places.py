"""Where a generation's caches live: a sequence on the engine and a session in the cloud."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from device_runtime.engines.engine import DeviceEngine, SequenceId
from device_runtime.engines.workers import Workers
from device_runtime.link.link import Link
from device_runtime.link.session import LinkSession, SessionRefusedError
from device_runtime.session.prefix_cache import Kept, Match, PrefixCache, PrefixCacheLimits
from wire.errors import FaultCode, RemoteProtocolError

_log = logging.getLogger(__name__)

_KEEP_SHARE = 0.8
"""Idle sessions end after this share of the cloud's own patience, so the cloud never ends one."""

T = TypeVar("T")

_NO_ROOM = frozenset({FaultCode.CAPACITY, FaultCode.TOO_MANY_SESSIONS})


@dataclass(frozen=True, slots=True)
class Reopened:
    """What the cloud still holds of a session, and the longest frame it takes now."""

    num_cached_tokens: int
    max_frame_tokens: int


class Place:
    """Both caches of one session; `release` ends both, once, whatever had been opened."""

    def __init__(self, engine: Workers, link: Link, stream: LinkSession) -> None:
        self.stream = stream
        self._link = link
        self.next_epoch = 1
        self.bytes_before = (0, 0)
        """What earlier generations sent and received here."""
        self._engine = engine
        self._sequence: SequenceId | None = None
        self._is_released = False

    @property
    def sequence(self) -> SequenceId:
        """The engine's sequence, once made."""
        assert self._sequence is not None, "the sequence is made before it is used"
        return self._sequence

    @property
    def is_alive(self) -> bool:
        """Whether the cloud still holds its side, as far as is known, and will for a while."""
        return self.stream.is_live and not self._link.is_leaving

    async def make_sequence(self, make: Callable[[DeviceEngine], SequenceId]) -> None:
        """Open or fork on the engine's thread."""

        def remember(engine: DeviceEngine) -> None:
            # On the engine's thread, so that a caller cancelled meanwhile leaks nothing.
            self._sequence = make(engine)

        await self._engine.run(remember)

    async def reopen(self) -> Reopened:
        """Take the session up again after its stream has failed.

        Raises:
            CloudUnavailableError: no connection, or the cloud does not want it now.
        """
        self.stream.abandon()
        self.stream = self._link.reopen(self.stream)
        num_cached_tokens = await self.stream.opened()
        assert self._link.limits is not None, "sessions are opened on a connection"
        return Reopened(num_cached_tokens, self._link.limits.max_frame_tokens)

    def release(self) -> None:
        """Free both sides; never waits."""
        if self._is_released:
            return
        self._is_released = True
        self.stream.close()
        self._engine.run_later(self._release_sequence)

    def _release_sequence(self, engine: DeviceEngine) -> None:
        if self._sequence is not None:
            engine.release(self._sequence)


@dataclass(frozen=True, slots=True)
class Found:
    """A place for a prompt, of which the first `num_cached_tokens` are already there."""

    place: Place
    num_cached_tokens: int


class Places:
    """Opens places, and keeps those of finished generations for the next turn."""

    def __init__(
        self,
        engine: Workers,
        link: Link,
        limits: PrefixCacheLimits,
        clock: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._link = link
        self._clock = clock
        self._kept: PrefixCache[Place] = PrefixCache(limits, lambda place: place.is_alive)

    @property
    def num_kept(self) -> int:
        """Finished sessions that are still open."""
        return len(self._kept)

    async def find(
        self,
        prompt_ids: Sequence[int],
        num_reserved_tokens: int,
        begin: Callable[[Found], Awaitable[T]],
    ) -> T:
        """What `begin` makes of a place that may grow to `num_reserved_tokens` positions.

        It is called as soon as the device's side is there, while the cloud is still asked for
        its own, and once more for another place if the cloud refuses the first.

        Raises:
            CloudUnavailableError: no link, or the cloud has no room, or stops.
        """
        self.expire()
        try:
            return await self._find(prompt_ids, num_reserved_tokens, begin)
        finally:
            # The cloud may have said that it stops: what is kept there is of no use any more.
            self.expire()

    async def _find(
        self,
        prompt_ids: Sequence[int],
        num_reserved_tokens: int,
        begin: Callable[[Found], Awaitable[T]],
    ) -> T:
        match = self._kept.find(prompt_ids, num_reserved_tokens)
        if match is not None and match.is_taken:
            return await _begun(Found(match.place, match.num_shared_tokens), begin)
        if match is not None:
            try:
                return await self._fork(match, num_reserved_tokens, begin)
            except SessionRefusedError as error:
                _log.info("a prefix is uploaded again: %s", error.reason)
        try:
            return await self._open(num_reserved_tokens, begin)
        except SessionRefusedError as error:
            if error.code not in _NO_ROOM or not self.clear():
                raise
        return await self._open(num_reserved_tokens, begin)

    def keep(self, place: Place, text: Sequence[int], next_epoch: int) -> None:
        """Take back the place of a finished generation, whose caches begin with `text`."""
        place.next_epoch = next_epoch
        place.bytes_before = (place.stream.bytes_up, place.stream.bytes_down)
        if not place.is_alive or self._link.limits is None:
            place.release()
            return
        idle_s = _KEEP_SHARE * self._link.limits.session_ttl_s
        now = self._clock()
        ids = np.asarray(text, dtype=np.int64)
        kept = Kept(ids, place.stream.max_tokens, place, now + idle_s)
        for dropped in self._kept.keep(kept, now):
            dropped.release()
        asyncio.get_running_loop().call_later(idle_s + 0.01, self.expire)

    def expire(self) -> None:
        """Give up what was idle too long or lost its cloud side."""
        for place in self._kept.expire(self._clock()):
            place.release()

    def clear(self) -> bool:
        """Give up everything kept; whether there was anything."""
        places = self._kept.clear()
        for place in places:
            place.release()
        return bool(places)

    async def _open(self, num_reserved_tokens: int, begin: Callable[[Found], Awaitable[T]]) -> T:
        place = Place(self._engine, self._link, self._link.open(num_reserved_tokens))
        return await _settled(Found(place, 0), lambda engine: engine.open(), begin)

    async def _fork(
        self,
        match: Match[Place],
        num_reserved_tokens: int,
        begin: Callable[[Found], Awaitable[T]],
    ) -> T:
        """A copy of the shared prefix; its origin goes if most of it was shared."""
        origin, num_shared = match.place, match.num_shared_tokens
        stream = self._link.open(num_reserved_tokens, origin.stream, num_shared)
        place = Place(self._engine, self._link, stream)
        origin_sequence = origin.sequence
        begun = await _settled(
            Found(place, num_shared), lambda engine: engine.fork(origin_sequence, num_shared), begin
        )
        if match.is_superseded and self._kept.remove(origin):
            origin.release()
        return begun


async def _settled(
    found: Found,
    make: Callable[[DeviceEngine], SequenceId],
    begin: Callable[[Found], Awaitable[T]],
) -> T:
    """Begin in a new place and wait for its other side; on any failure, none of it remains."""

    async def settle(found: Found) -> T:
        await found.place.make_sequence(make)
        begun = await begin(found)
        cached, expected = await found.place.stream.opened(), found.num_cached_tokens
        if cached != expected:
            reason = f"expected {expected} cached tokens, got {cached}"
            raise RemoteProtocolError(FaultCode.POSITION_MISMATCH, reason)
        return begun

    return await _begun(found, settle)


async def _begun(found: Found, begin: Callable[[Found], Awaitable[T]]) -> T:
    """Begin in a place, and release it on any failure."""
    try:
        return await begin(found)
    except BaseException:
        found.place.release()
        raise
