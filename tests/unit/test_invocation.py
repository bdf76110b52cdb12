"""Printed commands call the same program that printed them."""

import os
import sys
from pathlib import Path

import pytest

from hat.invocation import command_line


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "hat"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_a_program_on_the_path_is_called_by_its_name(
    monkeypatch: pytest.MonkeyPatch, program: Path
) -> None:
    monkeypatch.setattr(sys, "argv", [str(program)])
    monkeypatch.setenv("PATH", str(program.parent))
    assert command_line("cloud", "my bundle") == "hat cloud 'my bundle'"


def test_a_program_elsewhere_is_called_by_its_path(
    monkeypatch: pytest.MonkeyPatch, program: Path
) -> None:
    monkeypatch.setattr(sys, "argv", [str(program)])
    monkeypatch.setenv("PATH", os.devnull)
    assert command_line("chat") == f"{program} chat"


def test_a_module_is_called_with_the_same_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/hat/__main__.py"])
    monkeypatch.setenv("PATH", os.devnull)
    assert command_line("chat") == f"{sys.executable} -m hat chat"
