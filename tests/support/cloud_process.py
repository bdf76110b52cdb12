"""`hat cloud` as a process that can be killed without a word and started again on its port."""

import asyncio
import contextlib
import json
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.process_lines import ROOT

_PROGRAM = """
import json, sys
from pathlib import Path
from cloud_server.config import CloudConfig
from cloud_server.main import run

settings = json.loads(sys.argv[1])
sys.exit(run(CloudConfig(**settings | {"bundle": Path(settings["bundle"])})))
"""


class CloudProcess:
    """A float32 cloud; `num_kills` counts its sudden deaths."""

    def __init__(self, bundle: Path, port: int) -> None:
        exact = {"dtype": "float32", "wire_dtype": "float32"}
        settings = {"capacity_tokens": 40_000, "threads": 1, **exact}
        self._settings = json.dumps({"bundle": str(bundle), "port": port} | settings)
        self._process: Process | None = None
        self._starting: asyncio.Task[None] | None = None
        self.num_kills = 0

    async def start(self) -> None:
        """Start the process; it listens once it has loaded."""
        command = (sys.executable, "-c", _PROGRAM, self._settings)
        self._process = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, stdout=DEVNULL, stderr=DEVNULL, start_new_session=True
        )

    def kill_and_restart(self) -> None:
        """kill -9 now, and a new process on the same port as soon as that one is gone."""
        if self._starting is not None and not self._starting.done():
            return
        assert self._process is not None
        self._process.kill()
        self.num_kills += 1
        self._starting = asyncio.ensure_future(self._restart(self._process))

    async def kill(self) -> None:
        """kill -9 now; nobody listens afterwards, until `start`."""
        assert self._process is not None
        self._process.kill()
        self.num_kills += 1
        await self._process.wait()

    async def stop(self) -> None:
        """End it for good."""
        if self._starting is not None:
            await self._starting
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    async def _restart(self, killed: Process) -> None:
        await killed.wait()
        await self.start()


@asynccontextmanager
async def cloud_process(bundle: Path, port: int) -> AsyncIterator[CloudProcess]:
    """A cloud process, killed at the end."""
    cloud = CloudProcess(bundle, port)
    await cloud.start()
    try:
        yield cloud
    finally:
        await cloud.stop()
