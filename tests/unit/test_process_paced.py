"""A page that anybody may ask for costs a bounded share of the time and is never stale."""

import asyncio
import time

import pytest

from process.paced import Paced
from process.virtual_loop import VirtualLoop

pytestmark = pytest.mark.event_loop("virtual")


async def test_all_who_wait_get_one_page_and_making_it_takes_a_share_of_the_time() -> None:
    made: list[float] = []

    async def ask(paced: Paced, end_s: float) -> int:
        loop = asyncio.get_running_loop()
        num_pages = 0
        while loop.time() < end_s:
            num_made = len(made)
            # Made after it was asked for.
            assert int(await paced.page()) > num_made
            num_pages += 1
        return num_pages

    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)

    def make() -> bytes:
        loop.skip(0.01)
        made.append(loop.time())
        return str(len(made)).encode()

    paced = Paced(make, loop.time)
    assert await paced.page() == b"1"
    counts = await asyncio.gather(*(ask(paced, loop.time() + 1.0) for _ in range(20)))
    assert sum(counts) > 5 * len(made)
    assert 0.09 < len(made) * 0.01 < 0.12


async def test_a_page_that_fails_fails_for_those_who_asked_and_is_made_again():
    results: list[bytes | None] = [None, b"page"]

    def make() -> bytes:
        result = results.pop(0)
        if result is None:
            raise ValueError("not now")
        return result

    paced = Paced(make, time.monotonic)
    with pytest.raises(ValueError, match="not now"):
        await paced.page()
    assert await paced.page() == b"page"
