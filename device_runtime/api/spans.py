"""Requests as spans of OpenTelemetry, for whoever has named a collector; without one, none.

A span says when and how many, never what: no prompt, no token, no text of a client.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

from device_runtime.api.request.traces import Trace
from device_runtime.generation.request import Emission
from device_runtime.generation.stats import GenerationStats
from process.errors import StartError
from process.world import Clock

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

VARIABLES: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""What names a collector to programs that speak OpenTelemetry, the first that is there.

Source: OpenTelemetry, "OTLP exporter configuration".
"""

NOT_INSTALLED: Final = "spans need OpenTelemetry: pip install 'hat-serving[otel]'"

_NEEDED: Final = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")
_TRACES_PATH: Final = "/v1/traces"
_SERVICE_NAME: Final = "hat-device"
_EXPORT_S: Final = 3
"""A collector that takes longer does not hold up a device that stops, and gets nothing."""
_CLOSE_MS: Final = 2000
_NS: Final = 1e9


class GenerationSpan(Protocol):
    """One choice of a request, as a span."""

    def emitted(self, emission: Emission) -> None:
        """A round was decided just now."""
        ...

    def ended(self, reason: str, stats: GenerationStats) -> None:
        """It is over."""
        ...


class Spans(Protocol):
    """What makes them."""

    def begin(self, trace: Trace, arrived_s: float, index: int) -> GenerationSpan:
        """A choice's span, from the arrival of its request on the monotonic clock."""
        ...

    def close(self) -> None:
        """Send what is left, for a moment at most."""
        ...


class _NoSpan:
    def emitted(self, emission: Emission) -> None:
        """Nobody wants to know."""

    def ended(self, reason: str, stats: GenerationStats) -> None:
        """Nobody wants to know."""


class NoSpans:
    """Of a device without a collector."""

    def begin(self, trace: Trace, arrived_s: float, index: int) -> GenerationSpan:
        """See `Spans`."""
        return _NoSpan()

    def close(self) -> None:
        """See `Spans`."""


NO_SPANS: Final = NoSpans()


def collector_of(setting: str | None, environ: Mapping[str, str]) -> str | None:
    """Where spans go: by the setting, else by the environment; None: nowhere."""
    if setting is not None:
        return _with_path(setting)
    if environ.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    whole, root = (environ.get(name) or None for name in VARIABLES)
    if whole is not None or root is None:
        return whole
    return root.rstrip("/") + _TRACES_PATH


def can_export() -> bool:
    """Whether what that needs is installed: the API alone may come with other packages."""
    try:
        return all(map(find_spec, _NEEDED))
    except ModuleNotFoundError:
        return False


def spans_to(url: str, model_name: str, clock: Clock, unix_clock: Clock) -> Spans:
    """What sends spans to a collector that speaks OTLP over HTTP.

    Raises:
        StartError: what it needs is not installed.
    """
    if not can_export():
        raise StartError(NOT_INSTALLED)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    exporter = OTLPSpanExporter(endpoint=url, timeout=_EXPORT_S)
    return ExportedSpans(exporter, model_name, clock, unix_clock)


class ExportedSpans:
    """See `Spans`. A thread of the library sends them; what it cannot send in time is dropped."""

    def __init__(
        self, exporter: "SpanExporter", model_name: str, clock: Clock, unix_clock: Clock
    ) -> None:
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self._ids = _GivenIds()
        # What the environment says of the service wins over our name of it.
        resource = Resource({SERVICE_NAME: _SERVICE_NAME}).merge(Resource.create())
        ids: Any = self._ids
        self._provider = TracerProvider(resource=resource, id_generator=ids)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("hat")
        self._model_name = model_name
        self._clock = clock
        self._unix_clock = unix_clock

    def begin(self, trace: Trace, arrived_s: float, index: int) -> GenerationSpan:
        """See `Spans`."""
        from opentelemetry.trace import SpanKind

        # Clocks differ by what they differ now; a span must not run backwards when one is set.
        offset_s = self._unix_clock() - self._clock()
        self._ids.trace_id = int.from_bytes(trace.trace_id)
        span = self._tracer.start_span(
            "request",
            context=_parent_of(trace),
            kind=SpanKind.SERVER,
            start_time=_ns(arrived_s + offset_s),
            attributes={"gen_ai.request.model": self._model_name, "hat.choice": index},
        )
        return _ExportedSpan(span, self, _Times(self._clock, offset_s, arrived_s))

    def prefill(self, span: "Span", begun_ns: int, ended_ns: int) -> None:
        """A child from a generation's turn to its first token."""
        from opentelemetry.trace import set_span_in_context

        child = self._tracer.start_span(
            "prefill", context=set_span_in_context(span), start_time=begun_ns
        )
        child.end(end_time=ended_ns)

    def close(self) -> None:
        """See `Spans`."""
        self._provider.force_flush(_CLOSE_MS)
        self._provider.shutdown()


@dataclass(frozen=True, slots=True)
class _Times:
    clock: Clock
    offset_s: float
    arrived_s: float

    def now_ns(self) -> int:
        return _ns(self.clock() + self.offset_s)


class _ExportedSpan:
    def __init__(self, span: "Span", spans: ExportedSpans, times: _Times) -> None:
        self._span = span
        self._spans = spans
        self._times = times
        self._first_ns: int | None = None

    def emitted(self, emission: Emission) -> None:
        now_ns = self._times.now_ns()
        if self._first_ns is None:
            self._first_ns = now_ns
        attributes = {
            "hat.tokens": len(emission.tokens),
            "hat.drafted_tokens": emission.num_drafted,
            "hat.accepted_tokens": emission.num_accepted,
        }
        self._span.add_event("round", attributes, timestamp=now_ns)

    def ended(self, reason: str, stats: GenerationStats) -> None:
        from opentelemetry.trace import StatusCode

        times = self._times
        if self._first_ns is not None:
            turn_ns = _ns(times.arrived_s + stats.queue_s + times.offset_s)
            self._spans.prefill(self._span, min(turn_ns, self._first_ns), self._first_ns)
        self._span.set_attributes(
            {
                "gen_ai.response.finish_reasons": [reason],
                "gen_ai.usage.output_tokens": stats.num_output_tokens,
                "hat.reused_tokens": stats.num_reused_tokens,
                "hat.chunks": stats.num_chunks,
                "hat.rounds": stats.num_rounds,
                "hat.drafted_tokens": stats.num_drafted_tokens,
                "hat.accepted_tokens": stats.num_accepted_tokens,
                "hat.replays": stats.num_recoveries,
                "hat.uplink_bytes": stats.bytes_up,
                "hat.downlink_bytes": stats.bytes_down,
            }
        )
        if reason == "error":
            self._span.set_status(StatusCode.ERROR)
        self._span.end(end_time=times.now_ns())


def _ns(seconds: float) -> int:
    return int(seconds * _NS)


def _with_path(url: str) -> str:
    return url.rstrip("/") + _TRACES_PATH if urlsplit(url).path in ("", "/") else url


def _parent_of(trace: Trace) -> "Context | None":
    """The client's span, if it named one; nothing of ours is above it."""
    from opentelemetry.context import Context
    from opentelemetry.trace import (
        NonRecordingSpan,
        SpanContext,
        TraceFlags,
        set_span_in_context,
    )

    if not trace.parent_id:
        return Context()
    context = SpanContext(
        trace_id=int.from_bytes(trace.trace_id),
        span_id=int.from_bytes(trace.parent_id),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED if trace.is_sampled else TraceFlags.DEFAULT),
    )
    return set_span_in_context(NonRecordingSpan(context), Context())


class _GivenIds:
    """Ids of spans are random; that of a trace without a parent is the request's."""

    def __init__(self) -> None:
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

        self._random = RandomIdGenerator()
        self.trace_id = 0

    def generate_trace_id(self) -> int:
        """The one that was given last."""
        return self.trace_id

    def generate_span_id(self) -> int:
        """A random one."""
        return self._random.generate_span_id()

    def is_trace_id_random(self) -> bool:
        """A client's need not be."""
        return False
