"""What the daemon counts, for Prometheus. Labels are fault codes and names of operators."""

from collections.abc import Callable, Mapping
from math import nan

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from cloud_server.core.actions import Step, StepWork
from cloud_server.core.config import CoreFigures
from cloud_server.core.figures import NameFigures
from cloud_server.core.names.tokens import Name
from cloud_server.daemon.name_metrics import NameMetrics
from process.tls.served import ServedTls
from wire.errors import FaultCode
from wire.messages import Want

_PREFIX = "hat_cloud"
_NOT_AFTER = "tls_not_after_seconds"

# From a tiny model on a CPU to a long chunk on a slow one.
_STEP_SECONDS = (
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10,
)  # fmt: skip
_BATCH_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


class Metrics:
    """The daemon's own registry; gauges are read when a page is rendered.

    The counters that are attributes are for whoever sees what they count.
    """

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self, verify_tokens: int) -> None:
        self._verify_tokens = verify_tokens
        self._registry = CollectorRegistry()
        self._names = NameMetrics(self._registry)
        self._build = Info("hat_build", "The program that runs here.", registry=self._registry)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._gauges = {
            name: Gauge(name, about, namespace=_PREFIX, registry=self._registry)
            for name, about in _GAUGES.items()
        }
        # 0 would be long ago, and an alert.
        self._gauges[_NOT_AFTER].set(nan)
        self._step_seconds = self._histogram("step_seconds", "Time of one step.", _STEP_SECONDS)
        self._batch_tokens = self._histogram("batch_tokens", "Rows of one step.", _BATCH_TOKENS)
        self._prefill_tokens = self._counter("prefill_tokens", "Rows of prompts that ran.")
        self._verify_tokens_run = self._counter("verify_tokens", "Rows of verifications that ran.")
        self._counted = {
            name: self._counter(shown, about) for name, (shown, about) in _COUNTED.items()
        }
        self._last: dict[str, int] = dict.fromkeys(self._counted, 0)
        self.failed_steps = self._counter("failed_steps", "Steps that raised.")
        self.lost_engines = self._counter("engine_restarts", "Times the engine was lost.")
        self.received_bytes = self._counter("received_bytes", "Bytes of frames from devices.")
        self.sent_bytes = self._counter("sent_bytes", "Bytes of frames to devices.")
        self.bundle_bytes = self._counter("bundle_bytes", "Bytes of bundles to devices.")
        self.sent_saved_bytes = self._counter(
            "sent_saved_bytes", "Bytes that coded rows to devices took less than RAW ones."
        )
        self.sent_lossy_tokens = self._counter(
            "sent_lossy_tokens", "Rows to devices in a codec that rounds them."
        )
        self._faults = Counter(
            "faults", "Faults sent.", ["code"], namespace=_PREFIX, registry=self._registry
        )
        for code in FaultCode:
            self._faults.labels(code.name)

    def watch_names(self, figures: Callable[[], Mapping[Name, NameFigures]]) -> None:
        """Show the load by name too, as it is when a page is rendered."""
        self._names.figures = figures

    def tell_build(self, build: Mapping[str, str]) -> None:
        """What runs here, in place of what was told before: version, commit, engine, format."""
        self._build.info({"side": "cloud", **build})

    def show_certificate(self, tls: ServedTls) -> None:
        """Tell when the certificate ends, which an alert compares with the time."""
        self._gauges[_NOT_AFTER].set_function(tls.ends_s)

    def count_step(self, step: Step, seconds: float) -> None:
        """A step ran."""
        if not step.items:
            return
        self._step_seconds.observe(seconds)
        self._batch_tokens.observe(step.num_tokens)
        num_verified = sum(item.num_rows for item in step.items if self._is_verification(item))
        self._verify_tokens_run.inc(num_verified)
        self._prefill_tokens.inc(step.num_tokens - num_verified)

    def count_fault(self, code: FaultCode) -> None:
        """A device was refused something."""
        self._faults.labels(code.name).inc()

    def render(self, figures: CoreFigures | None) -> bytes:
        """The page for a scraper; without figures (while loading) the gauges are 0."""
        if figures is not None:
            values = {
                "num_requests_running": figures.num_running_sessions,
                "num_requests_waiting": figures.num_waiting_sessions,
                "kv_cache_usage_perc": figures.reserved_tokens / figures.capacity_tokens,
                "kv_cache_capacity_tokens": figures.capacity_tokens,
                "queued_tokens": figures.queued_tokens,
                "connections": figures.num_connections,
                "lanes": figures.num_lanes,
                "sessions": figures.num_sessions,
                "detached_sessions": figures.num_detached_sessions,
                "host_sessions": figures.num_saved_sessions,
                "host_cache_tokens": figures.host_tokens,
                "host_cache_capacity_tokens": figures.host_capacity_tokens,
            }
            for name, value in values.items():
                self._gauges[name].set(value)
            for name, counter in self._counted.items():
                so_far: int = getattr(figures, name)
                counter.inc(so_far - self._last[name])
                self._last[name] = so_far
        return generate_latest(self._registry)

    def _is_verification(self, item: StepWork) -> bool:
        """As the core counts it, but by piece: small, and wanted back."""
        return item.want is not Want.NONE and item.num_rows <= self._verify_tokens

    def _counter(self, name: str, about: str) -> Counter:
        return Counter(name, about, namespace=_PREFIX, registry=self._registry)

    def _histogram(self, name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, about, namespace=_PREFIX, registry=self._registry, buckets=buckets)


_GAUGES = {
    _NOT_AFTER: "When the certificate expires, in seconds since 1970; NaN without one.",
    "num_requests_running": "Sessions in a step.",
    "num_requests_waiting": "Sessions with rows that wait for a step.",
    "kv_cache_usage_perc": "Reserved share of the KV cache; 1 is all of it.",
    "kv_cache_capacity_tokens": "KV positions over all sessions.",
    "queued_tokens": "Rows that wait for a step.",
    "connections": "Devices connected.",
    "lanes": "Further sockets of devices, which carry pieces of prompts.",
    "sessions": "Sessions that hold a KV cache, here or in host memory.",
    "detached_sessions": "Sessions that wait for their device to come back.",
    "host_sessions": "Idle sessions in host memory, or on the way there or back.",
    "host_cache_tokens": "KV positions in host memory.",
    "host_cache_capacity_tokens": "KV positions that host memory may hold.",
}

_COUNTED = {
    "saved_bytes": (
        "received_saved_bytes",
        "Bytes that coded rows from devices took less than RAW ones.",
    ),
    "lossy_tokens": ("received_lossy_tokens", "Rows from devices in a codec that rounds them."),
    "dropped_tokens": ("dropped_tokens", "Rows that their device took back before they ran."),
    "saves": ("host_saves", "Idle sessions that went to host memory."),
    "restores": ("host_restores", "Sessions filled from host memory."),
    "dropped_copies": (
        "host_drops",
        "Sessions that ended in host memory, which others needed.",
    ),
}
"""Counters of the core's figures, by their fields."""
