"""A child process read line by line, and the end of processes that are not our children."""

import asyncio
import contextlib
import os
import re
import select
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class ProcessLines:
    """A running process whose output, both kinds together, can be waited for."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.lines: list[str] = []

    async def wait_for(self, pattern: str, deadline_s: float) -> re.Match[str]:
        """The first match in lines not yet read; the output so far if it never comes."""
        assert self.process.stdout is not None
        try:
            async with asyncio.timeout(deadline_s):
                while line := await self.process.stdout.readline():
                    self.lines.append(line.decode().rstrip("\n"))
                    if match := re.search(pattern, self.lines[-1]):
                        return match
        except TimeoutError:
            pass
        raise AssertionError(f"no line matched {pattern!r} in:\n" + "\n".join(self.lines))

    async def wait_for_end(self, deadline_s: float) -> int:
        """The exit code, once all output has been read."""
        assert self.process.stdout is not None
        async with asyncio.timeout(deadline_s):
            while line := await self.process.stdout.readline():
                self.lines.append(line.decode().rstrip("\n"))
            return await self.process.wait()


@asynccontextmanager
async def process_lines(*command: str, environ: Mapping[str, str]) -> AsyncIterator[ProcessLines]:
    """The command, running in a session of its own; killed if it still runs at the end."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=PIPE, stderr=STDOUT, cwd=ROOT, env=environ, start_new_session=True
    )
    try:
        yield ProcessLines(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


class WatchedProcess:
    """A process, ours or not, that can be waited for without being its parent (Linux only)."""

    def __init__(self, pid: int) -> None:
        self._descriptor = os.pidfd_open(pid)

    def ends_within(self, deadline_s: float) -> bool:
        """Whether it ended in time."""
        readable, _, _ = select.select([self._descriptor], [], [], deadline_s)
        return bool(readable)

    def close(self) -> None:
        os.close(self._descriptor)
