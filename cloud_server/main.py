"""`hat cloud`: the daemon as a process, from its settings to its exit code."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any

from cloud_server.config import CloudConfig
from cloud_server.errors import ConfigError
from cloud_server.exposure import exposure_of
from cloud_server.logs import configure_logs
from cloud_server.server import CloudServer, load_chosen_engine
from process.exposure import tell
from submodels.errors import BundleError

_log = logging.getLogger(__name__)

OK = 0
FAILED = 1


def run(config: CloudConfig) -> int:
    """Serve until SIGTERM or SIGINT, then drain; a second signal does not wait.

    Returns:
        0 after a signal, 1 when the daemon could not start (said in one line on stderr).
    """
    # OpenMP reads this when torch is first imported. By default its idle threads spin, and on a
    # machine with other work a step of 40 ms took 7 s (measured: two threads on two busy cores).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # A small model keeps the engine's thread in Python; the event loop then waits for the
    # interpreter lock at most this long (99th percentile of its lag: 4.9 ms before, 0.4 ms after).
    sys.setswitchinterval(0.0005)
    configure_logs(config.log_level, config.log_format)
    try:
        if config.engine == "vllm" and config.node_rank > 0:
            return _follow(config)
        with asyncio.Runner(loop_factory=_new_event_loop) as runner:
            engine_has_ended = runner.run(_serve(config))
    except ConfigError as error:
        print(f"hat: {error}", file=sys.stderr, flush=True)
        return FAILED
    if not engine_has_ended or config.engine == "vllm":
        # The engine's thread is inside torch and cannot be interrupted; an orderly end of the
        # interpreter would pull it away from under that thread, which aborts the process. What
        # vLLM imports prints pages about leaks at such an end; its workers have ended before.
        logging.shutdown()
        sys.stdout.flush()
        os._exit(OK)
    return OK


def _follow(config: CloudConfig) -> int:
    from cloud_server.engines.vllm.follower import follow

    try:
        follow(config)
    except BundleError as error:
        raise ConfigError(str(error)) from error
    return OK


async def _serve(config: CloudConfig) -> bool:
    """The daemon's life; returns whether its engine thread has ended."""
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.put_nowait, number)
    server = CloudServer(config, load_chosen_engine)
    limits = server.reception.guard.limits
    obstacle = tell(exposure_of(config, limits, datetime.now(UTC)), _log)
    if obstacle is not None:
        raise ConfigError(obstacle)
    await server.open()
    _log.info("listening on %s, loading the model", server.url)
    _log.info(
        "room for %d sockets, %d of one address", limits.max_connections, limits.max_per_address
    )
    stop = loop.create_task(signals.get())
    load = loop.create_task(server.load())
    try:
        await asyncio.wait([stop, load], return_when=asyncio.FIRST_COMPLETED)
        if load.done():
            load.result()
        number = await stop
        _log.info("%s: draining for at most %g s", number.name, config.drain_timeout_s)
        await _first(server.drain(config.drain_timeout_s), signals.get())
    finally:
        load.cancel()
        has_ended = await server.close()
    _log.info("stopped")
    return has_ended


async def _first(*waits: Coroutine[Any, Any, object]) -> None:
    """Wait for the first of these and end the others."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    for task in done:
        task.result()


def _new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop where it exists: half the round trip time of asyncio's own loop (on loopback)."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
