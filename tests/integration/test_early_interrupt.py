"""Ctrl-C at any moment of a program's start: one line, no traceback."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.process_lines import ROOT

pytestmark = pytest.mark.alone

# Says when the program has its say: what Python shows before that is not ours to decide.
_BEGIN = """
import runpy, sys
from hat import early_interrupt

begin = early_interrupt.leave_at_once

def begin_aloud():
    begin()
    early_interrupt.leave_at_once = begin
    print("up", flush=True)

early_interrupt.leave_at_once = begin_aloud
sys.argv[0] = "hat"
"""
_STARTS = {
    "python -m hat": _BEGIN + "runpy.run_module('hat', run_name='__main__')",
    "hat": _BEGIN + "from hat.__main__ import main; main()",
}
_MOMENTS_S = (0.0, 0.05, 0.1, 0.3, 0.8, 1.5)


def _interrupted(start: str, arguments: list[str], delay_s: float) -> tuple[int, str]:
    """The exit code and all output of a program that is interrupted so long after its start."""
    process = subprocess.Popen(
        [sys.executable, "-c", _STARTS[start], *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        time.sleep(delay_s)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, output


@pytest.mark.parametrize("delay_s", _MOMENTS_S)
@pytest.mark.parametrize("program", ["cloud", "device", "up", "chat", "split", "verify"])
def test_an_interrupted_start_leaves_no_traceback(folder: Path, program, delay_s):
    arguments = {
        "cloud": [str(folder / "cloud"), "--port", "25090"],
        "device": [str(folder / "device"), "--port", "25091", "--cloud", "ws://127.0.0.1:25092"],
        "up": [str(folder), "--port", "25093", "--cloud-port", "25094"],
        "chat": ["--url", "http://127.0.0.1:25095"],
        "split": [str(ROOT / "models" / "stories260k"), "--out", str(folder / "never")],
        "verify": [str(ROOT / "models" / "stories260k")],
    }[program]
    start = "hat" if int(delay_s * 1000) % 20 else "python -m hat"
    code, output = _interrupted(start, [program, *arguments], delay_s)
    assert "Traceback" not in output, output
    assert "Exception ignored" not in output, output
    assert "KeyboardInterrupt" not in output, output
    # Killed at the very end, by a signal that nobody waits for any more, is right as well.
    assert code in (0, 1, 2, 130, -signal.SIGINT), output
    if delay_s == 0:
        assert re.fullmatch(r"hat: interrupted\n", output), output
        assert code == 130
