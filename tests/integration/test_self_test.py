"""`hat cloud --self-test` as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cloud_server.config import CloudConfig
from hat.cli import run
from hat.self_test.random_bundle import model_for, random_bundle
from hat.self_test.run import Extent, self_test
from tests.support.vllm_engines import has_vllm

ROOT = Path(__file__).parents[2]
BRIEF = Extent(num_steps=2, has_large_model=False)
NUM_CHECKS = 6

_WITHOUT_TRANSFORMERS = """
import sys
from pathlib import Path

sys.modules["transformers"] = None
from cloud_server.config import CloudConfig
from hat.self_test.run import Extent, self_test

extent = Extent(num_steps=1, has_large_model=False)
sys.exit(self_test(CloudConfig(Path(), threads=1, device="cpu"), False, print, extent))
"""


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("HAT_")]:
        monkeypatch.delenv(name)


def _tested(config: CloudConfig) -> tuple[int, list[str]]:
    said: list[str] = []
    return self_test(config, False, said.append, BRIEF), said


def _verdicts(lines: list[str]) -> list[str]:
    words = [line.split() for line in lines if line.startswith("  ")]
    return [next(word for word in line if word in ("ok", "FAILED")) for line in words if _is(line)]


def _is(words: list[str]) -> bool:
    return "ok" in words or "FAILED" in words


def test_random_models_are_split_and_equal_transformers(capfd):
    code, said = _tested(CloudConfig(Path(), threads=1, device="cpu"))
    assert code == 0
    assert _verdicts(said) == ["ok"] * (2 + 3 * NUM_CHECKS)
    assert said.count("  against transformers in float32") == 3
    assert f"checks {2 + 3 * NUM_CHECKS}/{2 + 3 * NUM_CHECKS}" in said[-1]
    assert capfd.readouterr().out == ""


def test_a_bundle_is_checked_against_itself(folder, capsys):
    code = run(["cloud", str(folder), "--self-test", "--threads", "1", "--device", "cpu"])
    lines = capsys.readouterr().out.splitlines()
    assert code == 0
    assert _verdicts(lines) == ["ok"] * NUM_CHECKS
    assert "  against the engine's own whole prompt" in lines
    assert f"checks {NUM_CHECKS}/{NUM_CHECKS}" in lines[-1]
    assert str(folder) not in lines[-1]


def test_an_engine_that_does_not_start_is_a_finding_with_its_reason():
    code, said = _tested(CloudConfig(Path(), device="cuda:99"))
    assert code == 1
    failed = [line for line in said if "FAILED" in line]
    assert failed
    assert all("cuda:99" in line for line in failed[:-1])
    assert "checks 2/6" in said[-1]


def test_without_transformers_the_engine_is_checked_against_itself():
    command = [sys.executable, "-c", _WITHOUT_TRANSFORMERS]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = result.stdout.splitlines()
    assert result.returncode == 0, result.stderr
    assert lines[0].startswith("Against transformers: not checked, transformers and tokenizers")
    assert lines.count("  against the engine's own whole prompt") == 2
    assert _verdicts(lines) == ["ok"] * (2 * NUM_CHECKS)


def test_a_bundle_that_is_none_is_said_so(tmp_path, capsys):
    assert run(["cloud", str(tmp_path), "--self-test"]) == 1
    assert f"no cloud bundle at {tmp_path}" in capsys.readouterr().out


def test_more_machines_than_one_are_refused(capsys):
    assert run(["cloud", "--self-test", "--engine", "vllm", "--nnodes", "2"]) == 1
    assert "hat: --self-test checks one machine" in capsys.readouterr().err


def test_the_settings_may_be_printed_without_a_bundle(capsys):
    assert run(["cloud", "--self-test", "--print-config"]) == 0
    assert "# bundle is missing" in capsys.readouterr().out


@pytest.mark.skipif(not has_vllm(), reason="needs vLLM: make test-vllm")
def test_vllm_passes_too(tmp_path, capsys):
    made = random_bundle(model_for("qwen3", 1, 1, is_large=False), tmp_path)
    arguments = json.dumps({"enforce_eager": True})
    flags = ["--engine", "vllm", "--vllm-args", arguments, "--capacity-tokens", "16384"]
    code = run(["cloud", str(made.path), "--self-test", *flags])
    lines = capsys.readouterr().out.splitlines()
    assert code == 0, "\n".join(lines)
    assert _verdicts(lines) == ["ok"] * NUM_CHECKS
    assert "to plan and send" in "\n".join(lines)
