"""What both processes hold while they run, and what of it is left."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.soak.programs import Footprint, Program

_EVERY_S = 2.0
_ENDED_S = 60.0
_LOOK_S = 0.5

LEFT_IN_CLOUD = (
    "hat_cloud_sessions",
    "hat_cloud_detached_sessions",
    "hat_cloud_connections",
    "hat_cloud_lanes",
    "hat_cloud_queued_tokens",
    "hat_cloud_kv_cache_usage_perc",
    "hat_cloud_host_cache_tokens",
)
LEFT_ON_DEVICE = ("hat_num_requests_running", "hat_num_requests_waiting")


@dataclass
class Watch:
    """Looks at a program every two seconds; what an earlier process held is forgotten."""

    program: Program
    samples: list[tuple[float, Footprint]] = field(default_factory=list)
    _pid: int = 0

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(_EVERY_S)

    def look(self) -> None:
        """Take a sample now."""
        found = self.program.footprint()
        if found is None:
            return
        if self.program.pid != self._pid:
            self._pid = self.program.pid
            self.samples.clear()
        self.samples.append((asyncio.get_running_loop().time(), found))

    def line(self) -> str:
        """For people: of the process that ran last."""
        if not self.samples:
            return f"{self.program.name}: not seen"
        first, last = self.samples[0][1], self.samples[-1][1]
        most = max(each.resident_kib for _, each in self.samples)
        minutes = (self.samples[-1][0] - self.samples[0][0]) / 60
        grown = slope_kib(self.samples)
        return (
            f"{self.program.name}, last process, {minutes:.1f} minutes: "
            f"memory {first.resident_kib:,} KiB, most {most:,}, last {last.resident_kib:,}, "
            f"{grown:+,.0f} KiB a minute over the last two thirds (MiB, in tenths of the time: "
            f"{', '.join(f'{each.resident_kib / 1024:.0f}' for each in self._tenths())}); "
            f"descriptors {first.num_descriptors} to {last.num_descriptors}, "
            f"threads {first.num_threads} to {last.num_threads}"
        )

    def _tenths(self) -> list[Footprint]:
        last = len(self.samples) - 1
        return [self.samples[last * tenth // 10][1] for tenth in range(11)]


def slope_kib(samples: Sequence[tuple[float, Footprint]]) -> float:
    """KiB a minute, by least squares over the last two thirds of the samples."""
    rest = samples[len(samples) // 3 :]
    if len(rest) < 2:
        return 0.0
    times = [(at_s - rest[0][0]) / 60 for at_s, _ in rest]
    sizes = [each.resident_kib for _, each in rest]
    mean_time, mean_size = sum(times) / len(times), sum(sizes) / len(sizes)
    spread = sum((each - mean_time) ** 2 for each in times)
    pairs = zip(times, sizes, strict=True)
    return (
        sum((at - mean_time) * (size - mean_size) for at, size in pairs) / spread if spread else 0.0
    )


async def left(
    program: Program, names: Sequence[str], within_s: float = _ENDED_S
) -> dict[str, float]:
    """Which of these metrics are not back to zero, within a while."""
    end_s = asyncio.get_running_loop().time() + within_s
    while True:
        page = await program.metrics()
        remaining = {name: page[name] for name in names if page.get(name, 0.0)}
        if not remaining or asyncio.get_running_loop().time() > end_s:
            return remaining
        await asyncio.sleep(_LOOK_S)


async def descriptors_at_most(program: Program, most: int, within_s: float = _ENDED_S) -> int:
    """How many descriptors it holds, once that is no more than `most` or a while has passed."""
    end_s = asyncio.get_running_loop().time() + within_s
    while True:
        found = program.footprint()
        number = 0 if found is None else found.num_descriptors
        if number <= most or asyncio.get_running_loop().time() > end_s:
            return number
        await asyncio.sleep(_LOOK_S)
