"""Notices through a pipe: each step's once, in any order asked, and an end that is heard of."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud_server.engines.vllm.exchange.notices import (
    FAILED,
    NoticeReader,
    NoticeWriter,
    named_pipe,
)

PATIENCE_S = 30.0


@pytest.fixture
def path() -> Iterator[Path]:
    made = named_pipe()
    yield made
    made.unlink(missing_ok=True)


def never() -> bool:
    return False


def test_notices_are_given_for_the_step_that_is_asked_for(path):
    reader = NoticeReader(path)
    writer = NoticeWriter(path)
    path.unlink()
    for step, num_rows in ((7, 3), (8, 0), (9, FAILED)):
        writer.tell(step, num_rows)
    assert reader.wait(9, never, PATIENCE_S) == FAILED
    assert [reader.wait(step, never, PATIENCE_S) for step in (7, 8)] == [3, 0]
    with pytest.raises(TimeoutError, match="no rows after 0 s"):
        reader.wait(7, never, 0.0)


def test_a_reader_sleeps_until_a_notice_comes(path):
    reader, writer = NoticeReader(path), NoticeWriter(path)
    asks = threading.Event()

    def tell() -> None:
        asks.wait(PATIENCE_S)
        writer.tell(1, 5)

    def look() -> bool:
        asks.set()
        return False

    teller = threading.Thread(target=tell)
    teller.start()
    assert reader.wait(1, look, PATIENCE_S) == 5
    teller.join()


def test_the_end_of_the_writer_is_heard_of_at_once(path):
    reader = NoticeReader(path)
    script = (
        "import os, sys; from pathlib import Path\n"
        "from cloud_server.engines.vllm.exchange.notices import NoticeWriter\n"
        "NoticeWriter(Path(sys.argv[1])).tell(1, 2)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(path)]):
        assert reader.wait(1, never, PATIENCE_S) == 2
        with pytest.raises(EOFError, match="has ended"):
            reader.wait(2, never, PATIENCE_S)


def test_a_reader_without_a_writer_yet_waits_and_may_give_up(path):
    reader = NoticeReader(path)
    with pytest.raises(EOFError, match="a worker has ended"):
        reader.wait(1, lambda: True, PATIENCE_S)


def test_a_writer_without_a_reader_is_an_error(path):
    with pytest.raises(OSError, match=r"."):
        NoticeWriter(path)
    reader = NoticeReader(path)
    writer = NoticeWriter(path)
    del reader
    with pytest.raises(BrokenPipeError):
        writer.tell(1, 2)


def test_the_pipe_is_for_its_owner_alone(path):
    assert path.stat().st_mode & 0o777 == 0o600
