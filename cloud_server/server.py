"""A cloud from settings to an open port and back."""

import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from cloud_server.config import CloudConfig, metrics_port
from cloud_server.core_settings import core_settings, verify_tokens, wire_dtype
from cloud_server.daemon.app import make_app
from cloud_server.daemon.bundle_desk import BundleDesk, Callers
from cloud_server.daemon.daemon import CloudDaemon, EngineRhythm, NamesNow, Patience
from cloud_server.daemon.engine_thread import EngineThread
from cloud_server.daemon.figures_app import figures_guard, make_figures_app
from cloud_server.daemon.metrics import Metrics
from cloud_server.daemon.reception import make_reception, server_tls
from cloud_server.daemon.served_bundle import open_served_bundle
from cloud_server.engines.chosen import load_chosen_engine
from cloud_server.engines.engine import steps_in_flight
from cloud_server.engines.host_memory import available_bytes
from cloud_server.engines.loading import EngineLoader, LoadedEngine
from cloud_server.engines.sizing import HostDemand, choose_host_tokens, gib
from cloud_server.number_format import NAMES
from cloud_server.reached import reached_at
from cloud_server.token_file import TokenFile
from process.addresses import bracketed
from process.errors import StartError, system_reason
from process.listening.runner import GuardedRunner
from process.program.build import built_here
from process.program.exposure import is_loopback
from process.tls.served import ServedTls
from process.world import Clock, Randomness
from submodels.bundle.bundle import load_bundle
from submodels.bundle.coding_file import read_channel_scales
from wire.handshake import LINK_PATH

_log = logging.getLogger(__name__)

_STOP_ENGINE_S = 5.0
_STOP_HTTP_S = 2.0
_LEAST_LOAD_S = 0.5
_BYTES_PER_MBIT = 125_000

_CODECS = {"exact": "raw or coded exactly", "raw": "raw"}


class CloudServer:
    """One cloud in this process. `open`, then `load`, serve, `drain` if there is time, `close`.

    `clock` is the event loop's. Keys of lanes come from `randomness`; without it there are none.
    `unix_clock` is the world's, by which names expire; a tokens file needs it. `usual_tokens_file`
    is used if there is one and the settings name none. `own_names` are those of the machine, by
    which devices are told where it is.
    """

    def __init__(
        self,
        config: CloudConfig,
        load_engine: EngineLoader,
        clock: Clock,
        patience: Patience | None = None,
        randomness: Randomness | None = None,
        unix_clock: Clock | None = None,
        usual_tokens_file: Path | None = None,
        own_names: Sequence[str] = (),
    ) -> None:
        self._own_names = own_names
        self._unix_clock = unix_clock
        self.token_file: TokenFile | None = None
        """Who may come, if there is such a file or may come to be one."""
        path = config.tokens_file or usual_tokens_file
        if path is not None:
            self.token_file = TokenFile(path, is_needed=config.tokens_file is not None)
            self.token_file.start()
        self._randomness = randomness
        self._clock = clock
        self._config = config
        self._loader = load_engine
        self._patience = patience or Patience(silence_s=config.heartbeat_s)
        self.tls = _served_tls(config)
        """What it shows to devices; None: it speaks none."""
        self._bundle = load_bundle(
            config.bundle, "cloud", config.verify_weights, key=config.bundle_key
        )
        self._scales = read_channel_scales(self._bundle)
        self._engine = EngineThread(
            self._load_engine, wire_dtype(config, self._bundle.manifest), clock
        )
        self.reception = make_reception(config, clock)
        self.metrics = Metrics(verify_tokens(config))
        self.desk = self._open_desk()
        self._runner = GuardedRunner(
            make_app(self), self.reception.guard, shutdown_timeout=_STOP_HTTP_S
        )
        self._figures = GuardedRunner(
            make_figures_app(self), figures_guard(self), shutdown_timeout=_STOP_HTTP_S
        )
        self._port = config.port
        self._tell_build("not loaded yet")
        if self.tls is not None:
            self.metrics.show_certificate(self.tls)
        self.daemon: CloudDaemon | None = None

    @property
    def url(self) -> str:
        """Where it listens, `ws://host:port`."""
        return f"{'wss' if self.tls else 'ws'}://{_address(self._config.host, self._port)}"

    @property
    def device_url(self) -> str:
        """What a device on another machine is given as its cloud, as far as that is known here."""
        config, tls = self._config, self.tls
        host = reached_at(
            config.host,
            (*config.tls_names, *self._own_names),
            None if tls is None else tls.names,
            is_pinned=config.tls_self_signed,
        )
        return f"{'wss' if tls else 'ws'}://{_address(host, self._port)}"

    @property
    def link_url(self) -> str:
        """Where the WebSocket is."""
        return self.url + LINK_PATH

    @property
    def http_url(self) -> str:
        """Where `/health` and `/ready` are."""
        return f"{'https' if self.tls else 'http'}://{_address(self._config.host, self._port)}"

    @property
    def metrics_url(self) -> str | None:
        """Where `/metrics` is; None where its port was taken."""
        addresses = self._figures.addresses
        if not addresses:
            return None
        scheme = "http" if self._figures_tls is None else "https"
        return f"{scheme}://{_address(self._config.metrics_host, addresses[0][1])}"

    @property
    def _figures_tls(self) -> Callable[[], ssl.SSLContext] | None:
        """Beyond this machine figures are shown as the link is, unless that was not wanted."""
        config = self._config
        if self.tls is None or config.insecure or is_loopback(config.metrics_host):
            return None
        return self.tls.context

    async def open(self) -> None:
        """Listen; readiness is false until `load` is through.

        Raises:
            StartError: the address cannot be used.
        """
        await self._runner.setup()
        host, port = self._config.host, self._config.port
        try:
            await self._runner.listen(host, port, None if self.tls is None else self.tls.context)
        except OSError as error:
            await self._runner.cleanup()
            raise StartError(f"cannot listen on {host}:{port}: {system_reason(error)}") from error
        self._port = self._runner.addresses[0][1]
        await self._open_figures()

    async def load(self) -> None:
        """Load the engine and begin to serve.

        Raises:
            StartError: the bundle, the machine and the settings do not go together.
        """
        started_s = self._clock()
        loaded = await self._engine.load()
        rhythm = EngineRhythm(
            steps_in_flight(loaded.engine), max(_LEAST_LOAD_S, self._clock() - started_s)
        )
        host_tokens = self._host_tokens(loaded)
        settings = core_settings(
            self._config, self._bundle.manifest, loaded.engine, self._scales, host_tokens
        )
        self.daemon = CloudDaemon(
            settings,
            self._engine,
            self.metrics,
            self._patience,
            rhythm,
            self._clock,
            self._randomness,
            names=None if self.token_file is None else self._names_now,
        )
        self.metrics.watch_names(self.daemon.name_figures)
        self._tell_build(NAMES[loaded.engine.dtype])
        _log.info("%s", self._announcement(loaded, host_tokens))

    def _names_now(self) -> NamesNow:
        assert self.token_file is not None, "it is asked for where there is one"
        assert self._unix_clock is not None, "names expire by the world's time"
        return NamesNow(self.token_file.read(), self._unix_clock())

    async def _open_figures(self) -> None:
        """Listen for those who ask for figures; a port that nobody asked for may be taken.

        Raises:
            StartError: the port that the settings name cannot be used.
        """
        await self._figures.setup()
        host, port = self._config.metrics_host, metrics_port(self._config)
        try:
            await self._figures.listen(host, port, self._figures_tls)
        except OSError as error:
            text = f"cannot listen on {host}:{port} for /metrics: {system_reason(error)}"
            if self._config.metrics_port is not None:
                await self._figures.cleanup()
                await self._runner.cleanup()
                raise StartError(text) from error
            _log.warning("%s; --metrics-port names another", text)

    async def drain(self, timeout_s: float) -> None:
        """Refuse new sessions and let the running ones finish, for some time at most."""
        if self.daemon is not None:
            await self.daemon.drain(timeout_s)

    async def close(self) -> bool:
        """End everything.

        Returns:
            Whether the engine's thread has ended as well; one that still loads is left behind.
        """
        if self.daemon is not None:
            await self.daemon.shut_down()
        has_ended = await self._engine.stop(0.0 if self.daemon is None else _STOP_ENGINE_S)
        await self._runner.cleanup()
        if self.desk is not None:
            self.desk.close()
        await self._figures.cleanup()
        return has_ended

    def _tell_build(self, number_format: str) -> None:
        engine = self._config.engine
        build = {**built_here(), "engine": engine, "number_format": number_format}
        self.metrics.tell_build(build)

    def _open_desk(self) -> BundleDesk | None:
        """Where devices fetch their bundle.

        Raises:
            UserError: it cannot be served.
        """
        config = self._config
        if config.serve_device_bundle is None:
            return None
        served = open_served_bundle(
            config.serve_device_bundle,
            self._bundle.manifest,
            config.verify_weights,
            config.bundle_key,
        )
        _log.info(
            "devices may fetch their bundle here: %.1f MB at %g Mbit/s at the most",
            *(served.num_bytes / 1e6, config.bundle_mbit_per_s),
        )
        names = None if self.token_file is None else self._names_now
        asks = config.tls_client_ca is not None
        callers = Callers((config.secret or "").encode(), names, self._clock, asks)
        bytes_per_s = config.bundle_mbit_per_s * _BYTES_PER_MBIT
        count = self.metrics.bundle_bytes.inc
        return BundleDesk(served, self.reception, callers, bytes_per_s, count, self._is_computing)

    def _is_computing(self) -> bool:
        return self.daemon is not None and self.daemon.is_computing

    def _load_engine(self) -> LoadedEngine:
        return self._loader(self._bundle, self._config)

    def _host_tokens(self, loaded: LoadedEngine) -> int:
        """How many positions of idle sessions to keep in host memory.

        Raises:
            StartError: there is less of it than was asked for.
        """
        demand = HostDemand(
            gib=self._config.host_cache_gib,
            bytes_per_token=loaded.kv_bytes_per_token,
            useful_tokens=self._config.max_sessions * loaded.engine.max_context_tokens,
            kv_host_bytes=loaded.kv_host_bytes,
        )
        return choose_host_tokens(demand, available_bytes())

    def _announcement(self, loaded: LoadedEngine, host_tokens: int) -> str:
        manifest, engine = self._bundle.manifest, loaded.engine
        first = manifest.num_input_layers
        name = self._config.congestion_control
        congestion = "" if name is None else f", congestion control {name}"
        lossy = ", or LOSSY where a device asks for it" if self._config.allow_lossy_codecs else ""
        kv_bytes = engine.capacity_tokens * loaded.kv_bytes_per_token
        host_bytes = host_tokens * loaded.kv_bytes_per_token
        kept = (
            f"{host_tokens} more in host memory ({gib(host_bytes)})" if host_tokens else "no more"
        )
        return (
            f"serving {manifest.model_name}: layers [{first}, {first + manifest.num_middle_layers})"
            f" of {manifest.shape.num_layers}, hidden {engine.hidden_size}, "
            f"{NAMES[engine.dtype]}, rows in {NAMES[wire_dtype(self._config, manifest)]} "
            f"({_CODECS[self._config.wire_codec]}{lossy}); "
            f"{loaded.description}; "
            f"KV cache {engine.capacity_tokens} tokens ({gib(kv_bytes)}), of idle sessions {kept}, "
            f"context {engine.max_context_tokens}; devices connect to {self.device_url}{congestion}"
        )


@contextlib.asynccontextmanager
async def serve_cloud(
    config: CloudConfig,
    clock: Clock,
    load_engine: EngineLoader | None = None,
    patience: Patience | None = None,
    randomness: Randomness | None = None,
    unix_clock: Clock | None = None,
) -> AsyncIterator[CloudServer]:
    """A cloud in this process that is ready when entered; port 0 takes a free one.

    `load_engine` None takes the engine that the settings name, in this process.

    Raises:
        UserError: it cannot start.
    """
    load = load_engine or load_chosen_engine
    server = CloudServer(config, load, clock, patience, randomness, unix_clock)
    await server.open()
    try:
        await server.load()
        yield server
    finally:
        await server.close()


def _address(host: str, port: int) -> str:
    return f"{bracketed(host)}:{port}"


def _served_tls(config: CloudConfig) -> ServedTls | None:
    """What the settings name.

    Raises:
        StartError: a file is missing or cannot be used.
    """
    certificate, key, client_ca = config.tls_certificate, config.tls_key, config.tls_client_ca
    if certificate is None or key is None:
        # What does not go without TLS, or without the other file, is refused there.
        server_tls(certificate, key, client_ca)
        return None

    def make() -> ssl.SSLContext:
        made = server_tls(certificate, key, client_ca)
        assert made is not None, "both files are named"
        return made

    return ServedTls(make, certificate, key, *([] if client_ca is None else [client_ca]))
