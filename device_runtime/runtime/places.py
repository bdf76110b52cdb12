"""Which places a generation may begin in, those that finished ones have left among them."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence

import numpy as np

from device_runtime.engines.engine import Workers
from device_runtime.link.link import Link
from device_runtime.link.session import LinkLostError, SessionRefusedError
from device_runtime.runtime.place import Place
from device_runtime.session.prefix_cache import Kept, Match, PrefixCache, PrefixCacheLimits
from wire.errors import FaultCode

_log = logging.getLogger(__name__)

_KEEP_SHARE = 0.8
"""Idle sessions end after this share of the cloud's own patience, so the cloud never ends one."""

_NO_ROOM = frozenset({FaultCode.CAPACITY, FaultCode.TOO_MANY_SESSIONS})


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
        shared with a kept one; then an empty place, and another after all that is kept was given
        up for it. A kept session whose connection is gone is taken up by its key. Each is given as
        soon as the device's side is there, while the cloud is still asked for its own. Whoever asks
        for the next has told this one that it is `refused`; whoever begins there awaits `confirm`.

        Raises:
            CloudUnavailableError: no link.
        """
        self.expire()
        try:
            match = self._kept.find(prompt_ids, num_reserved_tokens)
            if match is not None:
                yield (place := await self._begun_from(match, num_reserved_tokens))
                assert place.refusal is not None
                _log.info("a prefix is uploaded again: %s", place.refusal.reason)
                await self._drop_if_lost(match.place)
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
            CloudUnavailableError: it does not let the session begin, or has lost what was kept.
            RemoteProtocolError: a new session holds another number of tokens than was asked for.
        """
        await place.confirm()
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
        self._put(Kept(ids, place.stream.max_tokens, place, now + idle_s))
        asyncio.get_running_loop().call_later(idle_s + 0.01, self.expire)

    def _put(self, kept: Kept[Place]) -> None:
        for dropped in self._kept.keep(kept, self._clock()):
            dropped.release()

    def leave(self, place: Place, prompt_ids: Sequence[int]) -> None:
        """Take back a place whose link was lost before anything began there.

        What was kept in it is still so, as far as the prompt continued it.
        """
        if place.is_kept:
            self.keep(place, prompt_ids[: place.num_cached_tokens], place.next_epoch)
        else:
            place.release()

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

    async def _begun_from(self, match: Match[Place], num_reserved_tokens: int) -> Place:
        """A kept place itself, or a copy of it.

        Raises:
            CloudUnavailableError: no link; what is kept stays so.
        """
        if not match.is_taken:
            return await self._fork(match, num_reserved_tokens)
        place = match.place
        place.num_cached_tokens = match.num_shared_tokens
        try:
            place.take_up()
        except LinkLostError:
            self._put(match.kept)
            raise
        return place

    async def _fork(self, match: Match[Place], num_reserved_tokens: int) -> Place:
        """A copy of the shared prefix; its origin goes if most of it was shared."""
        origin, num_shared = match.place, match.num_shared_tokens
        origin.num_cached_tokens = num_shared
        origin.take_up()
        stream = self._link.open(num_reserved_tokens, origin.stream, num_shared)
        place = Place(self._workers, self._link, stream, num_shared)
        if match.is_superseded:
            place.supersedes = origin
        sequence = origin.sequence
        await place.make_sequence(lambda engine: engine.fork(sequence, num_shared))
        return place

    async def _drop_if_lost(self, origin: Place) -> None:
        """Of a refused copy: give up what it was to be a copy of, if the cloud has lost it."""
        if origin.is_released:
            return
        try:
            await origin.confirm()
        except SessionRefusedError:
            if self._kept.remove(origin):
                origin.release()
