"""Whether rows are coded: the cost model's own answer, which never picks the slower way."""

from hypothesis import given
from hypothesis import strategies as st

from chunking.coding import Coding
from chunking.cost import LinearTime, PipelineTimes, ttft_s
from chunking.estimates import Estimates
from chunking.paper_planner import PaperPlanner
from chunking.planner import Prefill
from chunking.state_monitor import StateMonitor

TOKEN_BYTES = 8192
PER_MB = LinearTime(0.0001, 3.5e-3 * TOKEN_BYTES / 1e6)
"""What coding rows of 4,096 BF16 numbers takes, at 3.5 ms per MB."""

fixed_times = st.floats(0.0, 0.05)
token_times = st.floats(1e-6, 0.01)
lines = st.builds(LinearTime, fixed_times, token_times)
stages = st.builds(PipelineTimes, lines, token_times, lines, fixed_times)
codings = st.builds(Coding, lines, st.floats(0.3, 1.0))


EXACT = Coding(PER_MB, 0.67)


def known(bytes_per_s: float, coding: Coding | None = EXACT) -> Estimates:
    return Estimates(
        token_bytes=TOKEN_BYTES,
        uplink_bytes_per_s=bytes_per_s,
        downlink_bytes_per_s=bytes_per_s,
        delay_s=0.02,
        cloud_step=LinearTime(0.015, 0.0002),
        prefill=LinearTime(0.001, 0.0001),
        coding=coding,
    )


@given(times=stages, coding=codings)
def test_prompts_are_coded_only_where_the_usual_one_is_sooner(times, coding):
    chunks = (64,) * 8
    is_sooner = ttft_s(chunks, coding.applied(times)) < ttft_s(chunks, times)
    assert coding.suits_prompts(times) is is_sooner


@given(times=stages, coding=codings, num_tokens=st.integers(1, 64))
def test_a_verification_is_coded_only_where_both_ways_together_are_sooner(
    times, coding, num_tokens
):
    reply_token_s = times.uplink_token_s
    saved_s = num_tokens * (1 - coding.share) * (times.uplink_token_s + reply_token_s)
    coded_s = 2 * 1.5 * coding.time.of(num_tokens)
    if abs(saved_s - coded_s) > 1e-9:
        chosen = coding.suits_verification(num_tokens, times, reply_token_s)
        assert chosen is (saved_s > coded_s)


@given(times=stages, coding=codings)
def test_what_is_always_coded_is_coded_whatever_it_brings(times, coding):
    forced = Coding(coding.time, coding.share, is_always=True)
    assert forced.suits_prompts(times)
    assert forced.suits_verification(1, times, 0.0)


def test_slow_links_are_coded_for_and_fast_ones_are_not():
    for mbit_per_s, is_coded in ((5, True), (40, True), (100, True), (10_000, False)):
        estimates = known(mbit_per_s * 125_000)
        assert estimates.codes(5, True) is is_coded, mbit_per_s
        assert estimates.codes(64, False) is is_coded, mbit_per_s


def test_a_device_that_is_slower_than_its_link_does_not_code_prompts():
    slow = Estimates(
        token_bytes=TOKEN_BYTES,
        uplink_bytes_per_s=25e6,
        cloud_step=LinearTime(0.001, 1e-5),
        prefill=LinearTime(0.0, 0.05),
        coding=Coding(LinearTime(0.0, 0.01), 0.67),
    )
    assert not slow.codes(64, False)


def test_the_planner_sees_the_stages_as_they_will_be():
    coded, plain = known(5e6).times(), known(5e6, None).times()
    assert coded is not None
    assert plain is not None
    assert coded.uplink_token_s == 0.67 * plain.uplink_token_s
    assert coded.device.token_s == plain.device.token_s + PER_MB.token_s
    assert coded.cloud.token_s == plain.cloud.token_s + 0.5 * PER_MB.token_s
    assert known(1e10).times() == known(1e10, None).times()


def test_the_papers_rule_counts_the_bytes_that_are_sent():
    planner = PaperPlanner()
    coded = planner.next_chunk_tokens(Prefill(2048, 2048, estimates=known(10e6)))
    plain = planner.next_chunk_tokens(Prefill(2048, 2048, estimates=known(10e6, None)))
    assert coded > plain


def test_nothing_is_known_before_rows_were_coded_and_nothing_where_they_cannot_be():
    monitor = StateMonitor()
    assert monitor.estimates(TOKEN_BYTES).coding is None
    monitor.on_coded(64, 0.002, 0.67)
    assert monitor.estimates(TOKEN_BYTES).coding is None
    monitor.can_code = True
    coding = monitor.estimates(TOKEN_BYTES).coding
    assert coding is not None
    assert coding.share == 0.67
    assert coding.time.of(64) == 0.002
    assert monitor.estimates(TOKEN_BYTES).codes(5, True)
