"""Shapers and rates: order, rate, delay and buffer, whatever comes when."""

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bench.link.luck import Bursts, Luck
from bench.link.rates import ConstantRate, Rate, RecordedRate
from bench.link.shaper import Direction, Shaper, directions
from bench.link.spec import MIN_QUEUE_BYTES, LinkSpec

_TOLERANCE = 1e-6

rates = st.sampled_from([0.0, 0.0, 1e3, 3e4, 1.25e5, 2.5e6])
lengths_s = st.sampled_from([0.1, 0.5, 1.0, 3.7])
pieces = st.lists(st.tuples(lengths_s, rates), min_size=1, max_size=6).filter(
    lambda each: any(rate for _, rate in each)
)
packets = st.lists(
    st.tuples(st.sampled_from([0.0, 0.0, 1e-4, 0.003, 0.2, 5.0]), st.integers(60, 1514)),
    min_size=1,
    max_size=60,
)


def _recorded(parts: list[tuple[float, float]], offset_s: float = 0.0) -> RecordedRate:
    bounds_s = [0.0, *itertools.accumulate(length_s for length_s, _ in parts)]
    return RecordedRate(bounds_s[:-1], [rate for _, rate in parts], bounds_s[-1], offset_s)


def _integral(parts: list[tuple[float, float]], begin_s: float, end_s: float) -> float:
    """Bytes between two moments, piece by piece."""
    total, at_s = 0.0, 0.0
    again = itertools.cycle(parts)
    while at_s < end_s:
        length_s, rate = next(again)
        total += rate * max(0.0, min(end_s, at_s + length_s) - max(begin_s, at_s))
        at_s += length_s
    return total


directions_drawn = st.builds(
    Direction,
    rate=st.one_of(
        st.sampled_from([ConstantRate(math.inf), ConstantRate(1e5), ConstantRate(2.5e6)]),
        st.builds(_recorded, pieces, st.sampled_from([0.0, 0.3, 2.0])),
    ),
    delay_s=st.sampled_from([0.0, 0.005, 0.04]),
    jitter_s=st.sampled_from([0.0, 0.002, 0.5]),
    loss=st.sampled_from([0.0, 0.1, 0.9]),
    queue_bytes=st.sampled_from([1514, 20_000, math.inf]),
    burst_s=st.sampled_from([0.0, 0.03]),
).map(lambda drawn: drawn if drawn.loss else replace(drawn, burst_s=0.0))


def _arrivals(shaper: Shaper, sent: list[tuple[float, int]]) -> list[tuple[float, int, float]]:
    """(sent, bytes, arrival) of those packets that arrive."""
    now_s = 0.0
    arrivals = []
    for pause_s, num_bytes in sent:
        now_s += pause_s
        arrival_s = shaper.offer(now_s, num_bytes)
        if arrival_s is not None:
            arrivals.append((now_s, num_bytes, arrival_s))
    return arrivals


@given(directions_drawn, packets, st.integers(0, 9))
def test_packets_keep_their_order_and_none_is_early(direction, sent, seed):
    arrivals = _arrivals(Shaper(direction, Luck.seeded(str(seed))), sent)
    assert [each[2] for each in arrivals] == sorted(each[2] for each in arrivals)
    for sent_s, num_bytes, arrival_s in arrivals:
        alone_s = direction.rate.sent_at(sent_s, num_bytes) + direction.delay_s
        assert arrival_s >= alone_s - _TOLERANCE


@given(directions_drawn, packets, st.integers(0, 9))
def test_the_same_seed_has_the_same_luck(direction, sent, seed):
    first, second = (Shaper(direction, Luck.seeded(str(seed))) for _ in range(2))
    assert _arrivals(first, sent) == _arrivals(second, sent)


@given(pieces, packets, st.sampled_from([2000, 20_000, math.inf]))
def test_between_two_arrivals_no_more_bytes_come_than_the_rate_allows(parts, sent, queue_bytes):
    direction = Direction(_recorded(parts), delay_s=0.01, queue_bytes=queue_bytes)
    arrivals = _arrivals(Shaper(direction, Luck.seeded("0")), sent)
    first_s = arrivals[0][2] - direction.delay_s
    num_bytes = 0
    for _, packet_bytes, arrival_s in arrivals[1:]:
        num_bytes += packet_bytes
        allowed = _integral(parts, first_s, arrival_s - direction.delay_s)
        assert num_bytes <= allowed + _TOLERANCE * max(1.0, allowed)


@given(pieces, packets)
def test_a_busy_link_sends_all_that_its_rate_allows(parts, sent):
    shaper = Shaper(Direction(_recorded(parts)), Luck.seeded("0"))
    at_once = [(0.0, num_bytes) for _, num_bytes in sent]
    last_s = _arrivals(shaper, at_once)[-1][2]
    total = sum(num_bytes for _, num_bytes in at_once)
    assert _integral(parts, 0.0, last_s) == pytest.approx(total, rel=1e-6)


@given(pieces, st.floats(0, 50), st.integers(1, 3000), st.integers(1, 3000))
@example([(1.0, 1e3)], 0.0, 1000, 1)
@example([(1.0, 1e3), (1.0, 0.0)], 1.5, 1000, 1000)
def test_a_recorded_rate_sends_what_lies_under_its_curve(parts, start_s, first, second):
    rate = _recorded(parts)
    end_s = rate.sent_at(start_s, first)
    assert end_s > start_s
    assert _integral(parts, start_s, end_s) == pytest.approx(first, rel=1e-6, abs=1e-3)
    assert rate.at(end_s - 1e-9) > 0, "bytes end while bytes are sent, not in an outage"
    whole_s = rate.sent_at(start_s, first + second)
    assert rate.sent_at(end_s, second) == pytest.approx(whole_s, rel=1e-6, abs=1e-6)


@given(pieces, st.floats(0, 20), st.integers(1, 3000), st.sampled_from([0.05, 0.3, 2.0]))
def test_an_offset_begins_later_in_the_recording(parts, start_s, num_bytes, offset_s):
    shifted = _recorded(parts, offset_s).sent_at(start_s, num_bytes)
    plain = _recorded(parts).sent_at(start_s + offset_s, num_bytes)
    assert shifted == pytest.approx(plain - offset_s, rel=1e-6, abs=1e-6)


@given(packets, st.sampled_from([1514, 5000, 20_000]))
def test_the_buffer_never_holds_more_than_it_may_and_drops_only_what_does_not_fit(
    sent, queue_bytes
):
    shaper = Shaper(Direction(ConstantRate(5e4), queue_bytes=queue_bytes), Luck.seeded("0"))
    now_s = 0.0
    for pause_s, num_bytes in sent:
        now_s += pause_s
        before = shaper.backlog_bytes(now_s)
        room_s = shaper.room_s(now_s, num_bytes)
        is_dropped = shaper.offer(now_s, num_bytes) is None
        assert is_dropped == (before + num_bytes > queue_bytes) == (room_s > now_s)
        assert shaper.backlog_bytes(now_s) <= queue_bytes
        if is_dropped:
            assert shaper.backlog_bytes(room_s) + num_bytes <= queue_bytes
            assert shaper.backlog_bytes(room_s) <= before
            now_s = room_s


def test_one_packet_takes_its_own_length_and_the_delay() -> None:
    (up, down) = directions(LinkSpec(1e6, 2e6, delay_s=0.02))
    for way, expected_s in ((up, 1.0215), (down, 1.02075)):
        assert Shaper(way, Luck.seeded("0")).offer(1.0, 1500) == pytest.approx(expected_s)


def test_jitter_is_spread_over_its_range_and_loss_takes_its_share() -> None:
    direction = Direction(ConstantRate(math.inf), delay_s=0.02, jitter_s=0.01, loss=0.1)
    shaper = Shaper(direction, Luck.seeded("1"))
    delays_s = [a - s for s, _, a in _arrivals(shaper, [(1.0, 100)] * 4000)]
    assert 0.02 <= min(delays_s) < 0.0205
    assert 0.0295 < max(delays_s) <= 0.03
    assert sum(delays_s) / len(delays_s) == pytest.approx(0.025, abs=5e-4)
    assert 1 - len(delays_s) / 4000 == pytest.approx(0.1, abs=0.02)


def test_a_lost_packet_has_taken_its_time_on_the_link() -> None:
    numbers = iter([0.0, 0.5, 0.9, 0.5])
    luck = replace(Luck.seeded("0"), packet=lambda: next(numbers))
    shaper = Shaper(Direction(ConstantRate(1e5), loss=0.5), luck)
    assert shaper.offer(0.0, 1000) is None
    assert shaper.offer(0.0, 1000) == pytest.approx(0.02)


@given(st.floats(0.001, 0.2), st.floats(0.01, 0.6), st.integers(0, 9))
def test_bursts_take_their_share_of_time_and_last_as_asked(burst_s, share, seed):
    bursts = Bursts(burst_s, share, Luck.seeded(str(seed)).burst)
    step_s, num_steps = burst_s / 5, 20_000
    states = [bursts.is_bad(step * step_s) for step in range(num_steps)]
    num_bad = sum(states)
    num_bursts = sum(now and not before for before, now in itertools.pairwise([False, *states]))
    num_expected = num_steps * step_s * share / burst_s
    assert num_bad / num_steps == pytest.approx(share, abs=5 * share / math.sqrt(num_expected))
    # A burst between two looks is missed, and two with no look between them count as one.
    assert num_bad * step_s / num_bursts == pytest.approx(
        burst_s, rel=0.3 + 5 / math.sqrt(num_expected)
    )


@given(st.lists(st.floats(0, 3), min_size=1, max_size=50), st.integers(0, 9))
def test_bursts_come_when_they_come_whatever_is_sent(moments, seed):
    luck = [Luck.seeded(str(seed)).burst for _ in range(2)]
    often, seldom = (Bursts(0.03, 0.2, draw) for draw in luck)
    for moment in sorted(moments):
        for before in range(10):
            often.is_bad(moment - (moment % 0.01) * before / 10)
        assert often.is_bad(moment) == seldom.is_bad(moment)


def test_a_burst_loses_all_packets_and_nothing_is_lost_between_bursts() -> None:
    direction = Direction(ConstantRate(1e6), loss=0.2, burst_s=0.05)
    shaper = Shaper(direction, Luck.seeded("1"))
    bursts = Bursts(0.05, 0.2, Luck.seeded("1").burst)
    lost = [shaper.offer(number * 0.01, 100) is None for number in range(2000)]
    assert lost == [bursts.is_bad(number * 0.01 + 1e-4) for number in range(2000)]
    assert 0.1 < sum(lost) / len(lost) < 0.3


def test_an_overtaken_packet_is_late_by_as_much_and_delays_no_other() -> None:
    direction = Direction(ConstantRate(1e6), delay_s=0.02, reorder=0.1, late_s=0.005)
    shaper = Shaper(direction, Luck.seeded("1"))
    plain = Shaper(replace(direction, reorder=0.0), Luck.seeded("1"))
    late_s = [
        shaper.offer(number * 1e-3, 500) - plain.offer(number * 1e-3, 500) for number in range(2000)
    ]
    late = [each for each in late_s if each > 1e-9]
    assert late == pytest.approx([0.005] * len(late))
    assert 0.07 < len(late) / len(late_s) < 0.13


@given(directions_drawn, packets, st.integers(0, 9))
def test_reordering_changes_no_other_luck(direction, sent, seed):
    plain = _arrivals(Shaper(direction, Luck.seeded(str(seed))), sent)
    mixed_up = replace(direction, reorder=0.3, late_s=0.01)
    mixed = _arrivals(Shaper(mixed_up, Luck.seeded(str(seed))), sent)
    assert [each[:2] for each in mixed] == [each[:2] for each in plain]
    for (_, _, late_s), (_, _, arrival_s) in zip(mixed, plain, strict=True):
        assert late_s == arrival_s or late_s == pytest.approx(arrival_s + 0.01)


def test_a_direction_without_a_rate_has_no_buffer_to_fill() -> None:
    (up, down) = directions(LinkSpec(uplink_bytes_per_s=1e5))
    assert (up.queue_bytes, down.queue_bytes) == (MIN_QUEUE_BYTES, math.inf)
    rate: Rate = down.rate
    assert rate.sent_at(3.0, 10**9) == 3.0
