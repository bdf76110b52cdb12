from pathlib import Path

import click
import pytest

from bench.records import write_run
from bench.report.marked import markers
from bench.report.readme_table import MARK
from hat.commands.bench_report import report
from process.errors import UserError
from tests.support.bench_runs import made_up_run

pytestmark = pytest.mark.slow


def _call(*arguments: object) -> None:
    report.main(args=[str(each) for each in arguments], standalone_mode=False)


def _results(folder: Path) -> Path:
    path = folder / "results.json"
    write_run(path, made_up_run(arms=("u-shape", "hat")))
    return path


def test_the_command_writes_the_page_the_pictures_and_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readme, chart = tmp_path / "README.md", tmp_path / "links.svg"
    begin, end = markers(MARK)
    readme.write_text(f"# Before\n\n{begin}\n{end}\n\nafter\n")
    _call(_results(tmp_path), "--out", tmp_path / "out", "--table", readme, "--chart", chart)
    pictures = list((tmp_path / "out" / "pictures").glob("*.png"))
    expected = f"Wrote {tmp_path}/out/report.html and {len(pictures)} pictures.\n"
    assert capsys.readouterr().out == expected
    assert "| `hat` |" in readme.read_text()
    assert chart.read_text().startswith("<svg ")


def test_a_wrong_file_is_named_in_one_line(tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text("{}")
    for path, expected in (
        (other, "expected a run of `hat bench`"),
        (tmp_path / "none.json", "No such file"),
    ):
        with pytest.raises(UserError, match=f"^{path}: {expected}"):
            _call(path, "--out", tmp_path / "out")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^cannot write .*/file"):
        _call(_results(tmp_path), "--out", tmp_path / "file")


def test_results_are_needed_and_limits_are_positive(tmp_path: Path) -> None:
    with pytest.raises(click.UsageError, match="results"):
        _call("--out", tmp_path)
    with pytest.raises(click.UsageError, match="is not in the range"):
        _call(_results(tmp_path), "--out", tmp_path, "--tbt-limit", "0")
