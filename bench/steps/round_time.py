"""Where the time of a round goes on this machine: both sides as two processes, over loopback.

`python -m bench.steps.round_time [MODEL]` starts `hat up` and asks for texts one after another.
What a round takes beyond the computing of both sides is all counted: sockets, number formats,
both event loops, threads handing over. The prompt's way through counts as one round more.
"""

import argparse
import json
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench.machine import machine_lines

_COMPUTE = ("draft", "input", "cloud_compute", "verify")
_START_S = 120.0
_PROMPTS = (
    "Once upon a time, there was a little girl",
    "One day, a big dog",
    "Tom had a red ball and",
    "The sun was bright. Lily wanted to",
    "A small cat sat on the",
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--drafter", default=None)
    parser.add_argument("--num-requests", type=int, default=40)
    parser.add_argument("--max-tokens", type=int, default=120)
    chosen = parser.parse_args()
    lines = machine_lines()
    flags = [] if chosen.drafter is None else ["--drafter", chosen.drafter]
    with _both_sides([*([chosen.model] if chosen.model else []), *flags]) as url:
        for number in range(3):
            _ask(url, number, chosen.max_tokens)
        figures = [_ask(url, number, chosen.max_tokens) for number in range(chosen.num_requests)]
    print("\n".join(lines))
    print(f"load: {chosen.num_requests} requests one by one, {chosen.max_tokens} tokens each")
    _print(figures)


def _print(figures: list[dict[str, Any]]) -> None:
    rounds = sum(each["rounds"] for each in figures)
    drafted = sum(each["drafted_tokens"] for each in figures)
    accepted = sum(each["accepted_tokens"] for each in figures)
    print(f"rounds: {rounds}, {drafted / rounds:.2f} drafted, {1 + accepted / rounds:.2f} tokens")
    for phase in figures[0]["seconds"]:
        per_round = [_per_round_ms(each, phase) for each in figures]
        print(f"{phase:>14} {statistics.median(per_round):7.3f} ms per round (median)")
    overheads = [
        _per_round_ms(each, "total") - sum(_per_round_ms(each, phase) for phase in _COMPUTE)
        for each in figures
    ]
    total = statistics.median(overheads)
    print(f"beyond compute: {total:.3f} ms per round (median), least {min(overheads):.3f} ms")


def _per_round_ms(figures: dict[str, Any], phase: str) -> float:
    seconds: float = figures["seconds"][phase]
    num_rounds: int = figures["rounds"]
    return 1000 * seconds / (1 + num_rounds)


def _ask(url: str, number: int, max_tokens: int) -> dict[str, Any]:
    body = {
        "prompt": _PROMPTS[number % len(_PROMPTS)],
        "max_tokens": max_tokens,
        "temperature": number % 2,
        "seed": number,
        "ignore_eos": True,
        "include_hat_stats": True,
    }
    request = urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=300) as response:
        figures: dict[str, Any] = json.load(response)["hat"]
    return figures


@contextmanager
def _both_sides(arguments: list[str]) -> Iterator[str]:
    """`hat up` until the body is left; the URL of its endpoint."""
    port, cloud_port = _free_port(), _free_port()
    ports = ["--port", str(port), "--cloud-port", str(cloud_port), "--log-level", "warning"]
    command = [sys.executable, "-m", "hat", "up", *arguments, *ports]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            _wait_until_ready(f"http://127.0.0.1:{port}", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    until_s = time.monotonic() + _START_S
    while time.monotonic() < until_s and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/ready", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise SystemExit(f"hat up did not become ready within {_START_S:g} s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    main()
