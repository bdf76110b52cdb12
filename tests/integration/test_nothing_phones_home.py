"""No dependency reports to anyone: what is set before it is imported, and what stays behind."""

import ast
import json
import os
import socket
import subprocess
import sys

import pytest

from submodels.no_telemetry import SWITCHES
from tests.support.process_lines import ROOT, process_lines
from tests.support.tokenizers import MODEL_FOLDER
from tests.test_architecture import ROOM_FILES

SWITCHING = ("submodels", "device_runtime", "cloud_server", "adapters", "bench", "hat")
REPORTING = {"onnxruntime", "transformers", "huggingface_hub", "vllm", "ray"}


def rooms_that_import_them():
    for name in ROOM_FILES:
        for node in ast.walk(ast.parse((ROOT / name).read_text())):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            if REPORTING & {module.split(".")[0] for module in modules}:
                yield name.split("/")[0]


def environment_after(code):
    """What a fresh process has in its environment after `code`; everything is on before."""
    spoiled = dict.fromkeys(SWITCHES, "") | {"ORT_DISABLE_TELEMETRY": "0"}
    script = f"{code}\nimport json, os; print(json.dumps(dict(os.environ)))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **spoiled, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("room", SWITCHING)
def test_importing_a_room_switches_everything_off_whatever_was_set(room):
    environ = environment_after(f"import {room}")
    assert {name: environ.get(name) for name in SWITCHES} == dict(SWITCHES)


def test_no_room_but_these_imports_a_library_that_reports():
    found = {*rooms_that_import_them()}
    assert found
    assert found <= set(SWITCHING)


def test_the_images_are_silent_for_whatever_runs_in_them():
    files = sorted((ROOT / "deploy").glob("Dockerfile.*"))
    assert len(files) == 3
    for path in files:
        text = path.read_text()
        for name in ("ORT_DISABLE_TELEMETRY", "DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY"):
            assert f"{name}=1" in text, path.name


async def test_a_split_and_a_device_leave_nothing_in_the_users_folders(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    environ = {
        **{name: value for name, value in os.environ.items() if name not in SWITCHES},
        "HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "XDG_CACHE_HOME": str(home / "cache"),
        "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_DATA_HOME": str(home / "data"),
        "XDG_STATE_HOME": str(home / "state"),
    }
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    out = str(tmp_path / "out")
    split = (sys.executable, "-m", "hat", "split", str(MODEL_FOLDER), "--out", out)
    device = (sys.executable, "-m", "hat", "device", f"{out}/device", "--port", port)

    async with process_lines(*split, environ=environ) as process:
        assert await process.wait_for_end(120) == 0
    async with process_lines(*device, environ=environ) as process:
        await process.wait_for("endpoint", 120)
        process.process.terminate()
        assert await process.wait_for_end(60) == 0
    left = [path.relative_to(home) for path in home.rglob("*") if path.is_file()]
    # Ours are notes of which files were verified.
    assert [str(path) for path in left if not path.is_relative_to("cache/hat/verified")] == []
