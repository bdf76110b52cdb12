"""A generation's bounded wait for a cloud that went away."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from device_runtime.generation.request import CloudUnavailableError
from device_runtime.link.link import Link
from device_runtime.link.refusals import retry_delay_s
from device_runtime.link.session import LinkLostError, SessionRefusedError, SessionSilentError
from process.world import Clock, Randomness
from wire.errors import FaultCode

MAX_RECOVERIES = 8
"""In a row without any progress. What breaks its cloud each time it runs must end."""

_MAX_ANNOUNCED_S = 900.0
"""However long a cloud says that it will be gone, or is too busy."""

_SLEPT_S = 10.0
"""A timer that is so late was not late: the machine slept."""

_HEALED_BY_REPLAY = frozenset({FaultCode.UNKNOWN_SESSION, FaultCode.POSITION_MISMATCH})
"""A session that the cloud ended for these can be opened again at once."""

T = TypeVar("T")


class Outage:
    """One generation's patience; `timeout_s` bounds the waits for a link between two answers.

    A cloud that says how long it will be gone, such as one that loads its engine again, is waited
    for that much longer; one that is too busy is not gone, and is waited for as long as any cloud
    may announce. `clock` is monotonic, in seconds.
    """

    def __init__(self, link: Link, timeout_s: float, clock: Clock, randomness: Randomness) -> None:
        self._link = link
        self._timeout_s = timeout_s
        self._clock = clock
        self._randomness = randomness
        self._left_s: float | None = None
        self._busy_since_s: float | None = None
        self._num_recoveries = self._num_busy = self._most_cached_tokens = 0

    def answered(self) -> None:
        """The cloud has replied: the next stretch begins anew."""
        self._left_s = None

    def advanced(self) -> None:
        """Tokens were decided: this generation gets on."""
        self._num_recoveries = self._num_busy = self._most_cached_tokens = 0
        self._busy_since_s = None

    def reopened(self, num_cached_tokens: int) -> None:
        """The session is there again; with more cached than ever since tokens were decided, it
        gets on as well: a long replay over a bad link arrives in the end."""
        if num_cached_tokens > self._most_cached_tokens:
            self.advanced()
            self._most_cached_tokens = num_cached_tokens

    async def over(self, failure: CloudUnavailableError, attempt: Callable[[], Awaitable[T]]) -> T:
        """What `attempt` gives, tried until it succeeds, first once the link is up again.

        Every recovery without progress since the one before it waits longer.

        Raises:
            CloudUnavailableError: the failure, or one of an attempt, does not heal by trying
                again; or it took too long, or happened too often.
        """
        num_failed = 0
        self._take_in(failure)
        while self._heals(failure) and self._num_recoveries <= MAX_RECOVERIES:
            await self._wait(failure, num_failed)
            try:
                return await attempt()
            except CloudUnavailableError as error:
                num_failed += 1
                failure = error
                if not isinstance(failure, LinkLostError):
                    self._take_in(failure, is_first=False)
        raise failure

    def _heals(self, failure: CloudUnavailableError) -> bool:
        """Whether to wait; nobody is kept waiting for the next day's tokens."""
        is_far = failure.is_quota and failure.retry_after_s > self._timeout_s
        return heals_by_retry(failure) and not is_far

    def _take_in(self, failure: CloudUnavailableError, is_first: bool = True) -> None:
        """Count a failure, and begin its patience, or prolong it where the cloud is only busy."""
        now = self._clock()
        if _is_busy(failure):
            self._num_busy += 1
            self._busy_since_s = self._busy_since_s or now
            if now - self._busy_since_s < _MAX_ANNOUNCED_S:
                self._left_s = None
        elif is_first or isinstance(failure, SessionSilentError):
            self._num_recoveries += 1
        if self._left_s is None:
            self._left_s = self._timeout_s + self._announced_s(failure)

    async def _wait(self, failure: CloudUnavailableError, num_failed: int) -> None:
        """Return when the time for an attempt has come and there is a link.

        Only what passes here is a wait for a link: neither the attempts nor what comes between
        them, when there is one.

        Raises:
            CloudUnavailableError: that took too long.
        """
        while self._left_s:
            began_s, left_s = self._clock(), self._left_s
            try:
                async with asyncio.timeout(left_s):
                    await asyncio.sleep(self._pause_s(failure, num_failed))
                    await self._link.connected()
                self._left_s = max(0.0, left_s - (self._clock() - began_s))
                return
            except TimeoutError:
                has_slept = self._clock() - began_s - left_s >= _SLEPT_S
                self._left_s = self._timeout_s if has_slept else 0.0
        raise self._too_long(failure) from failure

    def _pause_s(self, failure: CloudUnavailableError, num_failed: int) -> float:
        """Seconds before the next attempt; a lost link, or one that is left, has its own pace."""
        num_vain = max(0, self._num_recoveries + self._num_busy - 1) + num_failed
        if not isinstance(failure, SessionRefusedError) or _is_draining(failure):
            return self._doubling_s(num_vain - 1) if num_vain else 0.0
        if num_vain == 0 and failure.code in _HEALED_BY_REPLAY:
            return 0.0
        announced_s = failure.retry_after_s if failure.may_retry else 0.0
        return max(self._doubling_s(num_vain), announced_s)

    def _doubling_s(self, num_vain: int) -> float:
        patience, draw = self._link.patience, self._randomness.random()
        return retry_delay_s(num_vain, draw, patience.min_retry_s, patience.max_retry_s)

    def _announced_s(self, failure: CloudUnavailableError) -> float:
        """Seconds that the cloud asked for, unless this generation waits for nothing."""
        is_announced = isinstance(failure, SessionRefusedError) and failure.may_retry
        if not is_announced or self._timeout_s == 0:
            return 0.0
        return min(failure.retry_after_s, _MAX_ANNOUNCED_S)

    def _too_long(self, failure: CloudUnavailableError) -> CloudUnavailableError:
        if self._timeout_s == 0:
            return failure
        reason = self._link.status.reason or failure.reason
        waited = f"waited {self._timeout_s:g} s for the cloud to come back"
        return CloudUnavailableError(f"{waited}: {reason}", failure.retry_after_s)


def heals_by_retry(failure: CloudUnavailableError) -> bool:
    """Whether the same session may work once it is opened again."""
    if not isinstance(failure, SessionRefusedError):
        return isinstance(failure, LinkLostError | SessionSilentError)
    return failure.code in _HEALED_BY_REPLAY or failure.may_retry or _is_draining(failure)


def heals_by_reconnecting(failure: CloudUnavailableError) -> bool:
    """Whether what was to begin can begin again: on another connection, or once it is heard.

    A new session whose frames do not follow each other has lost one of them on the way.
    """
    if not isinstance(failure, SessionRefusedError):
        return isinstance(failure, LinkLostError | SessionSilentError)
    return failure.code is FaultCode.POSITION_MISMATCH or _is_draining(failure)


def _is_draining(failure: CloudUnavailableError) -> bool:
    """Its cloud stops; the link leaves it for another, or for the same one once it is back."""
    return isinstance(failure, SessionRefusedError) and failure.code is FaultCode.DRAINING


def _is_busy(failure: CloudUnavailableError) -> bool:
    """Its cloud lives and has more to do than it gets done."""
    if not isinstance(failure, SessionRefusedError):
        return False
    return failure.code is FaultCode.DEADLINE_EXCEEDED and failure.may_retry
