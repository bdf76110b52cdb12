"""`hat bench` in an installation without the benchmarks' files, or without the benchmarks."""

from pathlib import Path

import pytest

from bench.data_folder import MissingDataError
from bench.link.rates import recorded_rates
from bench.workloads.data_files import trace_rows
from hat.cli import FAILED, run

_SIM = ("bench", "sim", "--scale", "--loads", "1", "--clouds", "1", "--out")


def _said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(arguments) == FAILED
    *progress, said = capsys.readouterr().err.splitlines()
    assert all(line.startswith("1 of ") for line in progress)
    return said


def test_missing_files_are_one_line_that_says_where_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bench.workloads.data_files.DATA", tmp_path / "data")
    monkeypatch.setattr("bench.models.GPT2_TOKENIZER", tmp_path / "data" / "gpt2")
    monkeypatch.setattr("bench.link.rates._TRACES", tmp_path / "traces")
    # What another test of this process has read.
    trace_rows.cache_clear()
    out = str(tmp_path / "out")
    for command, what in (
        (("bench", "make-model", "tiny", "--out", out), "gpt2"),
        ((*_SIM, out, "--arrivals", "azure-conv"), "data"),
    ):
        said = _said(capsys, *command)
        assert said.startswith(f"hat: the benchmarks' {what} are not part of this installation")
        assert said.endswith("run this in a checkout of hat's sources: pip install -e '.[all]'")
    with pytest.raises(MissingDataError, match="the benchmarks' traces are not part"):
        recorded_rates("oboe-0")


def test_missing_benchmarks_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("hat.commands.bench.find_spec", lambda name: None)
    assert "are not part of this installation" in _said(capsys, "bench", "report", "x.json")
