"""Paths as users have them, in units that systemd itself reads."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hat.service.description import Service
from hat.service.systemd import unit_text
from process.errors import ConfigError

ODD = [
    "two words",
    "50% off",
    "se$cret",
    'quo"ted',
    "it's",
    "back\\slash",
    "llama:8b",
    "ä",
    "a;b#c",
]


def _unit(folder: Path) -> str:
    """A service with one path in each place that takes some."""
    return unit_text(
        Service(
            "device",
            (sys.executable, str(folder / "bundle")),
            user=False,
            credentials={"secret": folder / "secret"},
            read_only=(folder / "bundle",),
            writable=(folder / "kept",),
        )
    )


def _value(unit: str, key: str) -> str:
    [line] = [line for line in unit.splitlines() if line.startswith(f"{key}=")]
    return line.partition("=")[2]


@pytest.mark.parametrize("name", ODD)
def test_the_path_of_a_copied_secret_stands_there_as_it_is_but_for_specifiers(name: str) -> None:
    """systemd unquotes nothing there: with quotes no secret came, and the service never started."""
    written = _value(_unit(Path("/srv") / name), "LoadCredential")
    assert written == f"secret:/srv/{name}/secret".replace("%", "%%")


def test_a_colon_in_a_folder_that_is_shown_is_no_second_path() -> None:
    """Models have such names: llama3:8b."""
    unit = _unit(Path("/srv/llama3:8b"))
    assert _value(unit, "BindReadOnlyPaths") == '"/srv/llama3:8b/bundle"'


@pytest.mark.parametrize("end", [" ", "\\", "\n", "\t"])
def test_a_secret_whose_end_systemd_would_leave_out_is_refused(end: str) -> None:
    service = Service("cloud", ("/bin/true",), user=False, credentials={"s": Path(f"/srv/x{end}")})
    with pytest.raises(ConfigError, match="expected no line break and no blank or backslash"):
        unit_text(service)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_itself_takes_odd_paths(tmp_path: Path) -> None:
    files = []
    for number, name in enumerate(ODD):
        folder = tmp_path / name
        (folder / "bundle").mkdir(parents=True)
        (folder / "kept").mkdir()
        (folder / "secret").touch()
        files.append(tmp_path / f"hat-odd{number}.service")
        files[-1].write_text(_unit(folder))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--system", "--man=no", *map(str, files)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)},
    )
    said = (done.stdout + done.stderr).splitlines()
    assert [line for line in said if any(file.name in line for file in files)] == []
