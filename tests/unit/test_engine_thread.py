import asyncio
import threading
from contextlib import asynccontextmanager

import pytest

from device_runtime.engines.thread import EngineThread
from tests.support.fake_model import FakeDeviceEngine


@asynccontextmanager
async def engine_thread():
    thread = EngineThread(FakeDeviceEngine())
    try:
        yield thread
    finally:
        thread.close()


async def test_calls_run_one_after_another_on_one_thread_in_the_order_of_asking():
    async with engine_thread() as thread:
        seen = []

        def call(number):
            return lambda engine: seen.append((number, threading.get_ident()))

        first = asyncio.ensure_future(thread.run(call(0)))
        await asyncio.sleep(0)
        thread.run_later(call(1))
        await thread.run(call(2))
        await first
        assert [number for number, _ in seen] == [0, 1, 2]
        assert len({ident for _, ident in seen} - {threading.get_ident()}) == 1


async def test_a_failure_nobody_waits_for_is_logged_and_the_thread_goes_on(caplog):
    async with engine_thread() as thread:
        thread.run_later(lambda engine: engine.release(99))
        assert await thread.run(lambda engine: engine.vocab_size) == 16
    assert "an engine call failed" in caplog.text


async def test_a_failure_somebody_waits_for_is_theirs():
    async with engine_thread() as thread:
        with pytest.raises(KeyError):
            await thread.run(lambda engine: engine.release(99))


async def test_a_closed_thread_takes_no_call_that_nobody_waits_for():
    async with engine_thread() as thread:
        called = []
        thread.close()
        thread.run_later(called.append)
        assert called == []
