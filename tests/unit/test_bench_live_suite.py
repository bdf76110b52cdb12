"""The list of commands behind `make bench`."""

from pathlib import Path

import click
import pytest

from bench.arms import arm_names
from bench.link.spec import parse_link_spec
from bench.report.readme_table import BEGIN, END
from bench.suite import LINKS, RATES, RTTS_MS, parts
from hat.commands.bench import bench

OUT = Path("results")


@pytest.mark.parametrize("is_quick", [False, True])
def test_every_part_is_a_command_as_it_stands(is_quick: bool) -> None:
    for part in parts(OUT, is_quick):
        program, name, *argv = part.argv
        assert program == "bench"
        command = bench.get_command(click.Context(bench), name)
        assert command is not None
        parameters = command.make_context(name, argv).params
        if name == "live":
            assert all(parse_link_spec(link) for link in parameters["links"])
            assert set((parameters["arms"] or "hat").split(",")) <= set(arm_names())
            assert Path(parameters["out"]) == part.writes


def test_the_whole_is_planned_for_20_minutes_and_the_quick_one_for_3() -> None:
    assert sum(part.budget_s for part in parts(OUT)) <= 20 * 60
    assert sum(part.budget_s for part in parts(OUT, is_quick=True)) <= 3 * 60


def test_nothing_is_read_before_it_is_written() -> None:
    written: set[str] = set()
    for part in parts(OUT):
        read = {text for text in part.argv if text.endswith(".json")} - {str(part.writes)}
        assert read <= written
        written.add(str(part.writes))


def test_the_grid_has_two_rates_and_three_round_trips() -> None:
    assert len(set(LINKS)) == len(RATES) * len(RTTS_MS) == 6


def test_the_report_takes_all_results() -> None:
    *before, report = parts(OUT)
    results = {str(part.writes) for part in before if part.writes.suffix == ".json"}
    assert results <= set(report.argv)


def test_the_readme_has_a_place_for_the_table() -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    assert text.count(BEGIN) == text.count(END) == 1
    assert text.index(BEGIN) < text.index(END)
