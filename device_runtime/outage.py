"""A generation's bounded wait for a cloud that went away."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from device_runtime.generation import CloudUnavailableError
from device_runtime.link import Link
from device_runtime.link_session import LinkLostError, SessionRefusedError
from device_runtime.refusals import heals_by_replay, retry_delay_s
from wire.errors import FaultCode

MAX_RECOVERIES = 8
"""In a row without any progress. What breaks its cloud each time it runs must end."""

_MAX_ANNOUNCED_S = 900.0
"""However long a cloud says that it will be gone."""

_MIN_RETRY_S, _MAX_RETRY_S = 0.25, 5.0

T = TypeVar("T")


class Outage:
    """One generation's patience; `timeout_s` bounds every stretch without an answer.

    A cloud that says how long it will be gone, such as one that loads its engine again, is waited
    for that much longer. `clock` is monotonic, in seconds.
    """

    def __init__(self, link: Link, timeout_s: float, clock: Callable[[], float]) -> None:
        self._link = link
        self._timeout_s = timeout_s
        self._clock = clock
        self._deadline_s: float | None = None
        self._num_recoveries = 0

    def answered(self) -> None:
        """The cloud has replied: the next stretch begins anew."""
        self._deadline_s = None

    def advanced(self) -> None:
        """Tokens were decided, or more is cached than ever: this generation gets on."""
        self._num_recoveries = 0

    async def over(self, failure: CloudUnavailableError, attempt: Callable[[], Awaitable[T]]) -> T:
        """What `attempt` gives, tried until it succeeds, first once the link is up again.

        Raises:
            CloudUnavailableError: the failure, or one of an attempt, does not heal by trying
                again; or it took too long, or happened too often.
        """
        self._num_recoveries += 1
        if self._deadline_s is None:
            self._deadline_s = self._clock() + self._timeout_s + self._announced_s(failure)
        num_refusals = 0
        while heals_by_retry(failure) and self._num_recoveries <= MAX_RECOVERIES:
            remaining_s = self._deadline_s - self._clock()
            if remaining_s <= 0:
                raise self._too_long(failure) from failure
            try:
                async with asyncio.timeout(remaining_s):
                    await asyncio.sleep(_pause_s(failure, num_refusals))
                    await self._link.connected()
                    return await attempt()
            except TimeoutError:
                raise self._too_long(failure) from failure
            except CloudUnavailableError as error:
                num_refusals += isinstance(error, SessionRefusedError)
                failure = error
        raise failure

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
    match failure:
        case LinkLostError():
            return True
        case SessionRefusedError():
            return heals_by_replay(failure.code) or failure.may_retry or _is_draining(failure)
        case _:
            return False


def heals_by_reconnecting(failure: CloudUnavailableError) -> bool:
    """Whether what was to begin can begin on the link's next connection, which is on its way."""
    return isinstance(failure, LinkLostError) or _is_draining(failure)


def _is_draining(failure: CloudUnavailableError) -> bool:
    """Its cloud stops; the link leaves it for another, or for the same one once it is back."""
    return isinstance(failure, SessionRefusedError) and failure.code is FaultCode.DRAINING


def _pause_s(failure: CloudUnavailableError, num_refusals: int) -> float:
    """Seconds before the next attempt; a lost link, or one that is left, has its own pace."""
    if not isinstance(failure, SessionRefusedError) or _is_draining(failure):
        return 0.0
    if num_refusals == 0 and heals_by_replay(failure.code):
        return 0.0
    backoff_s = retry_delay_s(num_refusals, random.random(), _MIN_RETRY_S, _MAX_RETRY_S)
    return max(backoff_s, failure.retry_after_s if failure.may_retry else 0.0)
