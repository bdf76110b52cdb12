import asyncio

import pytest

from device_runtime.admission import Admission
from device_runtime.generation import OverloadedError
from tests.support.event_loop import settle


def test_turns_are_given_in_the_order_of_asking():
    async def run():
        admission, order = Admission(1, 10), []

        async def take(number):
            turn = await admission.acquire()
            order.append(number)
            await asyncio.sleep(0)
            turn.end()

        await asyncio.gather(*(take(number) for number in range(6)))
        assert order == list(range(6))
        assert admission.num_running == admission.num_waiting == 0

    asyncio.run(run())


def test_a_turn_given_to_one_who_is_cancelled_goes_to_the_next():
    async def run():
        admission = Admission(1, 10)
        first = await admission.acquire()
        second = asyncio.ensure_future(admission.acquire())
        third = asyncio.ensure_future(admission.acquire())
        await settle()
        first.end()
        second.cancel()
        await settle()
        assert second.cancelled()
        (await third).end()
        assert admission.num_running == 0

    asyncio.run(run())


def test_a_turn_ended_twice_frees_one_place():
    async def run():
        admission = Admission(2, 0)
        turn, _ = await admission.acquire(), await admission.acquire()
        turn.end()
        turn.end()
        await admission.acquire()
        with pytest.raises(OverloadedError, match="2 generations are running and 0 are waiting"):
            await admission.acquire()

    asyncio.run(run())
