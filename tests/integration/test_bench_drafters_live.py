"""`python -m bench.drafters live`, a small run: real processes over a relayed link."""

import sys
from pathlib import Path

import pytest

from bench.drafters.__main__ import LIVE_MARK, main
from bench.records import read_run
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
    table.write_text("\n".join(["before", *markers(LIVE_MARK), "after"]))
    flags = ["--adapter", str(ADAPTER), "--paper", str(ADAPTER), "--out", str(out)]
    flags += ["--link", "up=50mbit,down=50mbit,rtt=4ms", "--link-kind", "tcp"]
    flags += ["--requests", "2", "--max-tokens", "12", "--adversarial", "3"]
    flags += ["--adversarial-tokens", "24", "--table", str(table)]
    monkeypatch.setattr(sys, "argv", ["bench.drafters", "live", str(bundles), *flags])
    assert main() == 0
    cells = read_run(out).cells
    assert [(cell.workload.name, cell.arm) for cell in cells] == [
        *(("tinystories", arm) for arm in ("u-shape", "hat-ngram", "hat", "hat-as-paper")),
        *(("adversarial", arm) for arm in ("u-shape", "hat")),
    ]
    per_arm = {cell.arm: cell for cell in cells if cell.workload.name == "tinystories"}
    assert all(one.rounds == 11 for one in per_arm["u-shape"].requests)
    assert all(one.rounds < 11 for one in per_arm["hat-as-paper"].requests)
    assert {one.category for one in cells[-1].requests} == {
        "random words",
        "another language",
        "base64",
    }
    text = table.read_text()
    assert text.startswith("before")
    assert text.endswith("after")
    assert "| 4 ms | `hat-as-paper` |" in text
    assert "| 4 ms | base64 |" in text
    assert "rtt=4ms" in text


def test_what_the_time_does_not_allow_is_left_out_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundles = split_for_serving(STORIES, tmp_path / "split", 1)
    flags = ["--minutes", "0", "--out", str(tmp_path / "live.json"), "--link", "loopback"]
    monkeypatch.setattr(sys, "argv", ["bench.drafters", "live", str(bundles), *flags])
    assert main() == 0
    assert read_run(tmp_path / "live.json").cells == []
    assert capsys.readouterr().err.count("left out, since 0 s are over") == 2
