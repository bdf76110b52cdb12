"""Which places a generation may begin in, those that finished ones have left among them."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence

import numpy as np

from chunking.estimates import UNKNOWN, Estimates
from device_runtime.engines.engine import Workers
from device_runtime.link.link import Link
from device_runtime.link.session import LinkLostError, SessionRefusedError
from device_runtime.runtime.place import Place
from device_runtime.session.prefix_cache import Kept, Match, PrefixCache, PrefixCacheLimits
from device_runtime.session.running_texts import Run, RunningTexts, Share, pays_to_wait
from wire.errors import FaultCode
from wire.messages import Dtype

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
        known: Callable[[Dtype], Estimates] = lambda _: UNKNOWN,
    ) -> None:
        self._workers = workers
        self._link = link
        self._clock = clock
        self._known = known
        self._limits = limits
        self._kept: PrefixCache[Place] = PrefixCache(limits, lambda place: place.is_alive)
        self._changed = asyncio.Event()
        self._running: RunningTexts[Place] = RunningTexts(
            lambda place: place.stream.is_live, self._changed.set
        )

    async def candidates(
        self, prompt_ids: Sequence[int], num_reserved_tokens: int
    ) -> AsyncGenerator[Place]:
        """Places that may grow to `num_reserved_tokens` positions, the best first.

        One whose prompt continues a kept session is that session; else there is a copy of what is
        shared with a kept or a running one, which is waited for where that takes less time than to
        send it; then an empty place, and another after all that is kept was given
        up for it. A kept session whose connection is gone is taken up by its key. Each is given as
        soon as the device's side is there, while the cloud is still asked for its own. Whoever asks
        for the next has told this one that it is `refused`; whoever begins there awaits `confirm`.

        Raises:
            CloudUnavailableError: no link.
        """
        self.expire()
        source = await self._source(prompt_ids, num_reserved_tokens)
        run = self._running.begin(prompt_ids)
        try:
            if source is not None:
                yield (place := await self._begun_from(source, num_reserved_tokens, run))
                assert place.refusal is not None
                _log.info("a prefix is uploaded again: %s", place.refusal.reason)
                await self._drop_if_lost(source)
            yield (place := await self._open(num_reserved_tokens, run))
            assert place.refusal is not None
            if place.refusal.code in _NO_ROOM and self.clear():
                yield await self._open(num_reserved_tokens, run)
        finally:
            if run.place is None or run.place.is_released:
                run.end()
            # The cloud may have said that it stops: what is kept there is of no use any more.
            self.expire()

    async def confirm(self, place: Place) -> None:
        """Wait until the cloud has its side of a place too.

        Raises:
            CloudUnavailableError: it does not let the session begin, or has lost what was kept.
            RemoteProtocolError: a new session holds another number of tokens than was asked for.
        """
        await place.confirm()
        if place.run is not None:
            place.run.settle(place.num_cached_tokens)
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
        place.end_run()
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

    async def _source(
        self, prompt_ids: Sequence[int], num_reserved_tokens: int
    ) -> Match[Place] | Share[Place] | None:
        """What shares most of the prompt, once that can be copied; None if nothing does.

        Whoever is waited for has its place and its turn already, so nobody waits in a circle.
        """
        while self._limits.max_sessions > 0:
            num_kept = self._kept.num_shared_tokens(prompt_ids)
            share = self._running.longest(prompt_ids)
            if share is None or share.num_shared_tokens <= num_kept:
                break
            num_ready = share.num_ready_tokens
            if self._pays_to_wait(share, share.num_shared_tokens - max(num_ready, num_kept)):
                await self._decided(share)
                continue
            if num_ready > num_kept and num_ready >= self._limits.min_shared_tokens:
                return share
            break
        return self._kept.find(prompt_ids, num_reserved_tokens)

    def _pays_to_wait(self, share: Share[Place], num_missing_tokens: int) -> bool:
        if num_missing_tokens <= 0 or share.num_shared_tokens < self._limits.min_shared_tokens:
            return False
        place = share.run.place
        known = UNKNOWN if place is None else self._known(place.stream.dtype)
        return pays_to_wait(num_missing_tokens, known)

    async def _decided(self, share: Share[Place]) -> None:
        """Wait until a running generation has cached what is shared with it, or will not."""
        while not share.is_decided:
            self._changed.clear()
            await self._changed.wait()

    async def _open(self, num_reserved_tokens: int, run: Run[Place]) -> Place:
        place = Place(self._workers, self._link, self._link.open(num_reserved_tokens))
        place.run, run.place = run, place
        await place.make_sequence(lambda engine: engine.open())
        return place

    async def _begun_from(
        self, source: Match[Place] | Share[Place], num_reserved_tokens: int, run: Run[Place]
    ) -> Place:
        """A kept place itself, or a copy of what a kept or a running one shares.

        Raises:
            CloudUnavailableError: no link; what is kept stays so.
        """
        if isinstance(source, Share):
            origin = source.run.place
            assert origin is not None, "its replies have come"
            return await self._fork(origin, source.num_ready_tokens, num_reserved_tokens, run)
        kept = source.place
        kept.num_cached_tokens = source.num_shared_tokens
        try:
            kept.take_up()
        except LinkLostError:
            if source.is_taken:
                self._put(source.kept)
            raise
        if source.is_taken:
            kept.run, run.place = run, kept
            return kept
        copy = await self._fork(kept, source.num_shared_tokens, num_reserved_tokens, run)
        if source.is_superseded:
            copy.supersedes = kept
        return copy

    async def _fork(
        self, origin: Place, num_shared: int, num_reserved_tokens: int, run: Run[Place]
    ) -> Place:
        """A copy of a shared prefix."""
        stream = self._link.open(num_reserved_tokens, origin.stream, num_shared)
        place = Place(self._workers, self._link, stream, num_shared)
        place.run, run.place = run, place
        sequence = origin.sequence
        await place.make_sequence(lambda engine: engine.fork(sequence, num_shared))
        return place

    async def _drop_if_lost(self, source: Match[Place] | Share[Place]) -> None:
        """Of a refused copy: give up what it was to be a copy of, if the cloud has lost it."""
        if isinstance(source, Share) or source.place.is_released:
            return
        try:
            await source.place.confirm()
        except SessionRefusedError:
            if self._kept.remove(source.place):
                source.place.release()
