"""`hat cloud`: the daemon as a process, from its settings to its exit code."""

import asyncio
import logging
import os
import random
import sys
import time
from datetime import UTC, datetime

from cloud_server.certificates import tls_lines, watch, with_own_certificate
from cloud_server.config import CloudConfig
from cloud_server.daemon.reception import socket_limits
from cloud_server.engines.chosen import loader_for
from cloud_server.exposure import exposure_of
from cloud_server.server import CloudServer
from cloud_server.token_file import default_tokens_file
from process.errors import UserError
from process.own_names import own_names
from process.program.exposure import tell
from process.program.garbage import leave_out_what_is_loaded
from process.program.logs import configure_logs
from process.program.run import OK, Signals, run_on_loop, told

_log = logging.getLogger(__name__)


def run(config: CloudConfig) -> int:
    """Serve until SIGTERM or SIGINT, then drain; a second signal does not wait.

    Returns:
        0 after a signal; when the daemon could not start (said in one line on stderr) 1 if it may
        the next time, 2 if somebody has to mend something first.
    """
    # OpenMP reads this when torch is first imported. By default its idle threads spin, and on a
    # machine with other work a step of 40 ms took 7 s (measured: two threads on two busy cores).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Where the engine, or what drives it, is a thread that a small model keeps in Python, the event
    # loop waits for the interpreter lock at most this long (99th percentile of its lag: 4.9 ms
    # before, 0.4 ms after).
    sys.setswitchinterval(0.0005)
    configure_logs(config.log_level, config.log_format)
    try:
        if config.engine == "vllm" and config.node_rank > 0:
            from cloud_server.engines.vllm.bundle import follow

            follow(config)
            return OK
        engine_has_ended = run_on_loop(_serve(config))
    except UserError as error:
        return told(error)
    if not engine_has_ended or config.engine == "vllm":
        # The engine's thread is inside torch and cannot be interrupted; an orderly end of the
        # interpreter would pull it away from under that thread, which aborts the process. What
        # vLLM imports prints pages about leaks at such an end; its workers have ended before.
        logging.shutdown()
        sys.stdout.flush()
        os._exit(OK)
    return OK


async def _serve(config: CloudConfig) -> bool:
    """The daemon's life; returns whether its engine thread has ended."""
    signals = Signals(_log)
    loop = asyncio.get_running_loop()
    names = own_names(config.host)
    config = with_own_certificate(config, names, os.environ, _now())
    limits = socket_limits(config)
    # What can never work, before a large bundle is looked at.
    tell([each for each in exposure_of(config, limits, _now()) if each.fatal], _log)
    server = CloudServer(
        config,
        loader_for(config),
        time.monotonic,
        randomness=random.SystemRandom(),
        unix_clock=time.time,
        usual_tokens_file=default_tokens_file(os.environ),
        own_names=names,
    )
    has_names = server.token_file is not None and server.token_file.has_names
    tell(exposure_of(config, limits, _now(), has_names), _log)
    await server.open()
    _log.info("listening on %s, loading the model", server.url)
    _log.info(
        "room for %d sockets, %d of one address", limits.max_connections, limits.max_per_address
    )
    stop = loop.create_task(signals.next())
    load = loop.create_task(server.load())
    watching = None
    if server.tls is not None:
        print("\n".join(tls_lines(config, server.tls, server.device_url, has_names)), flush=True)
        watching = loop.create_task(watch(server.tls, _now))
    try:
        await asyncio.wait([stop, load], return_when=asyncio.FIRST_COMPLETED)
        if load.done():
            load.result()
            leave_out_what_is_loaded()
        await signals.drain(await stop, server.drain, config.drain_timeout_s)
    finally:
        load.cancel()
        if watching is not None:
            watching.cancel()
        has_ended = await server.close()
    _log.info("stopped")
    return has_ended


def _now() -> datetime:
    return datetime.now(UTC)
