import pytest

from bench.arms import arm_names
from bench.records import LinkRecord
from bench.report import formats
from bench.report.drawing import colour
from bench.report.groups import ARM_ORDER, arm_order


def test_arms_are_told_apart_by_colour() -> None:
    assert len({colour(arm) for arm in ARM_ORDER}) == len(ARM_ORDER)
    assert colour("hat") == "C0"


def test_every_arm_that_can_be_run_has_a_place_of_its_own() -> None:
    assert sorted(arm_names(), key=arm_order) == list(ARM_ORDER)


def test_a_variant_has_its_arms_colour() -> None:
    assert colour("u-shape+all-rows") == colour("u-shape")


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (None, formats.NONE),
        (0.0, "0.00"),
        (0.0045312, "4.53"),
        (0.0099999, "10.0"),
        (0.04531, "45.3"),
        (0.45312, "453"),
        (4.5312, "4\u202f531"),
    ],
)
def test_milliseconds_have_three_digits_that_count(seconds: float | None, expected: str) -> None:
    assert formats.milliseconds(seconds) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, formats.NONE),
        (0.0, "0\u202fB"),
        (999.0, "999\u202fB"),
        (1536.0, "1.54\u202fkB"),
        (2.5e6, "2.50\u202fMB"),
        (2.5e9, "2.50\u202fGB"),
    ],
)
def test_bytes_have_a_unit(value: float | None, expected: str) -> None:
    assert formats.num_bytes(value) == expected


def test_a_link_is_told_in_one_line() -> None:
    shaped = LinkRecord(kind="netem", downlink_bytes_per_s=2.5e6, delay_s=0.0205, jitter_s=0.001)
    assert formats.link_asked(shaped) == (
        "netem, unlimited up, 20 Mbit/s down, round trip 41 ms, jitter 1 ms"
    )
    traced = LinkRecord(kind="tap", trace="oboe-0", delay_s=0.03, loss=0.005)
    assert formats.link_asked(traced) == "tap, trace oboe-0, round trip 60 ms, loss 0.5 %"
    assert formats.link_measured(traced) == ""
    troubled = LinkRecord(
        kind="tap",
        uplink_bytes_per_s=2.5e6,
        loss=0.01,
        burst_s=0.03,
        reorder=0.02,
        late_s=0.005,
        move_s=20.0,
    )
    assert formats.link_asked(troubled) == (
        "tap, 20 Mbit/s up, unlimited down, round trip 0 ms, loss 1 % in bursts of 30 ms, "
        "2 % of packets 5 ms late, another address every 20 s"
    )
