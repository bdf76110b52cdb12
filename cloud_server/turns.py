"""How long one socket may keep the event loop with frames that are already there."""

import asyncio
from collections.abc import Callable

_MAX_FRAMES = 32
_MAX_S = 0.002
"""Some twenty one-row frames; a frame of a prompt may take longer by itself."""


class Turns:
    """Gives the loop to others after so many frames or so much time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._num_frames = 0
        self._begun_s = clock()

    async def take(self) -> None:
        """One more frame was dealt with."""
        self._num_frames += 1
        if self._num_frames >= _MAX_FRAMES or self._clock() - self._begun_s >= _MAX_S:
            await asyncio.sleep(0)
            self._num_frames = 0
            self._begun_s = self._clock()
