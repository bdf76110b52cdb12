"""The event loops that tests run on, and waiting in them without sleeping."""

import asyncio
from collections.abc import Callable

import pytest
import uvloop

from process.virtual_loop import VirtualLoop

EVENT_LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
    "virtual": VirtualLoop,
}

on_both_loops = pytest.mark.parametrize("anyio_backend", ["asyncio", "uvloop"], indirect=True)
"""For what differs between the loops that the programs may use."""


async def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Let the loop run until something holds."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


async def settle() -> None:
    """Let everything that can run without outside events do so."""
    for _ in range(200):
        await asyncio.sleep(0)
