"""A new machine with an empty home: one line to the first token, cut twice in mid-download."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.link.opening import open_link, reason_against
from bench.link.shaped_link import LinkKind, ShapedLink
from bench.link.spec import parse_link_spec
from tests.support.process_lines import ROOT
from tests.support.stack import split_for_serving
from tests.support.tokenizers import MODEL_FOLDER

_REASON = reason_against(LinkKind.TAP)
pytestmark = [pytest.mark.alone, pytest.mark.slow]

_FIRST_TOKEN = """
import http.client, json, sys, time
begun, port = time.monotonic(), int(sys.argv[1])
while True:
    try:
        here = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        here.request("GET", "/ready")
        if here.getresponse().status == 200:
            break
    except OSError:
        pass
    assert time.monotonic() < begun + 120, "it was never ready"
    time.sleep(0.2)
body = {"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0, "stream": True}
here = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
here.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
for line in here.getresponse():
    if line.startswith(b"data: {"):
        print(json.loads(line[6:])["choices"][0]["text"])
        break
"""


@contextmanager
def _program(prefix: tuple[str, ...], log: Path, *words: object) -> Iterator[subprocess.Popen[str]]:
    """`hat` with these words and an environment that has nothing but a home."""
    home = log.parent / "home"
    home.mkdir(exist_ok=True)
    environ = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(ROOT)}
    with log.open("a") as said:
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "hat", *map(str, words)],
            stdout=said,
            stderr=said,
            env=environ,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def _certificate(folder: Path, host: str) -> tuple[Path, Path]:
    """One for an address, which signs itself."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    named = ["-subj", "/CN=cloud", "-addext", f"subjectAltName=IP:{host}"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *named, *files], check=True, capture_output=True)
    return certificate, key


def _fetched_bytes(home: Path) -> int:
    parts = (home / ".cache" / "hat" / "bundles" / ".fetching").glob("*")
    return sum(path.stat().st_size for path in parts)


def _wait(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    begun_s = time.monotonic()
    while not condition():
        assert time.monotonic() - begun_s < seconds
        time.sleep(0.02)


@pytest.mark.skipif(_REASON is not None, reason=f"no TAP links here: {_REASON}")
def test_one_line_leads_to_the_first_token_though_it_is_cut_twice(tmp_path: Path) -> None:
    """Once the cloud is killed and started again, once the device changes its network."""
    bundles = split_for_serving(MODEL_FOLDER, tmp_path / "out", 1)
    device = bundles / "device"
    num_bytes = sum(path.stat().st_size for path in device.iterdir()) - _size(device, "hat.json")
    secret = tmp_path / "secret"
    secret.write_text("s" * 32)
    secret.chmod(0o600)
    log = tmp_path / "machine" / "log"
    log.parent.mkdir()
    with open_link(parse_link_spec("up=2mbit,down=2mbit,rtt=20ms"), kind=LinkKind.TAP) as link:
        certificate, key = _certificate(tmp_path, link.cloud_host)
        port = link.forward(7700)
        cloud = (
            *("cloud", bundles / "cloud", "--serve-device-bundle", device),
            *("--host", link.bind_host, "--secret-file", secret),
            *("--tls-certificate", certificate, "--tls-key", key),
        )
        # The one line.
        url = f"wss://{link.cloud_host}:{port}"
        line = ("device", "--cloud", url, "--secret-file", secret, "--cloud-ca", certificate)
        cloud_log = tmp_path / "cloud-log"
        with _program(link.device_prefix, log, *line):
            with _program(link.cloud_prefix, cloud_log, *cloud):
                _wait(lambda: _fetched_bytes(log.parent / "home") > num_bytes / 4)
            with _program(link.cloud_prefix, cloud_log, *cloud):
                _wait(lambda: _fetched_bytes(log.parent / "home") > num_bytes / 2)
                assert link.move is not None
                link.move()
                assert _first_token(link).strip()
    said = log.read_text()
    assert said.count("; going on in ") >= 2, said
    kept = next((log.parent / "home/.cache/hat/bundles").glob("[!.]*/device"))
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == {
        path.name: path.read_bytes() for path in device.iterdir()
    }


def _size(folder: Path, name: str) -> int:
    return (folder / name).stat().st_size


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _first_token(link: ShapedLink, port: int = 8000) -> str:
    """Of an answer, once the device is ready."""
    command = link.device_command([sys.executable, "-c", _FIRST_TOKEN, str(port)])
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_running_device_follows_a_cloud_that_was_given_another_model(tmp_path: Path) -> None:
    """The refusal leads to one download, and the endpoint answers at the same port again."""
    first = split_for_serving(MODEL_FOLDER, tmp_path / "first", 1)
    second = split_for_serving(MODEL_FOLDER, tmp_path / "second", 2)
    log = tmp_path / "machine" / "log"
    log.parent.mkdir()
    port, cloud_port = _free_port(), _free_port()
    here = ShapedLink(LinkKind.LOOPBACK, parse_link_spec("loopback"))
    line = ("device", "--cloud", f"ws://127.0.0.1:{cloud_port}", "--drain-timeout-s", 5)
    with _program((), log, *line, "--port", port) as device:
        for bundles in (first, second):
            words = ("cloud", bundles / "cloud", "--serve-device-bundle", bundles)
            with _program((), tmp_path / "cloud-log", *words, "--port", cloud_port):
                assert _first_token(here, port).strip()
        device.send_signal(signal.SIGTERM)
        assert device.wait(timeout=30) == 0
    said = log.read_text()
    assert said.count("asking for the bundle that it serves") == 1, said
    assert said.count("the bundle is whole") == 2, said
    assert len(list((log.parent / "home/.cache/hat/bundles").glob("[!.]*"))) == 2
