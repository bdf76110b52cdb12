"""A prompt of which nothing is known takes little longer than one of which everything is."""

from itertools import product
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunking.bounded_planner import BoundedPlanner
from chunking.cost import LinearTime, PipelineTimes, ttft_bound_s, ttft_s
from chunking.planner import WAIT, Prefill
from chunking.state_monitor import StateMonitor
from tests.support.examples import at_most
from tests.support.simulated_link import SimulatedLink, send_prompt

ROW_BYTES = (771, 5488)
"""Of 576 and 4,096 numbers in 16 bits, as coded."""

DEVICES = (LinearTime(0.001, 5e-5), LinearTime(0.002, 2e-4), LinearTime(0.005, 1e-3))
CLOUDS = (
    LinearTime(0.004, 5e-5),
    LinearTime(0.02, 8e-4),
    LinearTime(0.04, 4e-4),
    LinearTime(0.008, 2e-5),
)
"""Processors of laptops, and a GPU."""

PIPELINES = [
    (num_tokens, PipelineTimes(device, row_bytes / (125_000 * mbit_per_s), cloud, delay_s))
    for num_tokens, device, row_bytes, mbit_per_s, cloud, delay_s in product(
        (256, 512, 2048), DEVICES, ROW_BYTES, (5, 40), CLOUDS, (0.01, 0.08)
    )
]


class TwoChunksOfSixtyFour(BoundedPlanner):
    """The same rule behind the plainest start there is."""

    def next_chunk_tokens(self, prefill: Prefill) -> int:
        if prefill.estimates.times() is not None:
            return BoundedPlanner.next_chunk_tokens(self, prefill)
        return WAIT if prefill.num_in_flight >= 2 else min(64, prefill.num_remaining_tokens)


def first_s(num_tokens: int, times: PipelineTimes, planner: BoundedPlanner) -> float:
    """What the first prompt on a connection takes, if all goes as these times say."""
    row_bytes = 1024
    rate = row_bytes / times.uplink_token_s
    link = SimulatedLink(rate, times.delay_s, times.cloud, row_bytes, times.device)
    monitor = StateMonitor()
    link.open(monitor)
    chunks, took_s = send_prompt(link, monitor, planner, num_tokens)
    assert sum(chunks) == num_tokens
    return took_s


def of_known(num_tokens: int, times: PipelineTimes, planner: BoundedPlanner) -> float:
    """Of the time that the planner takes who knows all, which may be a little too long itself."""
    known_s = ttft_s(planner.plan(num_tokens, times), times)
    return first_s(num_tokens, times, planner) / known_s


def test_a_first_prompt_is_about_as_soon_there_as_one_of_which_all_is_known():
    shares = [of_known(num_tokens, times, BoundedPlanner()) for num_tokens, times in PIPELINES]
    assert mean(shares) <= 1.04
    assert max(shares) <= 1.6


@pytest.mark.parametrize(("num_tokens", "limit"), [(512, 1.05), (2048, 1.02)])
def test_where_the_link_is_the_limit_a_first_prompt_is_near_the_bound(num_tokens, limit):
    ratios = [
        first_s(num_tokens, times, BoundedPlanner()) / ttft_bound_s(num_tokens, times)
        for length, times in PIPELINES
        if length == num_tokens
        if max(times.device.token_s, times.cloud.token_s) < 0.7 * times.uplink_token_s
    ]
    assert mean(ratios) <= limit


@given(
    num_tokens=st.integers(1, 4096),
    times=st.builds(
        PipelineTimes,
        device=st.builds(LinearTime, st.floats(0.001, 0.005), st.floats(5e-5, 1e-3)),
        uplink_token_s=st.floats(-4.2, -2.0).map(lambda exponent: 10.0**exponent),
        cloud=st.builds(LinearTime, st.floats(0.004, 0.04), st.floats(2e-5, 8e-4)),
        delay_s=st.floats(0.01, 0.08),
    ),
)
@settings(max_examples=at_most(60))
def test_the_start_costs_no_more_than_a_step_and_a_twelfth_beside_the_plainest(num_tokens, times):
    ours = first_s(num_tokens, times, BoundedPlanner())
    plainest = first_s(num_tokens, times, TwoChunksOfSixtyFour())
    assert ours <= 1.08 * plainest + times.cloud.fixed_s


@given(num_tokens=st.integers(1, 4096))
def test_before_anything_is_measured_three_chunks_of_different_sizes_go_up_and_no_more(num_tokens):
    sent: list[int] = []
    while (left := num_tokens - sum(sent)) > 0:
        prefill = Prefill(num_tokens, left, len(sent), sent=tuple(sent))
        chunk = BoundedPlanner().next_chunk_tokens(prefill)
        if chunk == WAIT:
            break
        assert chunk <= left
        sent.append(chunk)
    assert len(sent) <= 3
    if num_tokens <= 128:
        assert sum(sent) == num_tokens
    if num_tokens >= 352:
        assert sent == [32, 64, 128]


def test_a_link_whose_frames_are_too_short_to_be_measured_is_used_all_the_same():
    link = SimulatedLink(1e6, 0.02, CLOUDS[0], 16, DEVICES[0])
    monitor = StateMonitor()
    link.open(monitor)
    chunks, _ = send_prompt(link, monitor, BoundedPlanner(), 1000)
    assert sum(chunks) == 1000
    assert monitor.estimates(16).times() is None
    assert max(chunks) == 128
