"""Two children: started in order, stopped in the other, and never left behind."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator

import pytest

from tests.support.process_lines import ProcessLines, WatchedProcess, process_lines

DEADLINE_S = 60.0

needs_pidfd = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux's pidfd")


def _pair(
    cloud: str, device: str, **environ: str
) -> contextlib.AbstractAsyncContextManager[ProcessLines]:
    command = (sys.executable, "-m", "tests.support.fake_pair", cloud, device)
    return process_lines(*command, environ={**os.environ, **environ})


async def _announced(pair: ProcessLines) -> tuple[int, int]:
    """The pids of cloud and device, once both are up."""
    cloud = await pair.wait_for(r"^cloud  \| pid (\d+)", DEADLINE_S)
    device = await pair.wait_for(r"^device \| pid (\d+)", DEADLINE_S)
    await pair.wait_for("announced", DEADLINE_S)
    return int(cloud[1]), int(device[1])


@contextlib.contextmanager
def _watching(pids: tuple[int, ...]) -> Iterator[list[WatchedProcess]]:
    watched = [WatchedProcess(pid) for pid in pids]
    try:
        yield watched
    finally:
        for process in watched:
            process.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_stop_signal_ends_the_device_and_then_the_cloud(number: signal.Signals) -> None:
    async with _pair("good", "good") as pair:
        await _announced(pair)
        pair.process.send_signal(number)
        assert await pair.wait_for_end(DEADLINE_S) == 0
        assert pair.lines[-2:] == ["device | told to stop", "cloud  | told to stop"]


@pytest.mark.parametrize(
    ("cloud", "device", "reason"),
    [
        ("broken", "good", "the cloud side ended with exit code 1 (no such bundle)"),
        ("good", "broken", "the device side ended with exit code 1 (no such bundle)"),
        ("good", "dying", "the device side ended with exit code 3 (out of memory)"),
    ],
)
async def test_a_side_that_ends_by_itself_ends_the_other_with_a_reason(
    cloud: str, device: str, reason: str
) -> None:
    async with _pair(cloud, device) as pair:
        assert await pair.wait_for_end(DEADLINE_S) == 1
        assert pair.lines[-1] == f"hat: {reason}; everything is stopped"
        assert ("cloud  | told to stop" in pair.lines) == (cloud == "good")


@needs_pidfd
async def test_a_killed_side_is_named_with_its_signal() -> None:
    async with _pair("good", "good") as pair:
        cloud, device = await _announced(pair)
        with _watching((device,)) as (watched,):
            os.kill(cloud, signal.SIGKILL)
            assert await pair.wait_for_end(DEADLINE_S) == 1
            assert watched.ends_within(0)
        assert "the cloud side was killed by SIGKILL" in pair.lines[-1]


@needs_pidfd
async def test_a_second_ctrl_c_kills_what_does_not_want_to_end() -> None:
    async with _pair("stubborn", "stubborn") as pair:
        with _watching(await _announced(pair)) as watched:
            pair.process.send_signal(signal.SIGINT)
            await pair.wait_for("told to stop", DEADLINE_S)
            pair.process.send_signal(signal.SIGINT)
            assert await pair.wait_for_end(DEADLINE_S) == 0
            assert all(process.ends_within(0) for process in watched)


@needs_pidfd
async def test_a_side_that_does_not_end_in_its_time_is_killed() -> None:
    async with _pair("stubborn", "good", STOP_WITHIN_S="0.2") as pair:
        with _watching(await _announced(pair)) as watched:
            pair.process.send_signal(signal.SIGTERM)
            assert await pair.wait_for_end(DEADLINE_S) == 0
            assert all(process.ends_within(0) for process in watched)


@needs_pidfd
@pytest.mark.parametrize("manner", ["good", "stubborn"])
async def test_when_the_supervisor_is_killed_its_children_end(manner: str) -> None:
    async with _pair(manner, manner) as pair:
        with _watching(await _announced(pair)) as watched:
            pair.process.kill()
            assert all(process.ends_within(DEADLINE_S) for process in watched)
            await pair.process.wait()
