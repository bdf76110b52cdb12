"""The packages of hat are its own, and it says so in one line where they would not be."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import hat
from hat.rooms import ROOMS, foreign_rooms

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]


def started(module: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A program of hat's where `folder` is searched before hat's own."""
    environ = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(
        command,
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_package_of_the_wheel_is_looked_after() -> None:
    assert {*ROOMS, "hat"} == {*PACKAGES}


def test_here_all_are_our_own() -> None:
    assert list(foreign_rooms()) == []


@pytest.mark.parametrize("module", ["hat", "hat.child"])
@pytest.mark.parametrize("name", ["adapters", "submodels"])
def test_another_projects_package_of_the_same_name_is_told_in_one_line(
    tmp_path: Path, name: str, module: str
) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("raise ImportError('this is AdapterHub')\n")
    done = started(module, tmp_path, "--version")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"hat: Python finds another project's package {name}: ")
    assert f"would import {tmp_path.resolve() / name}, " in line
    assert f"hat's own is {ROOT / name}. " in line
    assert "install hat in an environment of its own" in line


def test_a_single_file_of_that_name_is_told_too(tmp_path: Path) -> None:
    (tmp_path / "wire.py").write_text("")
    done = started("hat", tmp_path, "--version")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"would import {tmp_path.resolve() / 'wire.py'}, " in done.stderr


def test_a_folder_of_that_name_that_is_no_package_disturbs_nobody(tmp_path: Path) -> None:
    (tmp_path / "bench").mkdir()
    done = started("hat", tmp_path, "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"hat {hat.__version__}\n", "")


def test_the_version_may_be_asked_for_beside_another_projects_package(tmp_path: Path) -> None:
    (tmp_path / "adapters.py").write_text("")
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-c", "import hat; print(hat.__version__)"]
    assert subprocess.check_output(command, env=environ, text=True) == f"{hat.__version__}\n"


def test_the_package_takes_its_version_from_the_one_place() -> None:
    assert PYPROJECT["project"]["dynamic"] == ["version"]
    assert PYPROJECT["tool"]["hatch"]["version"]["path"] == "hat/__init__.py"
    assert f'__version__ = "{hat.__version__}"' in (ROOT / "hat" / "__init__.py").read_text()
