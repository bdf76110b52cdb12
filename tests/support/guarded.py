"""A small application behind a guarded listener, and raw connections to it."""

import asyncio
import logging
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from process.listening.guard import Guard
from process.listening.limits import Limits
from process.listening.runner import GuardedRunner
from process.quiet_log import QuietLog

LIMITS = Limits(64, 32, head_timeout_s=1.0, idle_timeout_s=1.0, unread_timeout_s=0.5)


@dataclass
class Served:
    """Where it listens, its guard, what was asked, and whether `/held` may be answered."""

    port: int
    guard: Guard
    calls: list[str] = field(default_factory=list)
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)

    async def connect(
        self, data: bytes = b"", **options: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection that has sent this."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, **options)
        writer.write(data)
        return reader, writer

    async def ask(self, data: bytes, **options: Any) -> bytes:
        """All that comes until the server closes; it must."""
        reader, writer = await self.connect(data, **options)
        async with asyncio.timeout(20):
            answer = await read_all(reader)
        writer.close()
        return answer


async def read_all(reader: asyncio.StreamReader) -> bytes:
    """What comes until the connection ends, one way or the other."""
    answer = bytearray()
    try:
        while part := await reader.read(1 << 16):
            answer += part
    except ConnectionError:
        pass
    return bytes(answer)


@asynccontextmanager
async def guarded(
    limits: Limits = LIMITS, tls: ssl.SSLContext | None = None, **options: Any
) -> AsyncIterator[Served]:
    """`/` answers, `/echo` says how long a body was, `/slow` and `/held` wait."""
    guard = Guard(limits, QuietLog(logging.getLogger("guarded"), time.monotonic), **options)
    served = Served(0, guard)

    async def root(request: web.Request) -> web.Response:
        served.calls.append(request.path)
        return web.Response(text="served")

    async def echo(request: web.Request) -> web.Response:
        return web.Response(text=str(len(await request.read())))

    async def slow(request: web.Request) -> web.Response:
        await asyncio.sleep(3 * limits.head_timeout_s)
        return web.Response(text="slow")

    async def held(request: web.Request) -> web.Response:
        served.calls.append(request.path)
        await served.may_answer.wait()
        return web.Response(text="held")

    app = web.Application()
    app.add_routes([web.get("/", root), web.post("/", root)])
    app.add_routes([web.post("/echo", echo), web.get("/slow", slow), web.get("/held", held)])
    runner = GuardedRunner(app, guard, shutdown_timeout=1.0)
    await runner.setup()
    await runner.listen("127.0.0.1", 0, None if tls is None else lambda: tls)
    served.port = runner.addresses[0][1]
    try:
        yield served
    finally:
        await runner.cleanup()


def make_certificate(folder: Path, *options: str) -> tuple[Path, Path]:
    """A certificate for localhost that signs itself, and its key, made by openssl."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    request = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    validity = options or ("-days", "30")
    subprocess.run([*request.split(), *subject, *validity, *files], check=True, capture_output=True)
    return certificate, key
