"""The event loops that tests run on, and waiting in them without sleeping."""

import asyncio
from collections.abc import Callable
from functools import partial

import pytest
import uvloop

from process.virtual_loop import VirtualLoop

DAY_S = 86_400.0
"""No test takes longer in virtual time, unless somebody in it waits for ever."""

EVENT_LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
    "virtual": partial(VirtualLoop, DAY_S),
}

on_both_loops = pytest.mark.parametrize("anyio_backend", ["asyncio", "uvloop"], indirect=True)
"""For what differs between the loops that the programs may use."""


on_sockets_and_in_memory = pytest.mark.parametrize(
    "anyio_backend", ["asyncio", "virtual"], indirect=True
)
"""For what real sockets must show at least once, in a file of tests that takes no time."""

_LOOK_S = 0.001
_SETTLED_S = 1.0


def is_virtual() -> bool:
    """Whether the running loop's time is not the system's."""
    return isinstance(asyncio.get_running_loop(), VirtualLoop)


async def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Let the loop run until something holds."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            # Virtual time stands still while there is something to do.
            await asyncio.sleep(_LOOK_S if is_virtual() else 0)


async def settle() -> None:
    """Let everything that can run without outside events do so."""
    if is_virtual():
        await asyncio.sleep(_SETTLED_S)
        return
    for _ in range(200):
        await asyncio.sleep(0)
