"""`hat device` in a process that lacks what Python lacks on Windows: it serves, and it ends."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from submodels.random_models import RandomModel, make_random_model
from tests.support.split_models import split

ROOT = Path(__file__).resolve().parents[2]

_CODE = """
import json, os, signal, threading, urllib.request
from tests.support.as_on_windows import become_windows
become_windows()
from hat.cli import run

URL = "http://127.0.0.1:{port}"

def ask():
    for _ in range(600):
        try:
            with urllib.request.urlopen(URL + "/v1/models", timeout=5) as answer:
                print(answer.read().decode(), flush=True)
                break
        except OSError:
            threading.Event().wait(0.05)
    question = {{"messages": [{{"role": "user", "content": "hi"}}]}}
    request = urllib.request.Request(
        URL + "/tokenize", json.dumps(question).encode(), {{"Content-Type": "application/json"}}
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        print(answer.read().decode(), flush=True)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=ask, daemon=True).start()
flags = ["--port", "{port}", "--cloud", "ws://127.0.0.1:9", "--threads", "1"]
print("ended with", run(["device", {bundle!r}, *flags]))
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("as_on_windows")
    make_random_model(RandomModel(num_layers=3), folder / "model")
    template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    (folder / "model" / "chat_template.jinja").write_text(template)
    split(folder / "model", folder / "bundle", 1, 1, onnx_weights=("float32",))
    return folder / "bundle" / "device"


def test_it_serves_renders_and_drains_at_ctrl_c(bundle: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = _CODE.format(bundle=str(bundle), port=port)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    lines = done.stdout.splitlines()
    documents = [json.loads(line) for line in lines if line.startswith("{")]
    assert [set(each) & {"data", "tokens"} for each in documents] == [{"data"}, {"tokens"}], done
    assert "SIGINT: draining" in done.stderr
    assert lines[-1] == "ended with 0", done.stderr
