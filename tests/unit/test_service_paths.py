"""Paths as users have them, in units that systemd itself reads."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hat.service.description import Service
from hat.service.install import refuse_other_bundle
from hat.service.systemd import unit_text
from process.errors import ConfigError
from submodels.errors import BundleError
from submodels.split import SplitOptions, split_checkpoint

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
    python = folder / "python"
    return unit_text(
        Service(
            "device",
            (str(python) if python.exists() else sys.executable, str(folder / "bundle")),
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


def test_the_program_itself_is_read_without_variables() -> None:
    """systemd looked for a folder with two dollars."""
    unit = unit_text(Service("device", ("/opt/a $HOME 5%/python", "a$b"), user=True))
    assert _value(unit, "ExecStart") == '"/opt/a $HOME 5%%/python" "a$$b"'


@pytest.mark.parametrize("name", ["it's", 'quo"ted', "back\\slash"])
def test_a_program_that_systemd_never_runs_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="no program in a folder with quotes or backslashes"):
        unit_text(Service("device", (f"/opt/{name}/python",), user=True))


def test_a_service_is_given_its_own_kind_of_bundle(tmp_path: Path) -> None:
    model = Path(__file__).resolve().parents[2] / "models" / "stories260k"
    out = split_checkpoint(SplitOptions(str(model), tmp_path / "out", 1, onnx_weights=())).out
    for folder in (out, out / "cloud"):
        refuse_other_bundle(folder, "cloud")
    with pytest.raises(BundleError, match="is a device bundle, expected a cloud bundle"):
        refuse_other_bundle(out / "device", "cloud")
    with pytest.raises(BundleError, match="no device bundle at"):
        refuse_other_bundle(tmp_path, "device")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_itself_takes_odd_paths(tmp_path: Path) -> None:
    files = []
    for number, name in enumerate(ODD):
        folder = tmp_path / name
        (folder / "bundle").mkdir(parents=True)
        (folder / "kept").mkdir()
        (folder / "secret").touch()
        if not set(name) & set("\"'\\"):
            (folder / "python").symlink_to(sys.executable)
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
