import asyncio

import pytest

from device_runtime.generation.request import OverloadedError
from device_runtime.runtime.admission import Admission
from tests.support.event_loop import settle


async def test_turns_are_given_in_the_order_of_asking():
    admission, order = Admission(1, 10), []

    async def take(number):
        turn = await admission.acquire()
        order.append(number)
        await asyncio.sleep(0)
        turn.close()

    await asyncio.gather(*(take(number) for number in range(6)))
    assert order == list(range(6))
    assert admission.num_running == admission.num_waiting == 0


async def test_a_turn_given_to_one_who_is_cancelled_goes_to_the_next():
    admission = Admission(1, 10)
    first = await admission.acquire()
    second = asyncio.ensure_future(admission.acquire())
    third = asyncio.ensure_future(admission.acquire())
    await settle()
    first.close()
    second.cancel()
    await settle()
    assert second.cancelled()
    (await third).close()
    assert admission.num_running == 0


async def test_a_turn_that_ends_while_the_next_one_leaves_is_not_lost():
    """Both clients went in the same moment, in either order."""

    async def run(leaves_first):
        admission = Admission(1, 10)
        first = await admission.acquire()
        second = asyncio.ensure_future(admission.acquire())
        third = asyncio.ensure_future(admission.acquire())
        await settle()
        steps = [second.cancel, first.close]
        for step in steps if leaves_first else reversed(steps):
            step()
        await settle()
        (await third).close()
        assert admission.num_running == admission.num_waiting == 0

    for leaves_first in (True, False):
        await asyncio.wait_for(run(leaves_first), 5)


async def test_a_turn_ended_twice_frees_one_place():
    admission = Admission(2, 0)
    turn, _ = await admission.acquire(), await admission.acquire()
    turn.close()
    turn.close()
    await admission.acquire()
    with pytest.raises(OverloadedError, match="2 generations are running and 0 are waiting"):
        await admission.acquire()


async def test_who_is_let_in_waits_beyond_the_bound_behind_those_who_came_before():
    admission, order = Admission(1, 1), []

    async def take(name, is_let_in):
        turn = await admission.acquire(is_let_in)
        order.append(name)
        turn.close()

    first = await admission.acquire()
    waiting = [
        asyncio.ensure_future(take(name, is_let_in))
        for name, is_let_in in (("second", False), ("third", True), ("fourth", True))
    ]
    await settle()
    assert admission.num_waiting == 3
    with pytest.raises(OverloadedError, match="3 are waiting"):
        await admission.acquire()
    first.close()
    await asyncio.gather(*waiting)
    assert order == ["second", "third", "fourth"]
    assert admission.num_running == admission.num_waiting == 0
