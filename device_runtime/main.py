"""`hat device`: the endpoint as a process, from its settings to its exit code."""

import asyncio
import json
import logging
import random
import shlex
import signal
import sys
import time
from collections.abc import Coroutine
from typing import Any

from device_runtime.config import DeviceConfig
from device_runtime.engines.bundle_adapter import drafter_reason
from device_runtime.exposure import exposure_of
from device_runtime.logs import configure_logs
from device_runtime.server import DeviceServer, StartError, serve_device
from process.exposure import tell
from process.world import World

OK = 0
FAILED = 1
INTERRUPTED = 130

# A cloud that is up answers within a few round trips; the endpoint does not wait for it.
_FIRST_CONTACT_S = 2.0

_log = logging.getLogger(__name__)


def run(config: DeviceConfig) -> int:
    """Serve until SIGTERM or SIGINT, then drain; a second signal does not wait.

    Returns:
        0 after a signal, 1 when the device could not start (said in one line on stderr), 130
        when it was interrupted while starting.
    """
    world = World(time.monotonic, time.time, random.SystemRandom())
    configure_logs(config.log_level, config.log_format)
    try:
        obstacle = tell(exposure_of(config), _log)
        if obstacle is not None:
            raise StartError(obstacle)
        with asyncio.Runner(loop_factory=_new_event_loop) as runner:
            runner.run(_serve(config, world))
    except StartError as error:
        print(f"hat: {error}", file=sys.stderr, flush=True)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    return OK


async def _serve(config: DeviceConfig, world: World) -> None:
    """The process's life between its signals."""
    async with serve_device(config, world) as server:
        signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, signals.put_nowait, number)
        announcing = loop.create_task(_announce(config, server))
        number = await signals.get()
        announcing.cancel()
        _log.info("%s: draining for at most %g s", number.name, config.drain_timeout_s)
        await _first(server.drain(config.drain_timeout_s), signals.get())
    _log.info("stopped")


async def _announce(config: DeviceConfig, server: DeviceServer) -> None:
    """Print what runs here, once it is known whether the cloud answers."""
    try:
        async with asyncio.timeout(_FIRST_CONTACT_S):
            await server.link.connected()
    except TimeoutError:
        _log.debug("the cloud has not answered yet")
    print(start_lines(config, server), flush=True)


def start_lines(config: DeviceConfig, server: DeviceServer) -> str:
    """What a user wants to know first: model, engine, cloud, endpoint, and a command to paste."""
    manifest = server.bundle.manifest
    here = manifest.num_input_layers + manifest.num_output_layers
    layers = f"{here} of {manifest.shape.num_layers} layers here"
    context = f"context {server.runtime.max_context_tokens} tokens"
    weights = f", {config.weights} weights" if config.engine == "onnx" else ""
    reason = server.runtime.ready()
    cloud = "connected" if reason is None else f"not connected ({reason}); trying on"
    return "\n".join(
        [
            f"model     {server.service.model.id}: {layers}, {context}",
            f"engine    {config.engine}{weights}; drafter {_drafter(server)}",
            f"cloud     {config.cloud}: {cloud}",
            f"endpoint  {server.url}/v1",
            f"try       {_curl(config, server)}",
            f"sampling  {server.service.sampling.described()}",
        ]
    )


def _drafter(server: DeviceServer) -> str:
    """What drafts here and, where its adapter's card knows, why."""
    name = server.runtime.drafter
    return name + drafter_reason(server.bundle) if name in ("adapter", "ngram") else name


def _curl(config: DeviceConfig, server: DeviceServer) -> str:
    """A request that works when pasted; the key itself is never shown."""
    if server.service.template.is_plain:
        path, body = "completions", {"prompt": "Once upon a time", "max_tokens": 60}
    else:
        message = {"role": "user", "content": "Why is the sky blue?"}
        path, body = "chat/completions", {"messages": [message], "max_tokens": 60}
    key = ' -H "Authorization: Bearer $HAT_API_KEY"' if config.api_key is not None else ""
    return (
        f"curl {server.url}/v1/{path} -H 'Content-Type: application/json'{key} "
        f"-d {shlex.quote(json.dumps(body))}"
    )


async def _first(*waits: Coroutine[Any, Any, object]) -> None:
    """Wait for the first of these and end the others."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    for task in done:
        task.result()


def _new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop where it exists."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
