"""`python -m bench.drafters live`, a small run: real processes over a relayed link."""

import sys
from pathlib import Path

import pytest

from bench.drafters.__main__ import main
from bench.drafters.live_command import MARK
from bench.records import Cell, read_run
from bench.report.marked import markers
from tests.support.reference import STORIES
from tests.support.stack import split_for_serving
from tests.support.stored_adapters import ADAPTER

pytestmark = pytest.mark.alone


def test_a_small_run_gives_the_same_texts_and_writes_tables_and_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles = split_for_serving(STORIES, tmp_path / "split", 1)
    table, out = tmp_path / "page.md", tmp_path / "live.json"
    table.write_text("\n".join(["before", *markers(MARK), "after"]))
    flags = ["--adapter", str(ADAPTER), "--paper", str(ADAPTER), "--out", str(out)]
    flags += ["--parts", "usual,adversarial"]
    flags += ["--link", "up=50mbit,down=50mbit,rtt=4ms", "--link-kind", "tcp"]
    flags += ["--requests", "2", "--max-tokens", "12", "--adversarial", "3"]
    flags += ["--adversarial-tokens", "8", "--warm-up-tokens", "30", "--table", str(table)]
    monkeypatch.setattr(sys, "argv", ["bench.drafters", "live", str(bundles), *flags])
    assert main() == 0
    cells = read_run(out).cells
    usual = ("u-shape", "hat-ngram", "hat", "hat-no-ahead", "hat-ahead", "hat-as-paper")
    assert [(cell.workload.name, cell.arm) for cell in cells] == [
        *(("tinystories", arm) for arm in usual),
        *(("adversarial", arm) for arm in ("u-shape", "hat")),
    ]
    per_arm = {cell.arm: cell for cell in cells[:6]}
    assert all(one.rounds == 11 for one in per_arm["u-shape"].requests)
    assert all(one.rounds < 11 for one in per_arm["hat-as-paper"].requests)
    assert {one.category for one in cells[7].requests} == {
        "random words",
        "another language",
        "base64",
    }
    check_turns(cells[:6])
    ran = [sum(cell.cloud_step_tokens) for cell in cells]
    least = [sum(one.prompt_tokens + one.rounds for one in cell.requests) for cell in cells]
    assert ran[0] == least[0], "every step is known to be of one arm, and none of them is lost"
    assert ran[5] > least[5]
    text = table.read_text()
    assert text.startswith("before")
    assert text.endswith("after")
    assert "| 4 ms | `hat-as-paper` |" in text
    assert "| 4 ms | base64 |" in text
    assert "rtt=4ms" in text

    table.write_text("\n".join(["before", *markers(MARK), "after"]))
    flags = ["live-tables", str(out), "--table", str(table)]
    monkeypatch.setattr(sys, "argv", ["bench.drafters", *flags])
    assert main() == 0
    assert table.read_text() == text


def check_turns(cells: list[Cell]) -> None:
    """Each prompt went to all arms before the next one, first to another one each time."""
    asked = sorted((one.arrival_s, one.number, cell.arm) for cell in cells for one in cell.requests)
    assert [number for _, number, _ in asked] == [0] * len(cells) + [1] * len(cells)
    arms = [arm for _, _, arm in asked]
    first, second = arms[: len(cells)], arms[len(cells) :]
    assert second == [*first[1:], first[0]]


def test_what_the_time_does_not_allow_is_left_out_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundles = split_for_serving(STORIES, tmp_path / "split", 1)
    flags = ["--minutes", "0", "--out", str(tmp_path / "live.json"), "--link", "loopback"]
    monkeypatch.setattr(sys, "argv", ["bench.drafters", "live", str(bundles), *flags])
    assert main() == 0
    assert read_run(tmp_path / "live.json").cells == []
    assert capsys.readouterr().err.count("left out, since 0 s are over") == 3
