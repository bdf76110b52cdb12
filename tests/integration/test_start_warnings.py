"""What `hat cloud` and `hat device` say before they serve, run as a user runs them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from process.tls.certificates import pin_of_pem
from tests.support.guarded import make_certificate
from tests.support.process_lines import ROOT


def _lines(*arguments: str | Path, until: str) -> tuple[list[str], int | None]:
    """What a program says until it says this, or ends; and its exit code if it ended."""
    process = subprocess.Popen(
        [sys.executable, "-m", "hat", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    lines = []
    try:
        for line in process.stderr:
            lines.append(line.rstrip())
            if until in line:
                return lines, None
        return lines, process.wait(timeout=60)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def _secret(tmp_path: Path, length: int, mode: int = 0o600) -> Path:
    path = tmp_path / "secret"
    path.write_text("s" * length)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("program", ["cloud", "device"])
def test_a_secret_that_can_never_be_sent_ends_the_start_in_one_line(folder, tmp_path, program):
    secret = _secret(tmp_path, 1025)
    lines, code = _lines(program, folder / "cloud", "--secret-file", secret, until="listening")
    assert code == 2
    assert lines[-1].startswith("hat: the secret is 1025 bytes long")
    assert "sss" not in "".join(lines)


def test_nobody_goes_beyond_this_machine_without_tls_unless_it_is_spelled_out(folder):
    """An address of documentation, at which nobody can listen, and whom nobody is asked for."""
    cloud = ("cloud", folder / "cloud", "--host", "192.0.2.1")
    lines, code = _lines(*cloud, until="listening")
    assert code == 2
    assert lines[-1].startswith("hat: rows would come in unencrypted on 192.0.2.1: give it --tls-")
    lines, code = _lines(*cloud, "--insecure", until="listening")
    assert "cannot listen on 192.0.2.1" in lines[-1]
    assert code == 1, "the machine may have that address in a moment"
    device = (folder / "device", "--cloud", "ws://192.0.2.1:7700")
    lines, code = _lines("device", *device, until="never")
    assert code == 2
    assert lines[-1].startswith("hat: rows would go to 192.0.2.1 unencrypted: use wss://")


def test_a_cloud_that_all_may_use_says_so(folder, tmp_path):
    secret = _secret(tmp_path, 5, mode=0o644)
    everywhere = ("--host", "0.0.0.0", "--port", "25081", "--insecure")
    lines, _ = _lines("cloud", folder / "cloud", *everywhere, until="room")
    assert any(" warning " in line and "--secret-file" in line for line in lines)
    assert any(" warning " in line and "as --insecure has it" in line for line in lines)
    arguments = ("cloud", folder / "cloud", "--port", "25081", "--secret-file", secret)
    lines, _ = _lines(*arguments, until="room")
    assert any("can be read by every user" in line for line in lines)
    assert any(" warning " in line and "5 characters" in line for line in lines)
    assert "sss" not in "".join(lines)


def test_a_cloud_that_makes_its_certificate_prints_what_a_device_is_told(folder, tmp_path):
    command = [sys.executable, "-m", "hat", "cloud", str(folder / "cloud"), "--tls-self-signed"]
    command += ["--port", "25083", "--tls-names", "gpu-server"]
    environ = {**os.environ, "HAT_CACHE": str(tmp_path)}
    printed = []
    for _ in range(2):
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None
        printed.append([process.stdout.readline().split() for _ in range(2)])
        process.kill()
        process.wait()
        process.stdout.close()
    assert printed[0] == printed[1], "the key is kept"
    told, device = printed[0]
    assert told[-2:] == ["pin", pin_of_pem((tmp_path / "tls" / "certificate.pem").read_bytes())]
    assert device[1:] == [
        *("hat", "device", "BUNDLE", "--cloud", "wss://gpu-server:25083"),
        *("--cloud-pin", told[-1]),
    ]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_an_expired_certificate_ends_the_start_in_one_line(folder, tmp_path):
    certificate, key = make_certificate(tmp_path)
    request = tmp_path / "request.pem"
    ask = ["openssl", "req", "-new", "-key", key, "-subj", "/CN=localhost", "-out", request]
    subprocess.run(ask, check=True, capture_output=True)
    sign = ["openssl", "x509", "-req", "-in", request, "-signkey", key, "-out", certificate]
    for past in (("-days", "-1"), ("-not_after", "20200201000000Z")):
        if subprocess.run([*sign, *past], check=False, capture_output=True).returncode == 0:
            break
    else:
        pytest.skip("this openssl makes no expired certificate")
    tls = ("--tls-certificate", certificate, "--tls-key", key, "--port", "25082")
    lines, code = _lines("cloud", folder / "cloud", *tls, until="listening")
    assert code == 1
    assert "has expired" in lines[-1]


def test_a_device_says_at_once_that_it_loads(tmp_path):
    lines, code = _lines("device", tmp_path / "no-bundle", until="never")
    assert "loading" in lines[0]
    assert code == 2
    assert lines[-1].startswith("hat: ")
