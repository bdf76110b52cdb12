"""Where a generation's caches live: a sequence on the engine and a session in the cloud."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence

import numpy as np

from device_runtime.engines.engine import DeviceEngine, SequenceId, Workers
from device_runtime.link.link import Link
from device_runtime.link.session import LinkSession, SessionRefusedError
from device_runtime.session.prefix_cache import Kept, Match, PrefixCache, PrefixCacheLimits
from wire.errors import FaultCode, RemoteProtocolError

_log = logging.getLogger(__name__)

_KEEP_SHARE = 0.8
"""Idle sessions end after this share of the cloud's own patience, so the cloud never ends one."""

_NO_ROOM = frozenset({FaultCode.CAPACITY, FaultCode.TOO_MANY_SESSIONS})


class Place:
    """Both caches of one session; `release` ends both, once, whatever had been opened.

    `num_cached_tokens` positions are in both, as far as is known before the cloud has said so.
    """

    def __init__(
        self, workers: Workers, link: Link, stream: LinkSession, num_cached_tokens: int = 0
    ) -> None:
        self.workers = workers
        self.stream = stream
        self.num_cached_tokens = num_cached_tokens
        self._link = link
        self.is_kept = False
        """Whether an earlier generation has left it, so that the cloud knows it."""
        self.next_epoch = 1
        self.bytes_before = (0, 0)
        """What earlier generations sent and received here."""
        self.supersedes: Place | None = None
        """A kept place, of use no longer once this one is confirmed."""
        self.refusal: SessionRefusedError | None = None
        """Why the cloud did not want it."""
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

    @property
    def num_bytes(self) -> tuple[int, int]:
        """What this generation has sent and received here."""
        up, down = self.bytes_before
        return self.stream.bytes_up - up, self.stream.bytes_down - down

    async def make_sequence(self, make: Callable[[DeviceEngine], SequenceId]) -> None:
        """Open or fork on the engine's thread; on any failure, nothing of the place remains."""

        def remember(engine: DeviceEngine) -> None:
            # On the engine's thread, so that a caller cancelled meanwhile leaks nothing.
            self._sequence = make(engine)

        try:
            await self.workers.run(remember)
        except BaseException:
            self.release()
            raise

    @property
    def max_frame_tokens(self) -> int:
        """The longest frame that the cloud takes now."""
        assert self._link.limits is not None, "places are on a connection"
        return self._link.limits.max_frame_tokens

    async def reopen(self) -> int:
        """Take the session up again after its stream has failed; what the cloud still holds of it.

        Raises:
            CloudUnavailableError: no connection, or the cloud does not want it now.
        """
        self.stream.abandon()
        self.stream = self._link.reopen(self.stream)
        return await self.stream.opened()

    def refused(self, refusal: SessionRefusedError) -> None:
        """Release it, since the cloud does not want it."""
        self.refusal = refusal
        self.release()

    def release(self) -> None:
        """Free both sides; never waits."""
        if self._is_released:
            return
        self._is_released = True
        self.stream.close()
        self.workers.run_later(self._release_sequence)

    def _release_sequence(self, engine: DeviceEngine) -> None:
        if self._sequence is not None:
            engine.release(self._sequence)


class Places:
    """Opens places, and keeps those of finished generations for the next turn."""

    def __init__(
        self,
        workers: Workers,
        link: Link,
        limits: PrefixCacheLimits,
        clock: Callable[[], float],
    ) -> None:
        self._workers = workers
        self._link = link
        self._clock = clock
        self._kept: PrefixCache[Place] = PrefixCache(limits, lambda place: place.is_alive)

    async def candidates(
        self, prompt_ids: Sequence[int], num_reserved_tokens: int
    ) -> AsyncGenerator[Place]:
        """Places that may grow to `num_reserved_tokens` positions, the best first.

        One whose prompt continues a kept session is that session; else there is a copy of what is
        shared with a kept one, then an empty place, then another after all that is kept was given
        up for it. Each is given as soon as the device's side is there, while the cloud is still
        asked for its own. Whoever asks for the next has told this one that it is `refused`; whoever
        begins there awaits `confirm`.

        Raises:
            CloudUnavailableError: no link.
        """
        self.expire()
        try:
            match = self._kept.find(prompt_ids, num_reserved_tokens)
            if match is not None and match.is_taken:
                match.place.num_cached_tokens = match.num_shared_tokens
                yield match.place
                return
            if match is not None:
                yield (copy := await self._fork(match, num_reserved_tokens))
                assert copy.refusal is not None
                _log.info("a prefix is uploaded again: %s", copy.refusal.reason)
            yield (place := await self._open(num_reserved_tokens))
            assert place.refusal is not None
            if place.refusal.code in _NO_ROOM and self.clear():
                yield await self._open(num_reserved_tokens)
        finally:
            # The cloud may have said that it stops: what is kept there is of no use any more.
            self.expire()

    async def confirm(self, place: Place) -> None:
        """Wait until the cloud has its side of a place too.

        Raises:
            CloudUnavailableError: it does not let the session begin.
            RemoteProtocolError: it holds another number of tokens than was asked for.
        """
        if place.is_kept:
            return
        cached, expected = await place.stream.opened(), place.num_cached_tokens
        if cached != expected:
            reason = f"expected {expected} cached tokens, got {cached}"
            raise RemoteProtocolError(FaultCode.POSITION_MISMATCH, reason)
        origin, place.supersedes = place.supersedes, None
        if origin is not None and self._kept.remove(origin):
            origin.release()

    def keep(self, place: Place, text: Sequence[int], next_epoch: int) -> None:
        """Take back the place of a finished generation, whose caches begin with `text`."""
        place.is_kept, place.next_epoch = True, next_epoch
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

    async def _open(self, num_reserved_tokens: int) -> Place:
        place = Place(self._workers, self._link, self._link.open(num_reserved_tokens))
        await place.make_sequence(lambda engine: engine.open())
        return place

    async def _fork(self, match: Match[Place], num_reserved_tokens: int) -> Place:
        """A copy of the shared prefix; its origin goes if most of it was shared."""
        origin, num_shared = match.place, match.num_shared_tokens
        stream = self._link.open(num_reserved_tokens, origin.stream, num_shared)
        place = Place(self._workers, self._link, stream, num_shared)
        if match.is_superseded:
            place.supersedes = origin
        sequence = origin.sequence
        await place.make_sequence(lambda engine: engine.fork(sequence, num_shared))
        return place
