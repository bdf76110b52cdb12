"""A page that costs work and that anybody may ask for, at a bounded share of the time."""

import asyncio
from collections.abc import Callable

from process.world import Clock

_SHARE = 0.1


class Paced:
    """Makes a page for all who have asked since the last one, and then pauses.

    Making takes at most a tenth of the time, however many ask. Nobody gets a page that is older
    than his question.
    """

    def __init__(self, make: Callable[[], bytes], clock: Clock) -> None:
        self._clock = clock
        self._make = make
        self._next: asyncio.Task[bytes] | None = None
        self._free_s = 0.0

    async def page(self) -> bytes:
        """A page made after this was called."""
        if self._next is None:
            self._next = asyncio.create_task(self._make_next())
        return await asyncio.shield(self._next)

    async def _make_next(self) -> bytes:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._free_s - loop.time()))
        # Who asks from now on waits for the one after this.
        self._next = None
        # The loop's own clock may stand still while one callback runs.
        begun_s = self._clock()
        page = self._make()
        taken_s = self._clock() - begun_s
        self._free_s = loop.time() + taken_s / _SHARE
        return page
