"""`hat device`: the endpoint as a process, from its settings to its exit code."""

import asyncio
import json
import logging
import random
import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from device_runtime.config import DeviceConfig
from device_runtime.engines.bundle_adapter import drafter_reason, recorded_figures
from device_runtime.exposure import exposure_of
from device_runtime.fetching.fetching import Show
from device_runtime.fetching.keeping import hold_named
from device_runtime.fetching.source import make_fetcher
from device_runtime.fetching.updates import Updates
from device_runtime.server import DeviceServer, serve_device
from device_runtime.text.chat_template import TEMPLATE_FILE
from process.errors import UserError
from process.program.exposure import tell
from process.program.garbage import leave_out_what_is_loaded
from process.program.logs import configure_logs
from process.program.run import OK, Signals, run_on_loop, told
from process.world import World

INTERRUPTED = 130

# A cloud that is up answers within a few round trips; the endpoint does not wait for it.
_FIRST_CONTACT_S = 2.0

_log = logging.getLogger(__name__)


def run(config: DeviceConfig, show: Show | None = None) -> int:
    """Serve until SIGTERM or SIGINT, then drain; a second signal does not wait.

    Without a bundle that of the cloud is fetched; `show` is told how far that is.

    Returns:
        0 after a signal; when the device could not start (said in one line on stderr) 1 if it may
        the next time, 2 if somebody has to mend something first; 130 when it was interrupted while
        starting.
    """
    world = World(time.monotonic, time.time, random.SystemRandom())
    configure_logs(config.log_level, config.log_format, quotes_no_requests=True)
    try:
        tell(exposure_of(config), _log)
        run_on_loop(_serve(config, world, show))
    except UserError as error:
        return told(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    return OK


async def _serve(config: DeviceConfig, world: World, show: Show | None) -> None:
    """The process's life between its signals."""
    updates = None
    if config.bundle is None:
        fetcher = make_fetcher(config, world, show)
        config = replace(config, bundle=await fetcher.at_start())
        updates = Updates(fetcher)
    else:
        hold_named(config.bundle, world.unix_clock())
    signals = None
    while True:
        async with serve_device(config, world) as server:
            signals = signals or Signals(_log)
            leave_out_what_is_loaded()
            newer = await _until_told(config, server, signals, updates)
        if newer is None:
            break
        # Whoever asks finds it where it was.
        config = replace(config, bundle=newer, port=urlsplit(server.url).port or config.port)
    _log.info("stopped")


async def _until_told(
    config: DeviceConfig, server: DeviceServer, signals: Signals, updates: Updates | None
) -> Path | None:
    """Serve until a signal comes, and drain; or until there is a newer bundle, which is returned.

    For the newer bundle answers in progress have as long as for a signal.
    """
    announcing = asyncio.create_task(_announce(config, server))
    asked = asyncio.create_task(signals.next())
    waits: list[asyncio.Task[Any]] = [asked]
    if updates is not None:
        waits.append(asyncio.create_task(updates.newer(server.link, config.bundle_path)))
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if not asked.done():
            newer: Path = waits[-1].result()
            _log.info("taking up %s: answers in progress may end before", newer)
            waits.append(asyncio.create_task(server.drain(config.drain_timeout_s)))
            await asyncio.wait((asked, waits[-1]), return_when=asyncio.FIRST_COMPLETED)
            if not asked.done():
                return newer
        await signals.drain(asked.result(), server.drain, config.drain_timeout_s)
        return None
    finally:
        announcing.cancel()
        for task in waits:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


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
    runs_on = "" if server.runs_on == "cpu" else f" on {server.runs_on}"
    reason = server.runtime.ready()
    cloud = "connected" if reason is None else f"not connected ({reason}); trying on"
    congestion = ""
    if config.congestion_control is not None:
        congestion = f"; congestion control {config.congestion_control}"
    return "\n".join(
        [
            f"model     {server.service.model.id}: {layers}, {context}",
            f"engine    {config.engine}{runs_on}{weights}; drafter {_drafter(server)}",
            f"cloud     {config.cloud}: {cloud}{congestion}",
            f"endpoint  {server.url}/v1{_far(server)}",
            f"try       {_curl(config, server)}",
            f"sampling  {server.service.sampling.described()}",
            *_kept(config, server),
            *_alone(server),
            *_advice(server),
        ]
    )


def _far(server: DeviceServer) -> str:
    """Where others find it, if they do."""
    return "" if server.far_url is None else f"; from other machines {server.far_url}/v1"


def _kept(config: DeviceConfig, server: DeviceServer) -> list[str]:
    """Where texts lie on disk, if they do."""
    if not server.runtime.outlives_program:
        return []
    return [f"sessions  token ids of kept conversations lie in {config.kept_sessions_folder}"]


def _alone(server: DeviceServer) -> list[str]:
    """Who answers while the cloud is gone, and how well."""
    lone = server.service.lone_answers
    if lone is None:
        return []
    how = "how well, its card does not say"
    if lone.tokens_per_round is not None and lone.acceptance is not None:
        how = (
            f"when trained it brought {lone.tokens_per_round:.2f} tokens per round of up to "
            f"{lone.draft_tokens} drafted: behind the model's text about {lone.acceptance:.0%} of "
            "its tokens are the model's own; behind its own text it is worse"
        )
    return [f"alone     while the cloud is gone its draft model answers, marked as such; {how}"]


def _advice(server: DeviceServer) -> list[str]:
    """What a model without an adapter costs, and what mends it."""
    if "adapter" in server.runtime.drafters or recorded_figures(server.bundle):
        return []
    if not {"suffix", "ngram"} & set(server.runtime.drafters):
        return []
    # A model that can chat makes its own text.
    if not (server.bundle.path.parent / "cloud").is_dir():
        return []
    text = "" if TEMPLATE_FILE in server.bundle.manifest.files else " --text FILE"
    command = f"hat adapter train {server.bundle.path.parent}{text}"
    return [
        "drafting  no adapter for this model: a token costs about a round trip to the cloud, less "
        f"where the text repeats itself; one is made by: {command}"
    ]


def _drafter(server: DeviceServer) -> str:
    """What drafts here and, where its adapter's card knows, why."""
    names = server.runtime.drafters
    reason = drafter_reason(server.bundle) if {"adapter", "ngram"} & set(names) else ""
    return (" and ".join(names) or "none") + reason


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
