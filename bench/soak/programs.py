"""A cloud and a device as processes that are killed, stopped and started again."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from bench.live.processes import Child, Command, LiveError

_READY_S = 120.0
_LOOK_S = 0.1
_TIMEOUT = aiohttp.ClientTimeout(total=5.0)


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a process holds at a moment."""

    resident_kib: int
    num_descriptors: int
    num_threads: int


class Program:
    """One of both: its command, its port, and the process that runs it now."""

    def __init__(
        self,
        name: str,
        port: int,
        options: Sequence[str],
        environ: dict[str, str],
        figures_port: int | None = None,
    ) -> None:
        self.name = name
        self.port = port
        self.figures_url = self.url if figures_port is None else f"http://127.0.0.1:{figures_port}"
        """Where its metrics are."""
        self.num_turns = 0
        """Goes up when it is killed, and when it has been started again."""
        self._argv = [sys.executable, "-m", "hat", name, *options, "--port", str(port)]
        self._environ = environ
        self._child: Child | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of its process now."""
        assert self._child is not None, "it was started"
        return self._child.pid

    async def start(self) -> None:
        """Start it; it serves once it has loaded its model."""
        self._child = await Child.start(Command(self.name, self._argv, environ=self._environ))

    async def kill(self) -> None:
        """kill -9, and start it again at once."""
        assert self._child is not None, "it was started"
        self.num_turns += 1
        self._child.signal(signal.SIGKILL)
        await self._child.ended()
        await self.start()
        self.num_turns += 1

    async def pause(self, seconds: float) -> None:
        """Stop it for a while, as a machine that swaps or sleeps."""
        assert self._child is not None, "it was started"
        self._child.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._child.signal(signal.SIGCONT)

    async def stop(self) -> None:
        """End it as an operator does."""
        if self._child is not None:
            await self._child.stop()

    async def ready(self) -> None:
        """Wait until it would serve a request.

        Raises:
            LiveError: it does not come to that.
        """
        end_s = asyncio.get_running_loop().time() + _READY_S
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as http:
            while not await self._is_ready(http):
                if asyncio.get_running_loop().time() > end_s:
                    raise LiveError(f"the {self.name} was not ready within {_READY_S:g} s")
                await asyncio.sleep(_LOOK_S)

    async def metrics(self) -> dict[str, float]:
        """Its page of metrics, samples of one name added up."""
        found: dict[str, float] = {}
        async with (
            aiohttp.ClientSession(timeout=_TIMEOUT) as http,
            http.get(f"{self.figures_url}/metrics") as response,
        ):
            page = await response.text()
        for line in page.splitlines():
            if not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                plain = name.partition("{")[0]
                found[plain] = found.get(plain, 0.0) + float(value)
        return found

    def footprint(self) -> Footprint | None:
        """What its process holds now; None without one, or where the system says nothing."""
        try:
            process = Path("/proc") / str(self.pid)
            pages = int((process / "statm").read_text().split()[1])
            num_descriptors = len(os.listdir(process / "fd"))
            num_threads = len(os.listdir(process / "task"))
        except (OSError, IndexError):
            return None
        return Footprint(pages * os.sysconf("SC_PAGE_SIZE") // 1024, num_descriptors, num_threads)

    async def _is_ready(self, http: aiohttp.ClientSession) -> bool:
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
            async with http.get(f"{self.url}/ready") as response:
                return response.status == 200
        return False
