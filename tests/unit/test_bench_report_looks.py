import pytest

from bench.arms import arm_names
from bench.records import LinkRecord
from bench.report import formats
from bench.report.drawing import MOST_POINTS, thinned
from bench.report.groups import ARM_ORDER, arm_order
from bench.report.palette import colours, looks, step_looks


def test_arms_are_told_apart_by_colour_and_none_changes_with_its_company() -> None:
    whole = looks([*ARM_ORDER, "u-new", "u-newer", "v"])
    assert len({look.colour for look in whole.values()}) == len(whole)
    assert looks(["u-shape", "hat"]) == {arm: whole[arm] for arm in ("u-shape", "hat")}


def test_every_arm_that_can_be_run_has_a_place_and_a_look_of_its_own() -> None:
    assert set(arm_names()) <= set(ARM_ORDER)
    assert sorted(arm_names(), key=arm_order) == [a for a in ARM_ORDER if a in arm_names()]


def test_a_variant_has_its_arms_colour_and_another_line() -> None:
    found = looks(["u-shape", "u-shape+all-rows"])
    assert found["u-shape"].colour == found["u-shape+all-rows"].colour
    assert found["u-shape"].line != found["u-shape+all-rows"].line


def test_every_look_has_a_colour_for_dark_pages() -> None:
    known = colours()
    used = [*looks([*ARM_ORDER, *"abcdefgh"]).values(), *step_looks(8)]
    assert {look.colour for look in used} <= known.keys()


def test_steps_of_a_quantity_are_told_apart() -> None:
    for count in range(1, 9):
        found = step_looks(count)
        assert len(set(found)) == count == len(found)


def test_a_long_line_is_thinned_and_keeps_its_ends() -> None:
    values = [float(value) for value in range(10_000)]
    kept = thinned(values)
    assert len(kept) == MOST_POINTS
    assert (kept[0], kept[-1]) == (0.0, 9999.0)
    assert kept == sorted(kept)
    assert thinned(values[:10]) == values[:10]


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
