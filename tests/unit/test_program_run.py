"""How a program ends: drained at the first signal, at once at the second."""

import asyncio
import logging
import os
import signal

import pytest

from process.program.run import Signals, first_of, run_on_loop

_log = logging.getLogger(__name__)


async def _drained(drain, num_signals):
    """What is left of a drain after so many signals."""
    signals = Signals(_log)
    for _ in range(num_signals):
        os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(signals.drain(await signals.next(), drain, 60.0), 20)


def test_a_drain_gets_its_time_and_ends_the_program_when_it_is_through():
    given = []

    async def drain(timeout_s):
        given.append(timeout_s)

    run_on_loop(_drained(drain, 1))
    assert given == [60.0]


def test_a_second_signal_does_not_wait_for_the_drain():
    ended = []

    async def drain(timeout_s):
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(timeout_s)

    run_on_loop(_drained(drain, 2))
    assert ended == [60.0]


def test_the_first_of_several_ends_the_others_and_its_failure_is_the_callers():
    ended = []

    async def fail():
        raise RuntimeError("planted")

    async def wait():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    with pytest.raises(RuntimeError, match="planted"):
        run_on_loop(first_of(wait(), fail()))
    assert ended == [True]
