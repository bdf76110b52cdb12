"""A WebSocket relay between device and cloud that keeps every frame it passes on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web

MAX_FRAME_BYTES = 16 * 2**20


class FrameRelay:
    """Frames in the order in which they passed, by direction."""

    def __init__(self, cloud_url: str) -> None:
        self._cloud_url = cloud_url
        self.up: list[bytes] = []
        self.down: list[bytes] = []
        self.url = ""

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """Pass frames both ways until either side closes."""
        device = web.WebSocketResponse(max_msg_size=MAX_FRAME_BYTES, compress=False)
        await device.prepare(request)
        async with (
            aiohttp.ClientSession() as client,
            client.ws_connect(
                self._cloud_url + request.path, max_msg_size=MAX_FRAME_BYTES, compress=0
            ) as cloud,
        ):
            tasks = [
                asyncio.create_task(self._pass(device, cloud, self.up)),
                asyncio.create_task(self._pass(cloud, device, self.down)),
            ]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await device.close()
        return device

    async def _pass(
        self,
        source: web.WebSocketResponse | aiohttp.ClientWebSocketResponse,
        target: web.WebSocketResponse | aiohttp.ClientWebSocketResponse,
        kept: list[bytes],
    ) -> None:
        async for message in source:
            assert message.type is aiohttp.WSMsgType.BINARY, "only binary frames travel"
            kept.append(message.data)
            await target.send_bytes(message.data)


@asynccontextmanager
async def frame_relay(cloud_url: str) -> AsyncIterator[FrameRelay]:
    """A relay in front of a cloud, on a free port."""
    relay = FrameRelay(cloud_url)
    app = web.Application()
    app.router.add_get("/{path:.*}", relay.serve)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        relay.url = f"ws://127.0.0.1:{runner.addresses[0][1]}"
        yield relay
    finally:
        await runner.cleanup()
