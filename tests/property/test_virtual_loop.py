"""The loop whose clock jumps: whoever asks for a moment is woken at it, not a rounding before,
and of those who ask for one moment, who asked first is woken first.
"""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from process.virtual_loop import run_virtual

delays = st.lists(st.floats(1e-12, 1e4), min_size=1, max_size=20)
moments = st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=40)


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


@given(moments)
def test_timers_of_one_moment_ring_in_the_order_in_which_they_were_set(
    timers: list[tuple[int, bool]],
) -> None:
    async def main() -> list[int]:
        loop, rung = asyncio.get_running_loop(), list[int]()
        set_up = [loop.call_at(at_s, rung.append, place) for place, (at_s, _) in enumerate(timers)]
        for timer, (_, is_kept) in zip(set_up, timers, strict=True):
            if not is_kept:
                timer.cancel()
        await asyncio.sleep(5)
        return rung

    kept = [place for place, (_, is_kept) in enumerate(timers) if is_kept]
    assert run_virtual(main) == sorted(kept, key=lambda place: timers[place][0])
