"""A device that changes networks in the middle of an answer: the answer goes on, soon, the same."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.link.opening import open_link, reason_against
from bench.link.shaped_link import LinkKind, ShapedLink
from bench.link.spec import parse_link_spec
from tests.support.stack import split_for_serving
from tests.support.tokenizers import MODEL_FOLDER

_REASON = reason_against(LinkKind.TAP)
pytestmark = [
    pytest.mark.alone,
    pytest.mark.slow,
    pytest.mark.skipif(_REASON is not None, reason=f"no TAP links here: {_REASON}"),
]

_MOST_S = 12.0
"""Ten seconds of silence tell that the link is lost; the rest is for a new one."""

_CLIENT = """
import http.client, json, sys, time
begun = time.monotonic()
while True:
    try:
        here = http.client.HTTPConnection("127.0.0.1", 8000, timeout=60)
        here.request("GET", "/ready")
        if here.getresponse().status == 200:
            break
    except OSError:
        pass
    assert time.monotonic() < begun + 60, "it was never ready"
    time.sleep(0.2)
body = {"prompt": "Once upon a time", "max_tokens": 60, "temperature": 0, "ignore_eos": True,
        "stream": True}
here = http.client.HTTPConnection("127.0.0.1", 8000, timeout=60)
here.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
gaps, text, last = [], "", time.monotonic()
for line in here.getresponse():
    if line.startswith(b"data: {"):
        text += "".join(each["text"] for each in json.loads(line[6:])["choices"])
        gaps.append(time.monotonic() - last)
        last = time.monotonic()
        if len(gaps) == 10:
            print("under way", flush=True)
print(json.dumps([text, max(gaps)]), flush=True)
"""


def _program(prefix: tuple[str, ...], *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*prefix, sys.executable, "-m", "hat", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _answer(link: ShapedLink, *, is_moving: bool) -> tuple[str, float]:
    """The text, and the longest time between two pieces of it."""
    client = subprocess.Popen(
        link.device_command([sys.executable, "-c", _CLIENT]), stdout=subprocess.PIPE, text=True
    )
    assert client.stdout is not None
    assert client.stdout.readline() == "under way\n"
    if is_moving:
        assert link.move is not None
        link.move()
    said, _ = client.communicate(timeout=60)
    text, longest_s = json.loads(said)
    return text, longest_s


def test_an_address_change_costs_at_most_12_seconds_and_no_token(tmp_path: Path) -> None:
    bundles = split_for_serving(MODEL_FOLDER, tmp_path / "out", 1)
    spec = parse_link_spec("up=20mbit,down=50mbit,rtt=40ms")
    with open_link(spec, kind=LinkKind.TAP) as link:
        cloud = ("cloud", str(bundles / "cloud"), "--host", link.bind_host, "--dtype", "float32")
        device = ("device", str(bundles / "device"), "--cloud", f"ws://{link.cloud_host}:7700")
        plain = ("--insecure", "--drafter", "none")
        programs = [
            _program(link.cloud_prefix, *cloud, "--insecure", "--threads", "1"),
            _program(link.device_prefix, *device, *plain, "--threads", "1"),
        ]
        try:
            text, quiet_s = _answer(link, is_moving=False)
            moved_text, longest_s = _answer(link, is_moving=True)
        finally:
            for program in programs:
                program.terminate()
            for program in programs:
                program.wait(60)
    assert moved_text == text
    assert quiet_s < 5.0 < longest_s <= _MOST_S
