"""What a program does not decide itself: the time and chance. Shells are given both.

Only a `main.py` takes them from the system, so that everything below runs as well on a
`process.virtual_loop.VirtualLoop`, whose `time` is the clock, with a seeded `random.Random`.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

Clock = Callable[[], float]
"""Seconds; monotonic where nothing else is said."""


_T = TypeVar("_T")


class Aside(Protocol):
    """What `asyncio.to_thread` does with one call: has it made without holding up the loop."""

    def __call__(self, call: Callable[[], _T], /) -> Awaitable[_T]:
        """Its result, or what it raised."""
        ...


class Randomness(Protocol):
    """What `random.SystemRandom` gives, and `random.Random(seed)` the same each time."""

    def random(self) -> float:
        """In [0, 1), evenly."""
        ...

    def getrandbits(self, k: int, /) -> int:
        """In [0, 2**k), evenly."""
        ...

    def randbytes(self, n: int, /) -> bytes:
        """So many bytes; from the system's source nobody can guess them."""
        ...


@dataclass(frozen=True, slots=True)
class World:
    """What a whole program is given."""

    clock: Clock
    """Monotonic, and on the same scale as the event loop's `time`.

    It must move within one turn of the loop, as `time.monotonic` does and uvloop's own `time` does
    not: by such a clock the cloud's `DeviceSocket` measures what a frame costs, else it counts 0.
    """
    unix_clock: Clock
    """Seconds since 1970."""
    randomness: Randomness
