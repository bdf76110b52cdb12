"""The list of commands behind `make bench`."""

from pathlib import Path

import click
import pytest

from bench.arms import arm_names
from bench.link.spec import parse_link_spec
from bench.report.figures import ReportError
from bench.report.readme_table import BEGIN, END, README_ARMS, three_rows, write_three_rows
from bench.suite import LINKS, RATES, RTTS_MS, parts
from hat.commands.bench import bench

OUT = Path("results")
ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "benchmarks.md"


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


def test_the_page_has_a_place_for_the_table() -> None:
    text = PAGE.read_text("utf-8")
    assert text.count(BEGIN) == text.count(END) == 1
    assert text.index(BEGIN) < text.index(END)


def test_the_readme_has_three_rows_of_the_pages_table(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_three_rows(PAGE, readme)
    rows = three_rows(PAGE)
    assert readme.read_text() == f"before\n{BEGIN}\n{rows}{END}\nafter\n"
    assert rows.count("\n| `") == len(README_ARMS) == 3
    assert rows in (ROOT / "README.md").read_text("utf-8")


@pytest.mark.parametrize("page", ["", f"{BEGIN}\n**m**, s.\n\n| arm |\n|---|\n| `hat` |\n{END}"])
def test_a_page_without_these_rows_is_refused(tmp_path: Path, page: str) -> None:
    (tmp_path / "page.md").write_text(page)
    with pytest.raises(ReportError, match="expected"):
        three_rows(tmp_path / "page.md")
