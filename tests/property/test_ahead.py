from hypothesis import given
from hypothesis import strategies as st

from device_runtime.drafting.ahead import AheadSwitch


def play(num_rounds, seconds_on, seconds_off):
    """How many of the rounds were on."""
    switch, num_on = AheadSwitch(), 0
    for _ in range(num_rounds):
        is_on = switch.is_on()
        num_on += is_on
        switch.on_round(is_on, 2, seconds_on if is_on else seconds_off)
    return num_on


@given(slow=st.floats(1.05, 5.0))
def test_the_better_way_is_taken_and_the_other_tried_now_and_then(slow):
    num_on, num_off = play(160, 0.01, 0.01 * slow), 160 - play(160, 0.01 * slow, 0.01)
    for num_better in (num_on, num_off):
        assert 140 <= num_better < 160


def test_a_change_is_noticed():
    switch = AheadSwitch()
    ways = []
    for num_round in range(400):
        ways.append(switch.is_on())
        on_s = 0.01 if num_round < 100 else 0.04
        switch.on_round(ways[-1], 2, on_s if ways[-1] else 0.02)
    assert sum(ways[50:100]) > 40
    assert sum(ways[350:]) < 10
