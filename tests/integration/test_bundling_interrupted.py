"""`hat up` that is ended while its model is fetched: nothing half-made stays, no traceback."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.process_lines import ROOT

pytestmark = pytest.mark.alone


@pytest.fixture
def silent_index() -> Iterator[socket.socket]:
    """A package index that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        yield server


def _environ(cache: Path, index: socket.socket) -> dict[str, str]:
    url = f"http://127.0.0.1:{index.getsockname()[1]}/simple"
    changed = {"HAT_CACHE": str(cache), "PIP_INDEX_URL": url, "PYTHONPATH": str(ROOT)}
    return {**os.environ, **changed}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_for_hat_up_alone_ends_the_fetching_too(
    tmp_path: Path, silent_index: socket.socket, number: signal.Signals
) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "hat", "up", "--port", "25101", "--cloud-port", "25102"],
        env=_environ(tmp_path, silent_index),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        connection, _ = silent_index.accept()
        with connection:
            started_s = time.monotonic()
            process.send_signal(number)
            # Ends when the last of its processes does.
            _, output = process.communicate(timeout=60)
            assert time.monotonic() - started_s < 15
    assert process.returncode == (130 if number is signal.SIGINT else -number), output
    said = [line for line in output.splitlines() if line]
    assert len(said) == 2, output
    assert said[1] == "hat: interrupted"
    assert list((tmp_path / "models").iterdir()) == []
