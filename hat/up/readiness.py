"""Waiting until a server on this machine says that it is ready."""

import asyncio
from collections.abc import Callable

import aiohttp

_PAUSE_S = 0.1
_NOTICE_EVERY_S = 10.0
_MAX_REASON_BYTES = 300


async def until_ready(url: str, notice: Callable[[str], None]) -> None:
    """Return once `url` answers 200; every 10 s `notice` gets the reason why it does not."""
    loop = asyncio.get_running_loop()
    next_notice_s = loop.time() + _NOTICE_EVERY_S
    timeout = aiohttp.ClientTimeout(total=5)
    async with aiohttp.ClientSession(timeout=timeout) as http:
        while (reason := await _reason_not_ready(http, url)) is not None:
            if loop.time() >= next_notice_s:
                next_notice_s = loop.time() + _NOTICE_EVERY_S
                notice(reason)
            await asyncio.sleep(_PAUSE_S)


async def _reason_not_ready(http: aiohttp.ClientSession, url: str) -> str | None:
    try:
        async with http.get(url) as response:
            if response.status == 200:
                return None
            body = await response.content.read(_MAX_REASON_BYTES)
            return body.decode(errors="replace").strip() or f"status {response.status}"
    except (aiohttp.ClientError, TimeoutError):
        return "not listening yet"
