"""Which places a generation may begin in, those that finished ones have left among them."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence

import numpy as np

from chunking.estimates import UNKNOWN, Estimates
from device_runtime.engines.engine import Workers
from device_runtime.link.link import Link
from device_runtime.link.session import SessionName, SessionRefusedError
from device_runtime.runtime.place import Place, Remembered
from device_runtime.runtime.shelf import Shelf
from device_runtime.session.kept_text import KeptText, packed_ids
from device_runtime.session.prefix_cache import Kept, Match, PrefixCache, PrefixCacheLimits
from device_runtime.session.running_texts import Run, RunningTexts, Share, pays_to_wait
from wire.errors import FaultCode
from wire.messages import Dtype

_log = logging.getLogger(__name__)

_KEEP_SHARE = 0.8
"""Idle sessions end after this share of the cloud's own patience, so the cloud never ends one."""

_NO_ROOM = frozenset({FaultCode.CAPACITY, FaultCode.TOO_MANY_SESSIONS})
_SOON_S = 60.0
"""A quota that gives more only later than that is not one of what is held."""


class Places:
    """Opens places, and keeps those of finished generations for the next turn."""

    def __init__(
        self,
        workers: Workers,
        link: Link,
        limits: PrefixCacheLimits,
        clock: Callable[[], float],
        known: Callable[[Dtype], Estimates] = lambda _: UNKNOWN,
        shelf: Shelf | None = None,
    ) -> None:
        self._workers = workers
        self._link = link
        self._clock = clock
        self._known = known
        self._limits = limits
        self._kept: PrefixCache[Place] = PrefixCache(limits, lambda place: place.is_alive)
        self._changed = asyncio.Event()
        self._running: RunningTexts[Place] = RunningTexts(
            lambda place: place.is_live, self._changed.set
        )
        self._shelf = shelf
        self._preparing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def are_written(self) -> bool:
        """Whether kept sessions may outlive the program."""
        return self._shelf is not None

    async def candidates(
        self, prompt_ids: Sequence[int], num_reserved_tokens: int, *, goes_up_whole: bool = False
    ) -> AsyncGenerator[Place]:
        """Places that may grow to `num_reserved_tokens` positions, the best first.

        One whose prompt continues a kept session is that session; else there is a copy of what is
        shared with a kept or a running one, which is waited for where that takes less time than to
        send it; then an empty place, and others as long as what is kept can be given up for them,
        half of it each time. A kept session whose connection is gone is taken up by its key. Each
        is given as soon as the device's side is there, while the cloud is still asked for its own.
        Whoever asks for the next has told this one that it is `refused`; whoever begins there
        awaits `confirm`. Of a prompt that `goes_up_whole` nothing is looked for.

        Raises:
            CloudUnavailableError: no link.
        """
        self.expire()
        source = None
        if not goes_up_whole:
            source = await self._source(prompt_ids, num_reserved_tokens)
        run = self._running.begin(prompt_ids)
        try:
            if source is not None:
                begun = await self._begun_from(source, num_reserved_tokens, run)
                if begun is not None:
                    yield begun
                    assert begun.refusal is not None
                    _log.info("a prefix is uploaded again: %s", begun.refusal.reason)
                await self._drop_if_lost(source)
            yield (place := await self._open(num_reserved_tokens, run))
            assert place.refusal is not None
            while _is_full(place.refusal) and self._give_up_older_half():
                yield (place := await self._open(num_reserved_tokens, run))
                assert place.refusal is not None
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
            self._give_up(origin)

    def keep(
        self, place: Place, text: Sequence[int], next_epoch: int, is_remembered: bool = True
    ) -> None:
        """Take back the place of a finished generation, whose caches begin with `text`.

        It may outlive the program if it `is_remembered`.
        """
        place.is_kept, place.next_epoch = True, next_epoch
        place.is_written = is_remembered and self._shelf is not None
        place.continued()
        place.carried_before = place.stream.carried
        if not place.is_alive or self._link.limits is None:
            place.release()
            return
        idle_s = _KEEP_SHARE * self._link.limits.session_ttl_s
        now = self._clock()
        ids = np.asarray(text, dtype=np.int64)
        self._put(Kept(ids, place.name.max_tokens, place, now + idle_s))
        place.end_run()
        self._expire_in_time()

    def _put(self, kept: Kept[Place]) -> None:
        if kept.place.is_written:
            self._write(kept)
        for dropped in self._kept.keep(kept, self._clock()):
            self._give_up(dropped)

    def _write(self, kept: Kept[Place]) -> None:
        assert self._shelf is not None, "it is written there"
        unix_s = self._shelf.unix_clock()
        name = kept.place.name
        record = KeptText(
            identity=self._shelf.identity,
            key=name.key,
            max_tokens=name.max_tokens,
            token_ids=packed_ids(kept.text),
            used_unix_s=unix_s,
            expires_unix_s=unix_s + kept.expires_s - self._clock(),
        )
        self._shelf.put(record)

    def restore(self) -> None:
        """Keep what an earlier run of the program has left."""
        if self._shelf is None:
            return
        now, unix_s = self._clock(), self._shelf.unix_clock()
        for record in self._shelf.load():
            if len(record.ids) > self._workers.engine.max_context_tokens:
                # It was written with a longer context.
                self._shelf.drop(record.key)
                continue
            name = SessionName(record.key, record.max_tokens)
            place = Place(self._workers, self._link, Remembered(name, record.ids))
            place.is_kept = place.is_written = True
            left_s = record.expires_unix_s - unix_s
            kept = Kept(record.ids, record.max_tokens, place, now + left_s)
            for dropped in self._kept.keep(kept, now):
                self._give_up(dropped)
        self._expire_in_time()
        if len(self._kept):
            _log.info("%d kept sessions of an earlier run may be taken up", len(self._kept))
            self._preparing = asyncio.create_task(self._prepare(), name="kept sessions")

    async def _prepare(self) -> None:
        """Make the device's side of what was restored, while nobody wants anything else."""
        for place in reversed(self._kept.places):
            while not place.is_made and not place.is_released:
                await place.make_some(place.num_remembered_tokens)
                while len(self._running):
                    self._changed.clear()
                    await self._changed.wait()

    async def close(self) -> None:
        """Give up everything but what may outlive the program, which the cloud keeps."""
        if self._timer is not None:
            self._timer.cancel()
        if self._preparing is not None:
            self._preparing.cancel()
            await asyncio.gather(self._preparing, return_exceptions=True)
        for place in self._kept.clear():
            if place.is_written:
                place.leave_to_cloud()
            else:
                place.release()
        if self._shelf is not None:
            await self._shelf.close()

    def leave(self, place: Place, prompt_ids: Sequence[int], is_remembered: bool = True) -> None:
        """Take back a place whose link was lost before anything began there.

        What was kept in it is still so, as far as the prompt continued it.
        """
        if place.is_kept:
            text = prompt_ids[: place.num_cached_tokens]
            self.keep(place, text, place.next_epoch, is_remembered)
        else:
            place.release()

    def expire(self) -> None:
        """Give up what was idle too long or lost its cloud side."""
        for place in self._kept.expire(self._clock()):
            self._give_up(place)

    def _expire_in_time(self) -> None:
        """Look again when the next one's time has come: one timer, however many are kept."""
        wait_s = self._kept.next_expiry_s - self._clock() + 0.01
        at_s = asyncio.get_running_loop().time() + wait_s
        if self._timer is not None and self._timer.when() <= at_s:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if len(self._kept):
            self._timer = asyncio.get_running_loop().call_at(at_s, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        self.expire()
        self._expire_in_time()

    def _give_up_older_half(self) -> bool:
        """Make room in the cloud; False when nothing is kept."""
        places = self._kept.drop_older_half()
        for place in places:
            self._give_up(place)
        return bool(places)

    def _give_up(self, place: Place) -> None:
        """A kept place is of use no longer."""
        place.release()
        if place.is_written and self._shelf is not None:
            self._shelf.drop(place.name.key)

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
    ) -> Place | None:
        """A kept place itself, or a copy of what a kept or a running one shares; None: it is gone.

        Raises:
            CloudUnavailableError: no link; what is kept stays so.
        """
        if isinstance(source, Share):
            origin = source.run.place
            assert origin is not None, "its replies have come"
            return await self._fork(origin, source.num_ready_tokens, num_reserved_tokens, run)
        if source.is_taken:
            return await self._continued(source, run)
        if not await self._is_usable(source):
            return None
        num_shared = source.num_shared_tokens
        copy = await self._fork(source.place, num_shared, num_reserved_tokens, run)
        if source.is_superseded:
            copy.supersedes = source.place
        return copy

    async def _continued(self, source: Match[Place], run: Run[Place]) -> Place | None:
        """The kept place that was taken, ready to go on; what was written of it is gone."""
        kept, num_shared = source.place, source.num_shared_tokens
        kept.num_cached_tokens = num_shared
        try:
            if kept.is_written and not await self._forgotten(kept):
                self._give_up(kept)
                return None
            kept.take_up()
            is_usable = await kept.make_again(num_shared)
        except BaseException:
            self._put(source.kept)
            raise
        if not is_usable:
            kept.release()
            return None
        kept.continued()
        kept.run, run.place = run, kept
        return kept

    async def _forgotten(self, place: Place) -> bool:
        """Whether no later run of the program will take it for what it is now."""
        assert self._shelf is not None, "it is written there"
        return await self._shelf.take(place.name.key)

    async def _is_usable(self, source: Match[Place]) -> bool:
        """Whether a kept place can be copied now; nobody else has it while it is made ready.

        Raises:
            CloudUnavailableError: no link; it stays kept.
        """
        origin = source.place
        origin.num_cached_tokens = source.num_shared_tokens
        origin.take_up()
        if origin.is_made:
            return True
        self._kept.remove(origin)
        try:
            is_there = await origin.make_again(source.num_shared_tokens)
        finally:
            self._put(source.kept)
        # Its time may have come meanwhile.
        return is_there and not origin.is_released

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
                self._give_up(source.place)


def _is_full(refusal: SessionRefusedError) -> bool:
    """Whether there would be room if less was held."""
    is_held = refusal.is_quota and refusal.may_retry and refusal.retry_after_s <= _SOON_S
    return refusal.code in _NO_ROOM or is_held
