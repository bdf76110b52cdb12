from pathlib import Path

import pytest

from bench.records import Run, write_run
from bench.report.figures import ReportError
from bench.report.formats import NONE
from bench.report.readme_table import BEGIN, END, write_table
from tests.support.bench_runs import made_up_cell, made_up_request, made_up_run, sim_grid


def _table(folder: Path, *runs: Run) -> str:
    paths = [folder / f"{number}.json" for number in range(len(runs))]
    for path, run in zip(paths, runs, strict=True):
        write_run(path, run)
    readme = folder / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_table(paths, readme)
    text = readme.read_text()
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"\n{END}\nafter\n")
    assert "old" not in text
    return text


def test_the_table_has_a_line_per_arm_and_says_where_it_comes_from(tmp_path: Path) -> None:
    requests = [made_up_request([(0.3, 1), (0.4, 2)], rounds=1, drafted=[1], accepted=[1])]
    slow = [made_up_request([(0.6, 1), (0.7, 1), (0.8, 1)])]
    cells = [made_up_cell(requests=requests), made_up_cell(arm="u-shape", requests=slow)]
    text = _table(tmp_path, made_up_run(cells=cells))
    assert f"| `u-shape` | 600 / 600 | 1.00 | 100 / 100 | {NONE} | reference |\n" in text
    assert "| `hat` | 300 / 300 | 0.50 | 50.0 / 50.0 | 2.00 | same |\n" in text
    assert "**storybook-7m**, tinystories x 24, up=10mbit,down=20mbit,rtt=40ms (link: tap)" in text
    origin = "Measured by `hat bench live --quick`, seed 0, on Made-up processor, 2 cores, "
    assert f"{origin}load average 0.2 before, commit 0123456789ab.\n" in text


def test_rows_have_as_many_cells_as_their_head(tmp_path: Path) -> None:
    other = made_up_run(cells=[made_up_cell(setting="other", arm="device-only", requests=[])])
    rows = [line for line in _table(tmp_path, made_up_run(), other).splitlines() if "|" in line]
    assert {row.count("|") for row in rows[:5]} == {7}
    assert {row.count("|") for row in rows[5:]} == {6}
    assert rows[-1] == f"| storybook-7m, other{4 * f' | {NONE}'} |"


def test_what_differs_and_what_failed_stands_in_the_table(tmp_path: Path) -> None:
    wrong = made_up_request([(0.3, 1)], output_sha256="other")
    lost = made_up_request([], number=1, error="cloud_lost")
    cells = [made_up_cell(arm="u-shape"), made_up_cell(requests=[wrong, lost])]
    assert "**1 of 1 differ**; 1 failed |" in _table(tmp_path, made_up_run(cells=cells))


def test_simulated_settings_are_left_out_beside_live_ones(tmp_path: Path) -> None:
    live = made_up_run(arms=("u-shape", "hat"))
    sim = sim_grid(made_up_run(arms=("u-sarathi",)))
    assert "u-sarathi" not in _table(tmp_path, live, sim)
    assert "u-sarathi" in _table(tmp_path, sim)


@pytest.mark.parametrize("text", ["", BEGIN, f"{END}\n{BEGIN}", f"{BEGIN}{END}{BEGIN}"])
def test_a_file_without_both_markers_stays_as_it_is(tmp_path: Path, text: str) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(text)
    write_run(tmp_path / "0.json", made_up_run())
    with pytest.raises(ReportError, match=r"README\.md: expected one line <!-- bench:begin -->"):
        write_table([tmp_path / "0.json"], readme)
    assert readme.read_text() == text


def test_files_without_cells_give_no_table(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="expected results, got files without cells"):
        _table(tmp_path, made_up_run(cells=[]))
