"""A device under virtual time: what `Runtime` and `Places` do around a generation."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TypeVar

import numpy as np

from bench.sim.acceptance import Guesses, Text
from bench.sim.device_engine import SimEngine
from bench.sim.device_link import DeviceLink, SimStream
from bench.sim.kernel import Kernel, Process, Turnstile
from bench.sim.times import Overheads
from device_runtime.config import DeviceConfig
from device_runtime.engines.engine import SequenceId
from device_runtime.generation.request import CloudUnavailableError
from device_runtime.link.refusals import heals_by_replay, retry_delay_s
from device_runtime.link.session import SessionRefusedError
from device_runtime.session.prefix_cache import Kept, Match, PrefixCache, PrefixCacheLimits
from wire.errors import FaultCode

_KEEP_SHARE = 0.8
_MIN_SHARED_TOKENS = 16
_MIN_RETRY_S, _MAX_RETRY_S = 0.25, 5.0
_NO_ROOM = frozenset({FaultCode.CAPACITY, FaultCode.TOO_MANY_SESSIONS})
"""The runtime's own figures (`device_runtime`: places, runtime, outage)."""

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Place:
    """Both caches of one session."""

    stream: SimStream
    sequence: SequenceId
    next_epoch: int = 1
    bytes_before: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Found:
    """A place for a prompt, of which the first `num_cached_tokens` are already there."""

    place: Place
    num_cached_tokens: int


class Device:
    """Everything that a device's generations share."""

    def __init__(
        self,
        kernel: Kernel,
        link: DeviceLink,
        engine: SimEngine,
        config: DeviceConfig,
        overheads: Overheads,
        draws: Random,
    ) -> None:
        self.kernel = kernel
        self.link = link
        self.engine = engine
        self.config = config
        self.overheads = overheads
        self.draws = draws
        self.places = Turnstile(kernel, config.max_num_seqs)
        self._engine_turn = Turnstile(kernel)
        self._kept: PrefixCache[Place] | None = None

    def run(self, work: Callable[[SimEngine], T]) -> Process[T]:
        """Have work done on the engine's thread, and wait as long as it takes."""
        yield from self._engine_turn.enter()
        result = work(self.engine)
        spent_s = self.engine.take_spent_s() + self.overheads.thread_s
        if spent_s:
            yield spent_s
        self._engine_turn.leave()
        return result

    @property
    def max_context_tokens(self) -> int:
        """The most tokens of prompt and output together."""
        assert self.link.limits is not None, "connected before the first request"
        return self.link.limits.max_context_tokens

    def find_place(
        self,
        text: Text,
        guesses: Guesses,
        num_reserved: int,
        begin: Callable[[Found], Process[T]],
    ) -> Process[T]:
        """What `begin` makes of caches on both sides, those of an earlier turn where they fit.

        It is called while the cloud is still asked for its side; all is retried while refused.

        Raises:
            CloudUnavailableError: the cloud has had no room for `reconnect_timeout_s`.
        """
        until_s = self.kernel.now + self.config.reconnect_timeout_s
        num_refusals = 0
        while True:
            try:
                return (yield from self._find_once(text, guesses, num_reserved, begin))
            except SessionRefusedError as failure:
                pause_s = self.pause_s(failure, num_refusals)
                if pause_s is None or self.kernel.now + pause_s >= until_s:
                    raise
                num_refusals += 1
                yield pause_s

    def pause_s(self, failure: CloudUnavailableError, num_refusals: int) -> float | None:
        """Seconds before a refused session is asked for again; None when that would not help."""
        if not isinstance(failure, SessionRefusedError):
            return None
        if heals_by_replay(failure.code) and num_refusals == 0:
            return 0.0
        if not (failure.may_retry or heals_by_replay(failure.code)):
            return None
        backoff_s = retry_delay_s(num_refusals, self.draws.random(), _MIN_RETRY_S, _MAX_RETRY_S)
        return max(backoff_s, failure.retry_after_s if failure.may_retry else 0.0)

    def keep(self, place: Place, text: Text, num_valid_tokens: int, next_epoch: int) -> None:
        """Take back a finished generation's place."""
        place.next_epoch = next_epoch
        place.bytes_before = (place.stream.bytes_up, place.stream.bytes_down)
        if not place.stream.is_live or not self.config.kept_sessions:
            self.release(place)
            return
        assert self.link.limits is not None, "a place was found"
        idle_s = _KEEP_SHARE * self.link.limits.session_ttl_s
        now = self.kernel.now
        ids = np.arange(num_valid_tokens, dtype=np.int64) + text.prompt_ids[0]
        kept = Kept(ids, place.stream.request.max_tokens, place, now + idle_s)
        for dropped in self._cache.keep(kept, now):
            self.release(dropped)
        self.kernel.after(idle_s + 0.01, self._expire)

    def release(self, place: Place) -> None:
        """Free both sides."""
        self.link.close(place.stream)
        self.engine.release(place.sequence)

    @property
    def _cache(self) -> PrefixCache[Place]:
        if self._kept is None:
            limits = PrefixCacheLimits(
                self.config.kept_sessions, 2 * self.max_context_tokens, _MIN_SHARED_TOKENS
            )
            self._kept = PrefixCache(limits, lambda place: place.stream.is_live)
        return self._kept

    def _find_once(
        self,
        text: Text,
        guesses: Guesses,
        num_reserved: int,
        begin: Callable[[Found], Process[T]],
    ) -> Process[T]:
        self._expire()
        match: Match[Place] | None = self._cache.find(text.prompt_ids, num_reserved)
        if match is not None and match.is_taken:
            self.engine.go_on(match.place.sequence, guesses)
            return (yield from begin(Found(match.place, match.num_shared_tokens)))
        # Forks of a common beginning are not simulated: such a prompt goes up again.
        try:
            return (yield from self._open(guesses, num_reserved, begin))
        except SessionRefusedError as error:
            kept = self._cache.clear()
            if error.code not in _NO_ROOM or not kept:
                raise
            for place in kept:
                self.release(place)
        return (yield from self._open(guesses, num_reserved, begin))

    def _open(
        self, guesses: Guesses, num_reserved: int, begin: Callable[[Found], Process[T]]
    ) -> Process[T]:
        stream = self.link.open(num_reserved)
        place = Place(stream, self.engine.open(guesses))
        try:
            begun = yield from begin(Found(place, 0))
            if not stream.is_opened:
                yield from stream.until(lambda: stream.is_opened)
        except CloudUnavailableError:
            self.release(place)
            raise
        return begun

    def _expire(self) -> None:
        for place in self._cache.expire(self.kernel.now):
            self.release(place)
