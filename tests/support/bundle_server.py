"""Something that answers as a cloud does which serves a bundle, or as none should."""

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

SECRET = "the-secret-of-this-cloud"


@dataclass
class BundleServer:
    """Serves the folder of a bundle; each field after it makes something go wrong."""

    folder: Path
    port: int = 0
    tls: ssl.SSLContext | None = None
    cuts: list[tuple[str, int]] = field(default_factory=list)
    """The next answer about a file ends after so many bytes, without a word."""
    changes: dict[str, Callable[[bytes], bytes]] = field(default_factory=dict)
    """What a file's bytes become on the way; `manifest` is the manifest's name."""
    knows_ranges: bool = True
    tells_length: bool = True
    status: int = 200
    fields: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Names of files that were asked for, and from where."""
    credentials: set[str] = field(default_factory=set)
    num_sent: int = 0
    on_asked: Callable[[str], None] = lambda name: None

    @property
    def url(self) -> str:
        """As a device has it."""
        return f"{'wss' if self.tls else 'ws'}://127.0.0.1:{self.port}"

    @property
    def text(self) -> bytes:
        """The manifest."""
        return (self.folder / "hat.json").read_bytes()

    async def manifest(self, request: web.Request) -> web.StreamResponse:
        """What is served."""
        self._note(request, "manifest")
        return await self._send(request, "manifest", self.text)

    async def file(self, request: web.Request) -> web.StreamResponse:
        """A file of it."""
        name = request.match_info["name"]
        self._note(request, name)
        text = self.changes.get("manifest", bytes)(self.text)
        if request.match_info["digest"] != hashlib.sha256(text).hexdigest():
            return web.Response(status=410)
        path = self.folder / name
        if not path.is_file():
            return web.Response(status=404)
        return await self._send(request, name, path.read_bytes())

    def _note(self, request: web.Request, name: str) -> None:
        self.asked.append((name, request.headers.get("Range", "")))
        self.credentials.add(request.headers.get("Authorization", ""))
        self.on_asked(name)

    async def _send(self, request: web.Request, name: str, content: bytes) -> web.StreamResponse:
        if self.status != 200:
            return web.Response(status=self.status, headers=self.fields)
        sent = self.changes.get(name, bytes)(content)
        start, total = 0, len(sent)
        response = web.StreamResponse(headers=self.fields)
        if self.knows_ranges and (text := request.headers.get("Range")):
            start = int(text.removeprefix("bytes=").rstrip("-"))
            response.set_status(206)
            response.headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
        if self.tells_length:
            response.content_length = total - start
        await response.prepare(request)
        cut = next((each for each in self.cuts if each[0] == name), None)
        stop = total if cut is None else start + cut[1]
        await response.write(sent[start:stop])
        self.num_sent += len(sent[start:stop])
        if cut is not None:
            self.cuts.remove(cut)
            # What was written is on its way first.
            await asyncio.sleep(0.02)
            assert request.transport is not None
            request.transport.close()
        return response


@asynccontextmanager
async def bundle_server(folder: Path, **how: object) -> AsyncIterator[BundleServer]:
    """A server on a free port of this machine."""
    server = BundleServer(folder, **how)  # type: ignore[arg-type]
    app = web.Application()
    app.router.add_get("/v1/bundle", server.manifest)
    app.router.add_get("/v1/bundle/{digest}/{name}", server.file)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server.tls).start()
    server.port = runner.addresses[0][1]
    try:
        yield server
    finally:
        await runner.cleanup()
