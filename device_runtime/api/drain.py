"""Stopping without breaking answers: admit no more, let what runs finish, then cut it off."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from device_runtime.api.errors import ApiError, unavailable

# Cancelling is a matter of milliseconds; a generation that does not end then never will.
_CANCEL_TIMEOUT_S = 5.0


class Drain:
    """Counts the requests in progress and knows when no more may begin."""

    def __init__(self) -> None:
        self.is_draining = False
        self._is_expired = False
        self._tasks: set[asyncio.Task[object]] = set()
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    @contextmanager
    def request(self) -> Iterator[None]:
        """Hold the server up while a request is in progress; only in a task of its own.

        Raises:
            ApiError: 503, the server is stopping; before the request or after waiting for it.
        """
        if self.is_draining:
            raise self.refusal()
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._is_idle.clear()
        try:
            yield
        except asyncio.CancelledError:
            if not self._is_expired:
                raise
            task.uncancel()
            raise self.refusal() from None
        finally:
            self._tasks.discard(task)
            if not self._tasks:
                self._is_idle.set()

    async def finish(self, timeout_s: float) -> bool:
        """Admit no more and wait for the rest; whether all finished by themselves.

        What is still running after `timeout_s` is cancelled and told that the server stops.
        """
        self.is_draining = True
        try:
            async with asyncio.timeout(timeout_s):
                await self._is_idle.wait()
        except TimeoutError:
            self._is_expired = True
            for task in self._tasks:
                task.cancel()
            with suppress(TimeoutError):
                async with asyncio.timeout(_CANCEL_TIMEOUT_S):
                    await self._is_idle.wait()
            return False
        return True

    def refusal(self) -> ApiError:
        """What a request is told while the server stops."""
        return unavailable("the server is shutting down", "draining", retry_after_s=5.0)
