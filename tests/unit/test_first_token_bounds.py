"""The bound of a first token: what no cut can beat, and which stage sets it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.first_token.__main__ import line_of
from bench.first_token.bounds import FRAME_SHARE, Bound, Stages, bound, oracle_upload_s
from bench.first_token.measure import First
from bench.link.rates import RecordedRate
from chunking.cost import LinearTime, PipelineTimes, ttft_s

seconds = st.floats(0.001, 10.0)


@given(cut=st.lists(st.integers(1, 500), min_size=1, max_size=9), token_s=st.tuples(*[seconds] * 3))
def test_no_cut_is_faster_than_its_bound(
    cut: list[int], token_s: tuple[float, float, float]
) -> None:
    device_s, uplink_s, cloud_s = token_s
    fixed_s, num_tokens = 0.01, sum(cut)
    cloud = LinearTime(fixed_s, cloud_s)
    times = PipelineTimes(LinearTime(fixed_s, device_s), uplink_s, cloud, delay_s=0.04)
    least_step_s = min(cloud.of(size) for size in cut)
    stages = Stages(times.device.of(num_tokens), cloud.of(num_tokens), least_step_s, 0.04)
    least = bound(stages, num_tokens * uplink_s)
    assert least.seconds <= ttft_s(cut, times) * (1 + 1e-9)


def test_a_stage_that_is_nearly_as_long_is_named_beside_the_longest() -> None:
    assert bound(Stages(0.1, 0.5, 0.01, 0.04), upload_s=1.0).stage == "link"
    assert bound(Stages(0.1, 0.8, 0.01, 0.04), upload_s=1.0).stage == "link, cloud"
    assert bound(Stages(2.0, 0.8, 0.01, 0.04), upload_s=1.0).stage == "device"


def test_who_knows_a_recorded_link_waits_for_its_outage_to_end() -> None:
    rate = RecordedRate([0.0, 1.0, 2.0], [1000.0, 0.0, 1000.0], 3.0)
    num_bytes = round(1000 / FRAME_SHARE)
    assert oracle_upload_s(rate, 0.5, num_bytes) == pytest.approx(2.0, abs=0.01)
    assert oracle_upload_s(rate, 2.0, num_bytes) == pytest.approx(1.0, abs=0.01)


def test_a_line_has_medians_and_ratios_prompt_by_prompt() -> None:
    def first(arm: str, seconds: float) -> First:
        least = Bound(1.0, {"link": 1.0, "device": 0.1, "cloud": 0.1})
        return First(arm, seconds, least, 1000, 10, 1, is_same=seconds != 9.0)

    found = [first("u", value) for value in (2.0, 4.0, 6.0)]
    found += [first("h", value) for value in (1.0, 9.0, 3.0)]
    line = line_of("a link", 10, "h", found, "u")
    assert (line.ttft_s, line.over_bound, line.worst_over_bound) == (3.0, 3.0, 9.0)
    assert line.over_first_arm == 0.5
    assert (line.num_same, line.num_prompts, line.stage) == (2, 3, "link")
