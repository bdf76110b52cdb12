"""Rows of who yields ride in the steps of others only where that costs next to nothing."""

from cloud_server.core.actions import SequenceHandle
from cloud_server.core.scheduling.beside import Beside

GUEST = SequenceHandle(1)
ALONE_S = 0.030


def _known() -> Beside:
    """Steps of 4 and of 8 rows, of which a row costs little."""
    beside = Beside(0.25)
    for number in range(40):
        num_rows = 4 + 4 * (number % 2)
        beside.observe([GUEST], num_rows, 0, ALONE_S + 0.0002 * num_rows, 0.1 * number)
    return beside


def _ride(beside: Beside, seconds: float, num_steps: int, num_riding: int = 1) -> None:
    for _ in range(num_steps):
        beside.observe([GUEST], 4, 0, seconds, 10.0, num_riding)


def test_a_sequence_that_costs_more_than_its_rows_rides_no_more() -> None:
    beside = _known()
    assert beside.riding_tokens(4, 0) > 1
    _ride(beside, 1.4 * ALONE_S, 8)
    assert beside.riding_tokens(4, 0) == 0


def test_a_few_steps_that_are_late_are_no_reason() -> None:
    beside = _known()
    for _ in range(10):
        _ride(beside, 10 * ALONE_S, 1)
        _ride(beside, 1.02 * ALONE_S, 3)
    assert beside.riding_tokens(4, 0) > 1


def test_it_rides_again_after_a_few_steps_that_were_as_quick() -> None:
    beside = _known()
    _ride(beside, 1.4 * ALONE_S, 500)
    _ride(beside, 1.02 * ALONE_S, 8)
    assert beside.riding_tokens(4, 0) > 1


def test_a_long_offer_says_nothing_of_a_short_one() -> None:
    beside = _known()
    before = beside.riding_tokens(4, 0)
    _ride(beside, 5 * ALONE_S, 50, num_riding=200)
    assert beside.riding_tokens(4, 0) == before


def test_steps_before_it_is_known_what_one_takes_say_nothing() -> None:
    beside = Beside(0.25)
    _ride(beside, ALONE_S, 8)
    beside.observe([GUEST], 4, 0, ALONE_S, 10.0)
    assert beside.riding_tokens(4, 0) > 1
