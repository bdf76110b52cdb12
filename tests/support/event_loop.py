"""Waiting in tests without sleeping."""

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Let the loop run until something holds."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


async def settle() -> None:
    """Let everything that can run without outside events do so."""
    for _ in range(200):
        await asyncio.sleep(0)
