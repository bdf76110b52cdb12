"""A device as one value: bundle, engine, link, runtime and the endpoint over them."""

import asyncio
import ipaddress
import logging
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from aiohttp import web

from adapters.medusa_heads import (
    HEADS_CARD_FILE,
    HEADS_WEIGHTS_FILE,
    MedusaError,
    MedusaHeads,
    load_heads,
)
from chunking.state_monitor import StateMonitor
from device_runtime.api.app import make_runner
from device_runtime.api.figures import LoneAnswers
from device_runtime.api.manners.origins import is_host_pattern
from device_runtime.api.metrics import Metrics
from device_runtime.api.request.sampling import FILE, SamplingDefaults, sampling_defaults
from device_runtime.api.service import AccessRules, ModelCard, Service
from device_runtime.api.spans import (
    NO_SPANS,
    NOT_INSTALLED,
    VARIABLES,
    Spans,
    can_export,
    collector_of,
    spans_to,
)
from device_runtime.calling.layouts import LAYOUTS
from device_runtime.calling.probing import find_calls
from device_runtime.config import DeviceConfig, http_url
from device_runtime.engines.bundle_adapter import lone_quality
from device_runtime.engines.loading import load_engine
from device_runtime.engines.thread import EngineThread
from device_runtime.grammar.compiling import Grammars
from device_runtime.link.config import (
    LinkConfig,
    ModelIdentity,
    Patience,
    client_certificate,
    link_url,
)
from device_runtime.link.dialing import Dial
from device_runtime.link.link import Link
from device_runtime.link.proxies import proxy_for
from device_runtime.runtime.runtime import Runtime
from device_runtime.runtime.shelf import DiskShelf, boot_id
from device_runtime.session.kept_text import Identity
from device_runtime.text.chat_template import load_chat_template
from device_runtime.text.control_tokens import ControlTokens
from device_runtime.text.tokenizer import load_tokenizer
from device_runtime.thinking.marks import marks_of
from process.addresses import bracketed, far_address, is_wildcard, near_host
from process.errors import StartError, system_reason
from process.own_names import own_names
from process.program.build import built_here
from process.program.exposure import is_loopback
from process.sockets.binding import keep_to_oneself
from process.world import World
from submodels.bundle.bundle import Bundle, load_bundle
from submodels.bundle.fingerprint import middle_fingerprint_of
from submodels.bundle.manifest_file import MANIFEST_FILE
from wire.coding.lossy import Rounding
from wire.messages import Codec

_log = logging.getLogger(__name__)

_BACKLOG = 128

_RETRY_HERE_S = 0.5
"""At most between two tries to reach a cloud on this machine."""


@dataclass(frozen=True, slots=True)
class DeviceServer:
    """A running endpoint. URLs have no path; OpenAI clients want `url + "/v1"`."""

    url: str
    """For programs of this machine."""
    far_url: str | None
    """For those of others, where it listens on all addresses; None as well where it has none."""
    bundle: Bundle
    service: Service
    runtime: Runtime
    link: Link
    runs_on: str
    """What computes layers and head: cpu, or the name of an execution provider."""

    async def drain(self, timeout_s: float) -> bool:
        """Admit no more requests and let those in progress finish; whether all did in time."""
        return await self.service.drain.finish(timeout_s)


@asynccontextmanager
async def serve_device(
    config: DeviceConfig, world: World, dial: Dial | None = None
) -> AsyncIterator[DeviceServer]:
    """Serve while the context is entered, whether or not the cloud can be reached.

    Port 0 takes a free one; `world` is the program's time and chance; `dial` as in `Link`. Leaving
    the context cuts off what is still in progress.

    Raises:
        UserError: no usable bundle, engine or cloud address, or the port is in use.
    """
    async with AsyncExitStack() as stack:
        listener = _bind(config)
        stack.callback(listener.close)
        access = _access(config, listener)
        bundle = load_bundle(
            config.bundle_path, "device", config.verify_weights, key=config.bundle_key
        )
        monitor = StateMonitor(config.chunking != "paper", config.wire_codec == "exact")
        link = Link(link_config(config, bundle), world.clock, world.randomness, monitor, dial)
        engine = await asyncio.to_thread(load_engine, config, world.clock)
        runtime = Runtime(
            EngineThread(engine),
            link,
            config,
            world.clock,
            world.randomness,
            heads=_heads(config, bundle),
            shelf=_shelf(config, bundle, world, engine.runs_on),
        )
        stack.push_async_callback(runtime.close)
        service = _service(config, bundle, runtime, link, access, world)
        stack.push_async_callback(asyncio.to_thread, service.spans.close)
        stack.callback(service.text_work.close)
        stack.callback(service.template.close)
        runtime.start()
        runner = make_runner(service)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.SockSite(runner, listener, backlog=_BACKLOG).start()
        stack.push_async_callback(service.drain.finish, 0.0)
        yield DeviceServer(*_urls(listener), bundle, service, runtime, link, engine.runs_on)


def _bind(config: DeviceConfig) -> socket.socket:
    """The address, taken before anything slow is loaded; connections come only once it listens."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        keep_to_oneself(listener)
        listener.bind((config.host, config.port))
    except OSError as error:
        listener.close()
        reason = system_reason(error).lower()
        where = f"{config.host}:{config.port}"
        raise StartError(f"cannot listen on {where}: {reason}") from error
    listener.setblocking(False)
    return listener


def _urls(listener: socket.socket) -> tuple[str, str | None]:
    """Where it can be connected to: from this machine, and from others."""
    host, port = listener.getsockname()[:2]
    near = f"http://{bracketed(near_host(host))}:{port}"
    far = far_address(host, own_names(host)) if is_wildcard(host) else None
    return near, None if far is None else f"http://{bracketed(far)}:{port}"


def link_config(config: DeviceConfig, bundle: Bundle) -> LinkConfig:
    """How a device with this bundle reaches its cloud.

    Raises:
        StartError: the environment names a proxy that cannot be used.
    """
    manifest = bundle.manifest
    identity = ModelIdentity(
        fingerprint=bytes.fromhex(manifest.fingerprint),
        middle_fingerprint=bytes.fromhex(middle_fingerprint_of(manifest)),
        first_layer=manifest.num_input_layers,
        num_layers=manifest.num_middle_layers,
        hidden_size=manifest.shape.hidden_size,
    )
    return LinkConfig(
        url=config.cloud,
        model=identity,
        secret=(config.secret or "").encode(),
        ca_file=config.cloud_ca,
        shown=client_certificate(config.cloud_client_cert, config.cloud_client_key),
        pins=config.cloud_pin,
        proxy=proxy_for(link_url(config.cloud), os.environ),
        congestion_control=config.congestion_control,
        connections=_connections(config),
        patience=_patience(config),
        codec=_codec(config),
        rounding=_rounding(config),
    )


def _rounding(config: DeviceConfig) -> Rounding:
    names = {"off": None, "int8": Codec.INT8, "int6": Codec.INT6}
    return Rounding(
        prompt=names[config.lossy_prompt], up=names[config.lossy_up], down=names[config.lossy_down]
    )


def _codec(config: DeviceConfig) -> Codec:
    if config.wire_codec == "raw":
        return Codec.RAW
    return Codec.PADDED if config.pad_frames else Codec.EXACT


def _connections(config: DeviceConfig) -> int | None:
    """One to a cloud on this machine, or behind a tunnel's end here: that way has no slow start."""
    is_here = is_loopback(urlsplit(config.cloud).hostname or "")
    return 1 if is_here and config.connections is None else config.connections


def _patience(config: DeviceConfig) -> Patience:
    """A cloud on this machine is asked more often: it serves nobody else, and loads its model."""
    patience = Patience(
        heartbeat_s=config.heartbeat_s, permanent_after_s=config.reconnect_timeout_s
    )
    is_here = is_loopback(urlsplit(config.cloud).hostname or "")
    return replace(patience, max_retry_s=_RETRY_HERE_S) if is_here else patience


def _heads(config: DeviceConfig, bundle: Bundle) -> MedusaHeads | None:
    if config.drafter != "medusa":
        return None
    if not {HEADS_CARD_FILE, HEADS_WEIGHTS_FILE} <= bundle.manifest.files.keys():
        raise StartError(f"drafter medusa: {bundle.path} holds no heads")
    try:
        return load_heads(bundle.path, bundle.manifest)
    except MedusaError as error:
        raise StartError(f"drafter medusa: {error}") from error


def _shelf(config: DeviceConfig, bundle: Bundle, world: World, runs_on: str) -> DiskShelf | None:
    """Where kept sessions outlive the program, if they can.

    Output layers on the device want the deep rows of the whole text, which are gone with it.

    Raises:
        StartError: the folder cannot be used.
    """
    folder = config.kept_sessions_folder
    if folder is None or config.kept_sessions == 0:
        return None
    boot = boot_id()
    if bundle.manifest.num_output_layers > 0 or boot is None:
        why = "output layers are on this device" if boot else "this system does not name its boots"
        _log.warning("kept_sessions_folder: nothing is kept over a restart, since %s", why)
        return None
    # All that decides which rows went up, and to whom.
    rounded = ",".join(f"{way}={codec}" for way, codec in _rounding(config).named.items())
    served = (bundle.manifest.fingerprint, config.weights, runs_on, config.wire_codec, rounded)
    identity = Identity((*served, link_url(config.cloud), boot, str(folder.resolve())))
    return DiskShelf(folder, identity, world.unix_clock)


def _access(config: DeviceConfig, listener: socket.socket) -> AccessRules:
    """Names are checked where only this machine can ask: a page's own name must not lead here.

    Raises:
        StartError: a name that is none.
    """
    for name in config.allowed_hosts:
        if not is_host_pattern(name):
            expected = "a name like hat.example or *.example, or * for any"
            raise StartError(f"allowed_hosts: expected {expected}, got {name!r}")
    address = ipaddress.ip_address(listener.getsockname()[0].partition("%")[0])
    checks_names = address.is_loopback or bool(config.allowed_hosts)
    own = (config.host,) if is_host_pattern(config.host) else ()
    allowed_hosts = (*config.allowed_hosts, *own) if checks_names else None
    return AccessRules(config.api_key, config.cors_origins, allowed_hosts)


def _service(
    config: DeviceConfig,
    bundle: Bundle,
    runtime: Runtime,
    link: Link,
    access: AccessRules,
    world: World,
) -> Service:
    manifest = bundle.manifest
    names = tuple(dict.fromkeys(config.served_model_name or (manifest.model_name,)))
    model = ModelCard(
        id=names[0],
        aliases=names[1:],
        root=manifest.model_name,
        created=int((bundle.path / MANIFEST_FILE).stat().st_mtime),
        fingerprint=manifest.fingerprint,
        eos_token_ids=manifest.eos_token_ids,
    )
    tokenizer, template = load_tokenizer(bundle.path), load_chat_template(bundle.path)
    layout, telling = find_calls(template)
    return Service(
        generator=runtime,
        tokenizer=tokenizer,
        template=template,
        thought_marks=marks_of(template.source),
        call_layout=layout if config.tool_format == "auto" else LAYOUTS[config.tool_format],
        telling=telling,
        model=model,
        metrics=Metrics(model.id, runtime.admission, link, world.clock, _build(config)),
        clock=world.clock,
        unix_clock=world.unix_clock,
        max_side_by_side=config.max_num_seqs,
        access=access,
        sampling=_sampling(config, bundle),
        grammars=Grammars(
            tokenizer.as_json(),
            runtime.vocab_size,
            model.eos_token_ids,
            tokenizer.special_ids,
            world.clock,
        ),
        spans=_spans(config, model, world),
        control_tokens=ControlTokens(tokenizer) if config.sanitize_control_tokens else None,
        lossy_codecs=lambda: link.lossy_codecs,
        lone_answers=_lone_answers(bundle) if runtime.may_answer_alone else None,
    )


def _lone_answers(bundle: Bundle) -> LoneAnswers:
    quality = lone_quality(bundle)
    share = quality.acceptance
    return LoneAnswers(
        tokens_per_round=quality.tokens_per_round,
        draft_tokens=quality.draft_tokens,
        acceptance=None if share is None else round(share, 3),
    )


def _spans(config: DeviceConfig, model: ModelCard, world: World) -> Spans:
    """What tells a collector of requests, if one is named.

    Raises:
        StartError: what that needs is not installed.
    """
    collector = collector_of(config.otlp_endpoint, os.environ)
    if collector is None:
        return NO_SPANS
    if config.otlp_endpoint is None and not can_export():
        # The environment may be meant for other programs.
        _log.warning("%s names a collector, but %s", VARIABLES[1], NOT_INSTALLED)
        return NO_SPANS
    if config.otlp_endpoint is None and (expected := http_url(collector)) is not None:
        # What it holds is not shown: a password may be in it.
        _log.warning("%s: expected %s; no spans are sent", " or ".join(VARIABLES), expected)
        return NO_SPANS
    where = urlsplit(collector).netloc.rpartition("@")[2]
    _log.info("spans of requests go to %s, without prompts and tokens", where)
    return spans_to(collector, model.id, world.clock, world.unix_clock)


def _build(config: DeviceConfig) -> dict[str, str]:
    """What runs here, for its metrics; torch computes in float32 here."""
    number_format = config.weights if config.engine == "onnx" else "float32"
    return {**built_here(), "engine": config.engine, "number_format": number_format}


def _sampling(config: DeviceConfig, bundle: Bundle) -> SamplingDefaults:
    file = bundle.files.json(FILE) if config.generation_config == "auto" else {}
    try:
        return sampling_defaults(file, config.sampling_defaults)
    except ValueError as error:
        raise StartError(f"sampling_defaults: {error}") from error
