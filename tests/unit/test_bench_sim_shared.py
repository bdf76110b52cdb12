"""Devices behind one bottleneck share its rate, and what the planner sends leaves others room."""

from dataclasses import replace

from bench.measures import percentile
from bench.sim.run import simulate
from bench.sim.settings.shared_uplink import first_s, gaps_s, scenario

LINK = "up=40mbit,down=100mbit,rtt=40ms"


def prompts_of(num_devices: int, is_shared: bool) -> float:
    """The time to the first token where so many devices send prompts at once."""
    one = scenario(LINK, None, 0, 3)
    requests = tuple(
        replace(request, number=3 * number + request.number, device=number)
        for number in range(num_devices)
        for request in one.requests
    )
    devices = one.devices * num_devices
    whole = replace(one, requests=requests, devices=devices, is_link_shared=is_shared)
    return first_s(simulate(whole))


def test_two_who_send_at_once_take_twice_as_long_on_a_shared_link_and_no_longer_on_two() -> None:
    alone_s = prompts_of(1, is_shared=True)
    assert 1.8 * alone_s <= prompts_of(2, is_shared=True) <= 2.2 * alone_s
    assert prompts_of(2, is_shared=False) <= 1.1 * alone_s


def test_who_decodes_beside_a_long_prompt_waits_half_as_long_again_at_the_most() -> None:
    quiet_s = percentile(gaps_s(simulate(scenario(LINK, None, 8, 0))), 99)
    both = simulate(scenario(LINK, None, 8, 3))
    assert percentile(gaps_s(both), 99) <= 1.5 * quiet_s
    assert first_s(both) <= 1.3 * first_s(simulate(scenario(LINK, None, 0, 3)))
