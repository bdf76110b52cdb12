"""`hat cloud` as a process: it starts, stops on a signal, and says in one line why it cannot."""

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

_PROGRAM = """
import json, sys
from pathlib import Path
from cloud_server.config import CloudConfig
from cloud_server.main import run

assert "torch" not in sys.modules, "OpenMP has read its settings already"
paths = {"bundle", "tls_certificate", "tls_key"}
settings = json.loads(sys.argv[1])
sys.exit(run(CloudConfig(**{k: Path(v) if k in paths else v for k, v in settings.items()})))
"""


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def _start(**settings: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, json.dumps(settings, default=str)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _complaint(*, code: int = 2, **settings: object) -> str:
    """The one line of a daemon that cannot start, beside what it warns of."""
    process = _start(log_level="error", **settings)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "")
    (line,) = err.splitlines()
    assert line.startswith("hat: ")
    return line


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _read_until(process: subprocess.Popen[str], part: str) -> str:
    """The first line of the log that contains `part`."""
    for line in process.stderr:
        if part in line:
            return line
    raise AssertionError(f"ended with {process.wait()} before it said {part!r}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends_with_0(folder, number):
    port = _free_port()
    process = _start(bundle=folder, port=port, log_format="json", log_level="debug", threads=1)
    try:
        serving = json.loads(_read_until(process, "serving "))["message"]
        assert "objects are left out" in _read_until(process, "garbage collection")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=30) as page:
            assert page.status == 200
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out) == (0, "")
    for part in ("stories260k", "layers [1, 5) of 5", "hidden 64", "float32", "torch on cpu"):
        assert part in serving
    for part in ("threads 1", "KV cache", "context 512", f"ws://127.0.0.1:{port}"):
        assert part in serving
    assert json.loads(err.splitlines()[-1])["message"] == "stopped"


def test_a_signal_while_loading_ends_with_0(folder):
    process = _start(bundle=folder, port=_free_port())
    try:
        _read_until(process, "listening")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0


def test_a_taken_port_is_one_line(folder, taken_port):
    line = _complaint(code=1, bundle=folder, port=taken_port)
    assert f"cannot listen on 127.0.0.1:{taken_port}: address already in use" in line


def test_an_address_of_nobody_is_one_line(folder):
    assert "cannot listen on 192.0.2.1:7700" in _complaint(
        code=1, bundle=folder, host="192.0.2.1", insecure=True
    )


def test_a_missing_bundle_is_one_line(tmp_path):
    assert f"no cloud bundle at {tmp_path}" in _complaint(bundle=tmp_path)


def test_a_device_bundle_is_one_line(folder):
    line = _complaint(bundle=folder / "device")
    assert "is a device bundle, expected a cloud bundle" in line


def test_certificates_that_are_missing_or_wrong_are_one_line(folder, tmp_path):
    missing = tmp_path / "missing.pem"
    assert f"no file {missing}" in _complaint(
        bundle=folder, tls_certificate=missing, tls_key=missing
    )
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("not a certificate")
    line = _complaint(bundle=folder, tls_certificate=wrong, tls_key=wrong)
    assert f"TLS: cannot use {wrong}" in line
    assert "go together" in _complaint(bundle=folder, tls_key=wrong)


def test_a_capacity_beyond_all_memory_is_one_line(folder):
    line = _complaint(code=1, bundle=folder, port=_free_port(), capacity_tokens=1 << 40)
    assert f"capacity_tokens {1 << 40} takes" in line
    assert "GiB" in line
