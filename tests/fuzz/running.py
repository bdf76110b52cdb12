"""Runs a target many times: by chance and a seed, or led by what of the code has been reached."""

import importlib
import itertools
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

TARGETS = ("decode", "core", "device", "http", "plan", "headers", "bundle")
INSTRUMENTED = ("wire", "cloud_server.core", "device_runtime", "chunking", "process.listening")
LENGTHS = (30, 100, 400, 1500)
"""Of the byte strings that chance draws."""

_WARM_RUNS = 1000
"""After so many, what is loaded once is loaded."""


class Target(Protocol):
    """A module of this folder."""

    def check(self, data: bytes) -> int:
        """Raises when something does not hold; how many frames or bodies there were."""
        ...

    def seeds(self) -> list[bytes]:
        """Byte strings that lead far."""
        ...

    def mutated(self, data: bytes) -> bytes:
        """What to check where `data` is drawn by chance."""
        ...


def load(name: str) -> Target:
    """A target by its name."""
    return cast(Target, importlib.import_module(f"tests.fuzz.{name}"))


@dataclass
class Tally:
    """What was run until now, and the memory that it took."""

    num_runs: int = 0
    num_frames: int = 0
    warm_bytes: int = 0
    """Of this process, once warm."""

    def add(self, num_frames: int) -> None:
        """One run is over."""
        self.num_runs += 1
        self.num_frames += num_frames
        if self.num_runs == _WARM_RUNS:
            self.warm_bytes = resident_bytes()

    def line(self, seconds: float) -> str:
        """For people."""
        now = resident_bytes()
        warm = self.warm_bytes or now
        return (
            f"{self.num_runs:,} runs, {self.num_frames:,} frames in {seconds:.0f} s; "
            f"memory {warm >> 10:,} KiB, now {now >> 10:,} KiB"
        )


def resident_bytes() -> int:
    """Memory of this process; 0 where the system does not say so."""
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * 4096 if path.is_file() else 0


def by_chance(seed: int) -> Iterator[bytes]:
    """Byte strings without end, the same for the same seed."""
    chance = random.Random(seed)
    while True:
        yield chance.randbytes(chance.choice(LENGTHS))


def run_plain(
    target: Target, seed: int, num_runs: int | None, goes_on: Callable[[], bool] = lambda: True
) -> Tally:
    """Check the seeds, and then what chance draws.

    Raises:
        FoundError: something did not hold.
    """
    tally = Tally()
    drawn = (target.mutated(data) for data in by_chance(seed))
    for data in itertools.islice(itertools.chain(target.seeds(), drawn), num_runs):
        if not goes_on():
            break
        try:
            tally.add(target.check(data))
        except Exception as error:
            raise FoundError(data) from error
    return tally


def until(seconds: float) -> Callable[[], bool]:
    """Whether so much time has not passed yet."""
    end_s = time.monotonic() + seconds
    return lambda: time.monotonic() < end_s


class FoundError(Exception):
    """Something did not hold; `data` is what showed it."""

    def __init__(self, data: bytes) -> None:
        super().__init__(f"{len(data)} bytes show a fault")
        self.data = data
