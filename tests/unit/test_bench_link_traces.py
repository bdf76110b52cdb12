"""Recorded bandwidth: what is shipped can be read, and what is not a trace is refused."""

from pathlib import Path

import pytest

from bench.link.rates import UPLINK_SHARE, recorded_rates, trace_names
from bench.link.shaper import shaper_pairs
from bench.link.spec import LinkSpec, LinkSpecError


@pytest.mark.parametrize("name", trace_names())
def test_every_shipped_trace_is_a_link_of_minutes_at_mobile_rates(name: str) -> None:
    _, down = recorded_rates(name)
    assert down.period_s > 60
    assert 10_000 < down.mean_bytes_per_s < 12.5e6


def test_traces_come_with_their_source_and_licence() -> None:
    folder = Path(__file__).parents[2] / "bench" / "link" / "traces"
    assert "MIT License" in (folder / "LICENSE-MIT").read_text()
    assert "Real-world-bandwidth-traces" in (folder / "README.md").read_text()
    assert len(trace_names()) >= 5


def test_a_line_holds_until_the_next_and_the_last_ends_the_trace(tmp_path: Path) -> None:
    path = tmp_path / "steps.txt"
    path.write_text("5.0 8\n6.0 0\n\n8.0 16\n9.0 99\n")
    up, down = recorded_rates(str(path))
    assert down.period_s == 4
    assert [down.at(moment_s) for moment_s in (0, 0.99, 1, 2.99, 3, 3.99, 4)] == [
        *(1e6, 1e6, 0, 0, 2e6, 2e6, 1e6)
    ]
    assert up.mean_bytes_per_s == down.mean_bytes_per_s * UPLINK_SHARE == 750_000 * UPLINK_SHARE


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "expected two lines or more of seconds and Mbit/s"),
        ("0 1\n", "expected two lines or more"),
        ("0 1 2\n1 1 2\n", "expected two lines or more of seconds and Mbit/s"),
        ("0 fast\n1 2\n", "could not convert string to float: 'fast'"),
        ("0 1\n0 2\n", "expected rising moments"),
        ("0 0\n1 5\n", "expected one rate per moment, none negative, not all 0"),
        ("0 -1\n1 5\n2 1\n", "none negative"),
        ("0 nan\n1 5\n", "expected finite numbers"),
    ],
)
def test_a_file_that_is_no_trace_is_refused(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "trace.txt"
    path.write_text(content)
    with pytest.raises(LinkSpecError) as caught:
        recorded_rates(str(path))
    assert str(caught.value).startswith(f"trace {path}: ")
    assert expected in str(caught.value)


def test_an_unknown_trace_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(LinkSpecError, match=r"expected a file or one of hsdpa-bus-1, .*got lte"):
        recorded_rates("lte")
    with pytest.raises(LinkSpecError, match="No such file"):
        recorded_rates(str(tmp_path / "none.txt"))


def test_links_with_one_trace_begin_at_different_places_of_it() -> None:
    spec = LinkSpec(trace="hsdpa-bus-1")
    moments_s = [[way.offer(0.0, 20_000) for way in pair] for pair in shaper_pairs(spec, 3, 0)]
    assert len({up for up, _ in moments_s}) == len({down for _, down in moments_s}) == 3


def test_the_seed_decides_who_is_lost_and_every_direction_loses_others() -> None:
    def lost(seed: int) -> list[list[bool]]:
        pairs = shaper_pairs(LinkSpec(loss=0.5), 2, seed)
        ways = [way for pair in pairs for way in pair]
        return [[way.offer(0.0, 100) is None for _ in range(64)] for way in ways]

    assert lost(7) == lost(7)
    assert lost(7) != lost(8)
    assert len({tuple(way) for way in lost(7)}) == 4
