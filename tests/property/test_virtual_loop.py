"""The loop whose clock jumps: whoever asks for a moment is woken at it, not a rounding before."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from process.virtual_loop import run_virtual

delays = st.lists(st.floats(1e-12, 1e4), min_size=1, max_size=20)


@given(tasks=st.lists(delays, min_size=1, max_size=5))
def test_a_timer_never_rings_before_its_moment(tasks: list[list[float]]) -> None:
    async def main() -> list[bool]:
        loop = asyncio.get_running_loop()
        in_time: list[bool] = []

        async def wait(delays_s: list[float]) -> None:
            for delay_s in delays_s:
                due_s = loop.time() + delay_s
                rings = asyncio.Event()
                loop.call_at(due_s, rings.set)
                await rings.wait()
                in_time.append(loop.time() >= due_s)

        await asyncio.gather(*map(wait, tasks))
        return in_time

    assert all(run_virtual(main))
