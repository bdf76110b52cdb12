"""Child processes of a run: what they write is told, and none of them is left behind."""

import asyncio
import sys

import pytest

from bench.live.processes import Child, Command, LiveError, first_of


def command(program: str, has_own_output: bool = False) -> Command:
    return Command("a child", [sys.executable, "-uc", program], has_own_output=has_own_output)


async def test_lines_of_both_outputs_are_told_in_their_order() -> None:
    program = "import sys; print('a'); print('b', file=sys.stderr); print('c')"
    assert await _lines(command(program)) == [b"a", b"b", b"c"]


async def test_output_of_its_own_is_told_without_the_errors() -> None:
    program = "import sys; print('a'); print('b', file=sys.stderr); print('c')"
    assert await _lines(command(program, has_own_output=True)) == [b"a", b"c"]


async def _lines(started: Command) -> list[bytes]:
    lines: list[bytes] = []
    child = await Child.start(started, lines.append)
    await child.ended()
    return lines


async def test_one_that_ends_too_early_is_quoted() -> None:
    child = await Child.start(command("raise SystemExit('no model here')"))
    with pytest.raises(LiveError, match="a child ended with exit code 1: no model here"):
        await first_of(child, asyncio.Event(), 60, "ready")


async def test_what_is_written_to_it_arrives_and_stopping_ends_all_it_started() -> None:
    program = """
import subprocess, sys
other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(input())
input()
"""

    told = asyncio.Event()
    lines: list[bytes] = []

    def take(line: bytes) -> None:
        lines.append(line)
        told.set()

    child = await Child.start(command(program), take)
    await child.write(b"hello")
    await first_of(child, told, 60, "heard")
    # Its output ends with the last process that has it.
    await child.stop()
    assert lines == [b"hello"]
