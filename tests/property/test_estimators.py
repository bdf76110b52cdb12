"""Estimates come near the truth, follow its changes, and survive nonsense."""

import random
from dataclasses import replace
from math import isfinite

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chunking.averages import MovingAverage, RobustAverage
from chunking.bounded_planner import BoundedPlanner
from chunking.cost import LinearTime, ttft_bound_s
from chunking.line_estimator import LineEstimator
from chunking.link_estimator import LinkEstimator, Measured
from chunking.paper_planner import PaperPlanner
from chunking.state_monitor import AnsweredFrame, StateMonitor
from tests.support.examples import at_most
from tests.support.simulated_link import SimulatedLink, send_prompt

TOKEN_BYTES = 1024
averages = st.sampled_from([MovingAverage, RobustAverage])
samples = st.floats(allow_nan=True, allow_infinity=True)
positive = st.floats(1e-6, 1e6)
rates = st.floats(1e4, 1e8)


@given(make=averages, stream=st.lists(samples))
def test_an_average_is_never_negative_nor_infinite_and_within_its_samples(make, stream):
    average = make()
    for sample in stream:
        average.add(sample)
    usable = [sample for sample in stream if isfinite(sample) and sample >= 0]
    if not usable:
        assert average.value is None
        return
    assert average.value is not None
    assert min(usable) * (1 - 1e-9) <= average.value <= max(usable) * (1 + 1e-9)


@given(make=averages, truth=positive, seed=st.integers(0, 2**32))
def test_an_average_converges_through_noise(make, truth, seed):
    draw = random.Random(seed)
    average = make()
    for _ in range(60):
        average.add(truth * draw.uniform(0.85, 1.15))
    assert average.value == pytest.approx(truth, rel=0.15)


@given(truth=positive, outlier=st.floats(0.0, 1e12), before=st.integers(3, 10))
def test_one_outlier_does_not_move_the_robust_average(truth, outlier, before):
    average = RobustAverage()
    for _ in range(before):
        average.add(truth)
    average.add(outlier)
    assert average.value == pytest.approx(truth)
    average.add(truth)
    average.add(truth)
    assert average.value == pytest.approx(truth)


@given(old=positive, new=positive)
def test_a_change_is_followed_within_two_samples_or_slowly_when_small(old, new):
    robust, paper = RobustAverage(), MovingAverage()
    for _ in range(5):
        robust.add(old)
        paper.add(old)
    for _ in range(2):
        robust.add(new)
    assert robust.value is not None
    assert new / 1.51 <= robust.value <= new * 1.51
    for _ in range(30):
        robust.add(new)
        paper.add(new)
    assert robust.value == pytest.approx(new, rel=0.01)
    assert paper.value == pytest.approx(new, rel=0.01, abs=0.01 * old)


@given(
    fixed_s=st.floats(1e-4, 0.1),
    token_s=st.floats(1e-6, 1e-3),
    seed=st.integers(0, 2**32),
    make=averages,
)
def test_a_line_is_found_through_noise(fixed_s, token_s, seed, make):
    draw = random.Random(seed)
    estimator, truth = LineEstimator(make), LinearTime(fixed_s, token_s)
    for _ in range(40):
        for num_tokens in (1, 5, 30, 100, 300, 512):
            estimator.add(num_tokens, truth.of(num_tokens) * draw.uniform(0.95, 1.05))
    assert estimator.line is not None
    for num_tokens in (1, 64, 512):
        assert estimator.line.of(num_tokens) == pytest.approx(truth.of(num_tokens), rel=0.2)


@given(stream=st.lists(st.tuples(st.integers(-5, 2**30), samples)))
def test_a_line_is_never_negative_nor_infinite(stream):
    estimator = LineEstimator(RobustAverage)
    for num_tokens, seconds in stream:
        estimator.add(num_tokens, seconds)
    if (line := estimator.line) is not None:
        assert 0.0 <= line.fixed_s < float("inf")
        assert 0.0 <= line.token_s < float("inf")


def burst(link: SimulatedLink, monitor: StateMonitor, sizes: list[int]) -> None:
    """Frames handed over at once, all replies taken, then a long pause."""
    replies = [link.send(size, monitor) for size in sizes]
    for reply in replies:
        link.take(reply, monitor)
    link.now += 30.0


def simulated(rate: float, delay_s: float, noise: object = None) -> SimulatedLink:
    step = LinearTime(0.004, 1e-5)
    link = SimulatedLink(rate, delay_s, step, TOKEN_BYTES, LinearTime(0.001, 1e-4))
    if noise is not None:
        link.noise = noise
    return link


@given(rate=rates, delay_s=st.floats(0.001, 0.3), seed=st.integers(0, 2**32))
@settings(max_examples=at_most(60))
def test_rate_and_delay_are_found_whatever_sockets_and_cloud_hold_back(rate, delay_s, seed):
    """Bytes are handed over at once, far faster than the link, and the cloud is often busy."""
    draw = random.Random(seed)
    link = simulated(rate, delay_s, lambda: draw.uniform(0.9, 1.1))
    monitor = StateMonitor()
    link.open(monitor)
    for _ in range(12):
        # Long enough that the noise of a step is small beside a transfer.
        size = max(16, int(0.2 * rate / TOKEN_BYTES))
        burst(link, monitor, [size, size // 2 + 1, size, size])
    assert monitor.link.uplink_bytes_per_s == pytest.approx(rate, rel=0.25)
    assert monitor.link.delay_s == pytest.approx(delay_s, rel=0.15)
    assert monitor.link.cloud_queue_s == pytest.approx(0.0, abs=0.05)


@given(old=rates, factor=st.sampled_from([0.1, 0.25, 4.0, 10.0]))
@settings(max_examples=at_most(40))
def test_a_rate_change_is_followed_within_four_frames(old, factor):
    link, monitor = simulated(old, 0.02), StateMonitor()
    link.open(monitor)
    size = max(64, int(0.2 * old / TOKEN_BYTES))
    burst(link, monitor, [size] * 6)
    link.uplink_bytes_per_s = old * factor
    burst(link, monitor, [size] * 4)
    assert monitor.link.uplink_bytes_per_s == pytest.approx(old * factor, rel=0.2)


@given(rate=rates, slow=st.floats(2.0, 50.0))
@settings(max_examples=at_most(40))
def test_slow_first_frames_after_idle_times_do_not_lower_a_known_rate(rate, slow):
    link, monitor = simulated(rate, 0.02), StateMonitor()
    link.open(monitor)
    size = max(64, int(0.2 * rate / TOKEN_BYTES))
    burst(link, monitor, [size] * 6)
    for _ in range(10):
        link.uplink_bytes_per_s = rate / slow
        burst(link, monitor, [size])
    assert monitor.link.uplink_bytes_per_s == pytest.approx(rate, rel=0.05)


@given(rate=st.floats(2e5, 5e6), seed=st.integers(0, 2**32))
@settings(max_examples=at_most(40))
def test_frames_that_come_at_once_behind_a_lost_segment_do_not_make_a_link_endless(rate, seed):
    """A segment that is sent again holds up all behind it: they come together, a trip later."""
    draw = random.Random(seed)
    link, monitor = simulated(rate, 0.04), StateMonitor()
    link.open(monitor)
    size = max(8, int(0.02 * rate / TOKEN_BYTES))
    for _ in range(8):
        replies = [link.send(size, monitor) for _ in range(12)]
        held_up = draw.randrange(2, 8)
        until_s = replies[held_up].comes_s + draw.uniform(0.04, 0.1)
        for number, reply in enumerate(replies):
            comes_s = max(reply.comes_s, until_s) if number >= held_up else reply.comes_s
            link.take(replace(reply, comes_s=comes_s), monitor)
        link.now += 10.0
        found = monitor.link.uplink_bytes_per_s
        assert found is not None
        assert 0.3 * rate < found < 3 * rate


def test_frames_of_a_socket_that_was_lost_are_no_part_of_the_next_ones_rate():
    link, monitor = simulated(1e6, 0.04), StateMonitor()
    link.open(monitor)
    for _ in range(4):
        burst(link, monitor, [20, 20])
        monitor.link.on_lost()
        # The third frame of a socket queues; on the one before, the second was the last that did.
        burst(link, monitor, [20])
        burst(link, monitor, [20, 20])
        monitor.link.on_lost()
        assert monitor.link.uplink_bytes_per_s == pytest.approx(1e6, rel=0.01)


# Later than by the link's delay, with the frame's own transfer of 3 ms, tells of a slower link.
@given(seed=st.integers(0, 2**32), late_s=st.floats(0.0, 0.036))
@settings(max_examples=at_most(40))
def test_late_replies_to_small_frames_do_not_lower_the_rate_of_a_link_that_never_queues(
    seed, late_s
):
    """The device is the bottleneck, and its machine takes replies late now and then."""
    draw = random.Random(seed)
    link, monitor = simulated(2.5e6, 0.04), StateMonitor()
    link.open(monitor)
    for _ in range(4):
        link.take(link.send(400, monitor), monitor)
        link.now += 1.0
        for _ in range(24):
            reply = link.send(draw.randint(1, 8), monitor)
            link.take(replace(reply, comes_s=reply.comes_s + draw.uniform(0, late_s)), monitor)
            link.now += 0.01
    rate = monitor.link.uplink_bytes_per_s
    assert rate is not None
    assert 0.999 * 2.5e6 < rate < 1.1 * 2.5e6


events = st.one_of(
    st.tuples(st.just("sent"), st.integers(0, 5), st.integers(-10, 1 << 20), samples),
    st.tuples(st.just("reply"), st.integers(0, 5), st.integers(0, 1 << 20), samples),
    st.tuples(st.just("trip"), st.just(0), st.just(0), samples),
    st.tuples(st.just("lost"), st.just(0), st.just(0), samples),
)


@given(stream=st.lists(events, max_size=60), is_robust=st.booleans(), times=st.data())
def test_nothing_makes_an_estimate_negative_or_infinite(stream, is_robust, times):
    link = LinkEstimator(is_robust)
    now = 0.0
    for kind, key, num_bytes, value in stream:
        now += times.draw(st.floats(0.0, 5.0))
        match kind:
            case "sent":
                link.on_sent(key, num_bytes, now)
            case "reply":
                link.on_reply(key, Measured(num_bytes, abs(value), abs(value)), now)
            case "trip":
                link.on_round_trip(value)
            case _:
                link.on_lost()
        for rate in (link.uplink_bytes_per_s, link.downlink_bytes_per_s):
            assert rate is None or 0.0 < rate < float("inf")
        for seconds in (link.delay_s, link.cloud_queue_s):
            assert seconds is None or 0.0 <= seconds < float("inf")


def test_a_step_that_ran_a_part_of_a_frame_is_no_measure_of_the_whole():
    monitor = StateMonitor()
    monitor.on_reply("unknown", AnsweredFrame(600, 64, 0.0, 5.0, batch_tokens=88), 1.0)
    assert monitor.estimates(TOKEN_BYTES).cloud_step is None
    monitor.on_reply("unknown", AnsweredFrame(60, 64, 0.0, 0.5, batch_tokens=88), 2.0)
    assert monitor.estimates(TOKEN_BYTES).cloud_step is not None


@given(
    mbit_per_s=st.floats(2.0, 60.0), num_tokens=st.integers(300, 3000), delay_s=st.floats(0, 0.1)
)
@settings(max_examples=at_most(40))
@example(mbit_per_s=40.0, num_tokens=2048, delay_s=0.01)
@example(mbit_per_s=54.0, num_tokens=1033, delay_s=0.0)
def test_a_second_prompt_is_near_the_bound_on_what_the_first_has_taught(
    mbit_per_s, num_tokens, delay_s
):
    link, monitor = simulated(mbit_per_s * 125_000, delay_s), StateMonitor()
    link.open(monitor)
    for length in (num_tokens, 5, 40):
        send_prompt(link, monitor, BoundedPlanner(), length)
        link.now += 10.0
    chunks, took_s = send_prompt(link, monitor, BoundedPlanner(), num_tokens)
    times = monitor.estimates(TOKEN_BYTES).times()
    assert times is not None
    assert sum(chunks) == num_tokens
    assert took_s <= 1.05 * ttft_bound_s(num_tokens, times) + 0.01


@pytest.mark.parametrize(
    ("planner", "old", "new"),
    [
        (BoundedPlanner(), 100_000, 4_000_000),
        (PaperPlanner(), 100_000, 4_000_000),
        (PaperPlanner(), 4_000_000, 50_000),
    ],
)
def test_chunks_follow_a_rate_change_in_the_middle_of_a_prompt(planner, old, new):
    def chunks_of(change: tuple[int, float] | None) -> tuple[list[int], float | None]:
        link, monitor = simulated(old, 0.02), StateMonitor()
        link.open(monitor)
        send_prompt(link, monitor, planner, 400)
        link.now += 10.0
        chunks, _ = send_prompt(link, monitor, planner, 400, change)
        return chunks, monitor.link.uplink_bytes_per_s

    (steady, old_rate), (changed, new_rate) = chunks_of(None), chunks_of((60, new))
    assert sum(steady) == sum(changed) == 400
    assert steady != changed
    assert steady[:2] == changed[:2]
    assert old_rate == pytest.approx(old, rel=0.2)
    assert new_rate == pytest.approx(new, rel=0.2)
