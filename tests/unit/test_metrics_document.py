"""docs/metrics.md lists every metric of both programs, and their names keep Prometheus' rules."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from process.program.build import built, built_here
from tests.support.metric_tables import (
    DOCUMENT,
    FOREIGN,
    PAGES,
    families,
    full_name,
    with_fresh_tables,
)

UNITS = ("seconds", "bytes", "tokens", "rows", "bytes_per_second", "seconds_total", "bytes_total")
COUNTED = re.compile(
    r"(?:^|_)(?:num|requests|connections|sessions|lanes|connected|perc|info)(?:_|$)"
)
"""What is a plain number, a share, or a fact."""


def test_the_tables_are_fresh() -> None:
    """Stale? `python -m tests.support.metric_tables` rewrites them."""
    text = DOCUMENT.read_text()
    assert with_fresh_tables(text) == text


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_names_have_units_and_texts_are_sentences(page) -> None:
    own = [each for each in families(page()) if not each.name.startswith(FOREIGN)]
    assert own
    for metric in own:
        name = full_name(metric)
        assert re.fullmatch(r"hat_[a-z0-9_]+", name), name
        assert metric.documentation.endswith("."), name
        if metric.type in {"gauge", "histogram"}:
            assert name.endswith(UNITS) or COUNTED.search(name), name


@pytest.mark.parametrize(("name", "page"), PAGES.items(), ids=PAGES)
def test_a_page_says_which_build_runs(name, page) -> None:
    [build] = [each for each in families(page()) if each.name == "hat_build_info"]
    labels = build.samples[0].labels
    assert labels["side"] == name
    assert {"version", "commit", "engine", "number_format"} <= labels.keys()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="only Linux tells")
@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_a_page_has_the_figures_of_its_process(page) -> None:
    names = {full_name(each) for each in families(page())}
    text = DOCUMENT.read_text()
    foreign = {name for name in names if name.startswith(FOREIGN)}
    assert {"process_resident_memory_bytes", "process_open_fds", "python_info"} <= foreign
    assert {name for name in foreign if f"`{name}`" not in text} == set()


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    command = ("git", *who, "-C", str(folder), *arguments)
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_the_commit_is_that_of_the_repository_that_runs(tmp_path) -> None:
    repository, worktree = tmp_path / "repository", tmp_path / "worktree"
    repository.mkdir()
    git(repository, "init", "-q")
    git(repository, "commit", "-q", "--allow-empty", "-m", "one")
    git(repository, "worktree", "add", "-q", "-b", "other", str(worktree))
    git(worktree, "commit", "-q", "--allow-empty", "-m", "two")
    for folder in (repository, worktree):
        assert built({}, folder)["commit"] == git(folder, "rev-parse", "HEAD")[:12]
    git(repository, "pack-refs", "--all")
    git(repository, "checkout", "-q", "--detach")
    for folder in (repository, worktree):
        assert built({}, folder)["commit"] == git(folder, "rev-parse", "HEAD")[:12]


def test_a_commit_that_nothing_tells_is_unknown_and_an_image_may_tell_it(tmp_path) -> None:
    (tmp_path / ".git").mkdir()
    assert built({}, tmp_path)["commit"] == "unknown"
    (tmp_path / ".git" / "HEAD").write_bytes(b"\xff")
    assert built({}, tmp_path)["commit"] == "unknown"
    assert built({"HAT_COMMIT": "0123456789abcdef"}, tmp_path)["commit"] == "0123456789ab"


def test_no_program_is_run_to_find_out(tmp_path) -> None:
    code = "import sys; sys.addaudithook(lambda e, a: sys.exit(3) if 'Popen' in e else None);"
    code += "from process.program.build import built_here; built_here()"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert built_here().keys() == {"version", "commit"}
