"""Child output: whole lines with the child's name, whatever the pieces they come in."""

import asyncio
from itertools import pairwise

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hat.up.children import ChildLog


async def _copy(pieces: list[bytes]) -> ChildLog:
    stream = asyncio.StreamReader()
    log = ChildLog("cloud", "cyan")
    copying = asyncio.create_task(log.copy(stream))
    for piece in pieces:
        stream.feed_data(piece)
        await asyncio.sleep(0)
    stream.feed_eof()
    await copying
    return log


@given(text=st.text("ab\n", max_size=60), cuts=st.lists(st.integers(0, 60), max_size=5))
async def test_lines_come_out_whole_however_they_are_cut(text: str, cuts: list[int]) -> None:
    data = text.encode()
    borders = sorted({0, *(min(cut, len(data)) for cut in cuts), len(data)})
    pieces = [data[a:b] for a, b in pairwise(borders)]
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("click.echo", lambda line, err: lines.append(line))
        await _copy([piece for piece in pieces if piece])
    expected = text.removesuffix("\n").split("\n") if text else []
    assert [click.unstyle(line).removeprefix("cloud  | ") for line in lines] == expected


async def test_a_line_without_end_is_broken_and_memory_bounded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    await _copy([b"x" * 100_000])
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("cloud  | x") and len(line) <= 8192 + 9 for line in lines)
    assert sum(line.count("x") for line in lines) == 100_000


async def test_bytes_that_are_not_text_are_shown_as_such(
    capsys: pytest.CaptureFixture[str],
) -> None:
    await _copy([b"a\xffb\r\n"])
    assert capsys.readouterr().err == "cloud  | a\ufffdb\n"


async def test_the_last_complaint_is_remembered(capsys: pytest.CaptureFixture[str]) -> None:
    log = await _copy([b"hat: first\nhat: second\nother\n"])
    assert log.last_complaint == "second"
    assert (await _copy([b"all is well\n"])).last_complaint is None


async def test_a_terminal_that_is_gone_does_not_stop_the_reading() -> None:
    def gone(line: str, err: bool) -> None:
        raise BrokenPipeError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("click.echo", gone)
        log = await _copy([b"one\n", b"hat: two\n"])
    assert log.last_complaint == "two"
