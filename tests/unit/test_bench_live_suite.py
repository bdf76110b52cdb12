"""The list of commands behind `make bench`."""

from pathlib import Path

import click
import pytest

from bench.arms import arm_names
from bench.link.spec import parse_link_spec
from bench.report.links import MARK as LINKS_MARK
from bench.report.marked import markers
from bench.report.readme_table import MARK
from bench.sim.settings import slow_links
from bench.suite import parts
from hat.commands.bench import bench

OUT = Path("results")
ROOT = Path(__file__).parents[2]


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


def test_the_whole_is_planned_for_12_minutes_and_the_quick_one_for_3() -> None:
    assert sum(part.budget_s for part in parts(OUT)) <= 12 * 60
    assert sum(part.budget_s for part in parts(OUT, is_quick=True)) <= 3 * 60


def test_nothing_is_read_before_it_is_written() -> None:
    written: set[str] = set()
    for part in parts(OUT):
        read = {text for text in part.argv if text.endswith(".json")} - {str(part.writes)}
        assert read <= written
        written.add(str(part.writes))


def test_the_report_takes_all_results() -> None:
    *before, report = parts(OUT)
    results = {str(part.writes) for part in before if part.writes.suffix == ".json"}
    assert results <= set(report.argv)


@pytest.mark.parametrize(
    ("document", "marks"),
    [("docs/benchmarks.md", (LINKS_MARK, MARK)), ("README.md", (MARK, slow_links.MARK))],
)
def test_documents_have_places_for_what_is_written(document: str, marks: tuple[str, ...]) -> None:
    text = (ROOT / document).read_text("utf-8")
    lines = [line for mark in marks for line in markers(mark)]
    assert [text.count(line) for line in lines] == [1] * len(lines)
    assert sorted(lines, key=text.index) == lines


def test_results_name_files_as_one_would_type_them_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert not any(word.startswith("/") for part in parts(OUT) for word in part.argv)


def test_the_models_with_small_results_come_behind_the_real_one() -> None:
    first, *_ = parts(OUT)
    assert "--model" not in first.argv
    assert not any("--model" in part.argv for part in parts(OUT, is_quick=True))
