"""What Prometheus may read: counts and times under vLLM's names with the prefix `hat_`."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, Protocol

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

from chunking.estimates import Estimates
from device_runtime.api.figures import PhaseSeconds, phases_of
from device_runtime.generation.stats import GenerationStats
from device_runtime.link.link import Link
from process.world import Clock

_LABEL = "model_name"
# vLLM's buckets, so that dashboards made for it show comparable histograms.
_FIRST_TOKEN_BUCKETS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_INTER_TOKEN_BUCKETS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
_PHASES = tuple(name for name in PhaseSeconds.__struct_fields__ if name != "total")
_REQUEST_BUCKETS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)

_TIMES = {
    _FIRST_TOKEN_BUCKETS: {
        "time_to_first_token": "From the arrival of a request to its first token.",
    },
    _INTER_TOKEN_BUCKETS: {
        "inter_token_latency": "Between two emissions of a generation; an emission may hold "
        "several tokens.",
        "request_time_per_output_token": "Decode time of a generation, divided by its tokens "
        "after the first.",
    },
    _REQUEST_BUCKETS: {
        "e2e_request_latency": "From the arrival of a request to the end of a generation.",
        "request_queue_time": "From the arrival of a request to a generation's turn.",
        "request_prefill_time": "From a generation's turn to its first token.",
        "request_decode_time": "From a generation's first token to its last.",
        "request_inference_time": "From a generation's turn to its last token.",
    },
}
"""Times by the buckets of their histograms: vLLM's names without `_seconds`, its definitions."""


_Known = Callable[[Estimates], float | None]

_ESTIMATES: Final[tuple[tuple[str, str, _Known], ...]] = (
    ("link_delay_seconds", "Round trip of the empty link.", lambda known: known.delay_s),
    (
        "link_uplink_bytes_per_second",
        "Rate of the way up.",
        lambda known: known.uplink_bytes_per_s,
    ),
    (
        "link_downlink_bytes_per_second",
        "Rate of the way down.",
        lambda known: known.downlink_bytes_per_s,
    ),
    (
        "cloud_queue_seconds",
        "Wait in the cloud before a step.",
        lambda known: known.cloud_queue_s,
    ),
    (
        "estimated_cloud_step_fixed_seconds",
        "What a step of the cloud takes beside its rows.",
        lambda known: known.cloud_step.fixed_s if known.cloud_step else None,
    ),
    (
        "estimated_cloud_step_token_seconds",
        "What a step of the cloud takes for each of its rows.",
        lambda known: known.cloud_step.token_s if known.cloud_step else None,
    ),
    (
        "estimated_prefill_fixed_seconds",
        "What the device's part of a chunk takes beside its tokens.",
        lambda known: known.prefill.fixed_s if known.prefill else None,
    ),
    (
        "estimated_prefill_token_seconds",
        "What the device's part of a chunk takes for each of its tokens.",
        lambda known: known.prefill.token_s if known.prefill else None,
    ),
    (
        "estimated_draft_token_seconds",
        "What it takes to draft a token.",
        lambda known: known.draft_token_s,
    ),
)
"""What the planner goes by: a name, what it is, and where it stands among the estimates."""


class Load(Protocol):
    """What only the runtime knows at a moment."""

    @property
    def num_running(self) -> int:
        """Generations running."""
        ...

    @property
    def num_waiting(self) -> int:
        """Generations that wait for their turn."""
        ...


class Metrics:
    """All metrics of one server, in a registry of their own. One generation is one choice.

    `build` are labels of `hat_build_info`: version, commit, engine, number format.
    """

    def __init__(
        self,
        model_name: str,
        load: Load,
        link: Link,
        clock: Clock,
        build: Mapping[str, str] | None = None,
    ) -> None:
        self.clock = clock
        self._registry = CollectorRegistry()
        self._model_name = model_name
        self._link = link
        about = Info("hat_build", "The program that runs here.", registry=self._registry)
        about.info({_LABEL: model_name, "side": "device", **(build or {})})
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        running = self._gauge("num_requests_running", "Generations running.")
        running.set_function(lambda: load.num_running)
        waiting = self._gauge("num_requests_waiting", "Generations waiting.")
        waiting.set_function(lambda: load.num_waiting)
        self._add_link(link)
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens processed.")
        self.generation_tokens = self._counter("generation_tokens", "Tokens generated.")
        self.looked_up_tokens = self._counter(
            "prefix_cache_queries", "Prompt tokens that were looked for in the caches."
        )
        self.reused_tokens = self._counter(
            "prefix_cache_hits", "Prompt tokens that the caches had, and that did not go up."
        )
        self._ended = Counter(
            "hat_request_success",
            "Generations ended, by reason (abort: the client left; error: it failed).",
            [_LABEL, "finished_reason"],
            registry=self._registry,
        )
        for reason in ("stop", "length", "abort", "error"):
            self._ended.labels(model_name, reason)
        self._times = {
            name: self._histogram(f"{name}_seconds", text, buckets)
            for buckets, times in _TIMES.items()
            for name, text in times.items()
        }
        self._add_drafts()
        self._add_work()
        self._add_alone()

    def _add_link(self, link: Link) -> None:
        """What is known of the link when a page is rendered; NaN until it has been measured."""
        connected = self._gauge("link_connected", "1 while there is a cloud, else 0.")
        connected.set_function(lambda: link.status.is_connected)
        made = self._gauge("link_num_connections", "How often the link was made.")
        made.set_function(lambda: link.num_connections)
        self._reconnects = self._counter(
            "link_reconnects", "Times the link was made again after it was lost."
        )
        self._num_reconnects = 0
        lanes = self._gauge("link_num_lanes", "Further connections to the cloud, for prompts.")
        lanes.set_function(lambda: link.num_lanes)
        for name, about, known in _ESTIMATES:
            gauge = self._gauge(name, f"{about} As the planner estimates it.")
            gauge.set_function(partial(_estimated, link, known))

    def _add_drafts(self) -> None:
        """Counters of drafted tokens: in all, by their place, by what drafted them."""
        self._drafts = self._counter("spec_decode_num_drafts", "Verifications of drafted tokens.")
        self._drafted = self._counter(
            "spec_decode_num_draft_tokens", "Tokens drafted for verifications."
        )
        self._accepted = self._counter(
            "spec_decode_num_accepted_tokens", "Drafted tokens that became text."
        )
        self._accepted_by_position = Counter(
            "hat_spec_decode_num_accepted_tokens_per_pos",
            "Accepted tokens by their place in the draft.",
            [_LABEL, "position"],
            registry=self._registry,
        )
        self._by_drafter = {
            what: Counter(
                f"hat_spec_decode_num_{what}_tokens_by_drafter",
                f"Tokens {what}, by what drafted them.",
                [_LABEL, "drafter"],
                registry=self._registry,
            )
            for what in ("drafted", "accepted")
        }

    def _add_work(self) -> None:
        """Counters of rounds, bytes and phases, which vLLM has no names for."""
        self._rounds = self._counter("rounds", "Verifications, of an empty draft as well.")
        self._recoveries = self._counter(
            "replays",
            "Times a running answer opened its session anew and sent again what the cloud lacked.",
        )
        self._behind = self._counter("pipelined_rows", "Rows sent behind an undecided draft.")
        self._stale = self._counter(
            "stale_rows", "Rows sent behind an undecided draft and of no use."
        )
        self._bytes_up = self._counter("uplink_bytes", "Bytes sent to the cloud.")
        self._bytes_down = self._counter("downlink_bytes", "Bytes received from the cloud.")
        self._saved_up = self._counter(
            "uplink_saved_bytes", "Bytes that coded rows to the cloud took less than RAW ones."
        )
        self._saved_down = self._counter(
            "downlink_saved_bytes", "Bytes that coded rows from the cloud took less than RAW ones."
        )
        self._lossy_up = self._counter(
            "uplink_lossy_rows", "Rows to the cloud in a codec that rounds them."
        )
        self._lossy_down = self._counter(
            "downlink_lossy_rows", "Rows from the cloud in a codec that rounds them."
        )
        self._phase_s = Counter(
            "hat_phase_seconds",
            "Time of generations by what it went to; see `seconds` in the `hat` field of answers.",
            [_LABEL, "phase"],
            registry=self._registry,
        )
        for phase in _PHASES:
            self._phase_s.labels(self._model_name, phase)

    def observe(self, time: str, seconds: float) -> None:
        """Take one of the times that have a histogram, by its name without `_seconds`."""
        self._times[time].observe(seconds)

    def _add_alone(self) -> None:
        """Answers without the cloud, which are none of the model's."""
        self._alone = self._counter(
            "draft_alone_requests", "Generations of the draft model alone, without the cloud."
        )
        self._alone_tokens = self._counter("draft_alone_tokens", "Tokens that it has generated so.")

    def count_end(self, reason: str) -> None:
        """One generation ended."""
        self._ended.labels(self._model_name, reason).inc()

    def count_work(self, stats: GenerationStats) -> None:
        """What one generation did, when it has ended."""
        if stats.is_alone:
            self._alone.inc()
            self._alone_tokens.inc(stats.num_output_tokens)
        self._rounds.inc(stats.num_rounds)
        self._recoveries.inc(stats.num_recoveries)
        self._behind.inc(stats.num_behind_rows)
        self._stale.inc(stats.num_stale_rows)
        self._bytes_up.inc(stats.bytes_up)
        self._bytes_down.inc(stats.bytes_down)
        self._saved_up.inc(stats.saved_up)
        self._saved_down.inc(stats.saved_down)
        self._lossy_up.inc(stats.lossy_up)
        self._lossy_down.inc(stats.lossy_down)
        phases = phases_of(stats)
        for phase in _PHASES:
            self._phase_s.labels(self._model_name, phase).inc(getattr(phases, phase))
        if stats.drafted_by_position:
            self._drafts.inc(stats.drafted_by_position[0])
        self._drafted.inc(stats.num_drafted_tokens)
        self._accepted.inc(stats.num_accepted_tokens)
        for position, num_accepted in enumerate(stats.accepted_by_position):
            self._accepted_by_position.labels(self._model_name, str(position)).inc(num_accepted)

        for name, counts in stats.drafted_by.items():
            self._by_drafter["drafted"].labels(self._model_name, name).inc(counts.drafted)
            self._by_drafter["accepted"].labels(self._model_name, name).inc(counts.accepted)

    def render(self) -> bytes:
        """The text format of Prometheus, version 0.0.4."""
        num_reconnects = max(0, self._link.num_connections - 1)
        self._reconnects.inc(num_reconnects - self._num_reconnects)
        self._num_reconnects = num_reconnects
        return generate_latest(self._registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        gauge = Gauge(f"hat_{name}", text, [_LABEL], registry=self._registry)
        return gauge.labels(self._model_name)

    def _counter(self, name: str, text: str) -> Counter:
        counter = Counter(f"hat_{name}", text, [_LABEL], registry=self._registry)
        return counter.labels(self._model_name)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        histogram = Histogram(
            f"hat_{name}", text, [_LABEL], registry=self._registry, buckets=buckets
        )
        return histogram.labels(self._model_name)


def _estimated(link: Link, known: _Known) -> float:
    value = known(link.monitor.estimates(0))
    return math.nan if value is None else value


class GenerationTimer:
    """Times one generation and counts its tokens into the metrics."""

    def __init__(self, metrics: Metrics, num_prompt_tokens: int, arrived_s: float) -> None:
        self._metrics = metrics
        self._num_prompt_tokens = num_prompt_tokens
        self._arrived_s = arrived_s
        self._first_s: float | None = None
        self._last_s = arrived_s
        self._num_tokens = 0

    def emitted(self, num_tokens: int) -> None:
        """Tokens were decided just now."""
        now = self._metrics.clock()
        if self._first_s is None:
            self._first_s = now
            self._metrics.prompt_tokens.inc(self._num_prompt_tokens)
            self._metrics.observe("time_to_first_token", now - self._arrived_s)
        else:
            self._metrics.observe("inter_token_latency", now - self._last_s)
        self._last_s = now
        self._num_tokens += num_tokens
        self._metrics.generation_tokens.inc(num_tokens)

    def ended(self, reason: str, stats: GenerationStats) -> None:
        """The generation is over; `reason` is a finish reason, `abort` or `error`."""
        metrics = self._metrics
        metrics.observe("e2e_request_latency", metrics.clock() - self._arrived_s)
        metrics.count_end(reason)
        metrics.count_work(stats)
        if self._first_s is None:
            return
        metrics.looked_up_tokens.inc(self._num_prompt_tokens)
        metrics.reused_tokens.inc(stats.num_reused_tokens)
        turn_s = min(self._first_s, self._arrived_s + stats.queue_s)
        metrics.observe("request_queue_time", turn_s - self._arrived_s)
        metrics.observe("request_prefill_time", self._first_s - turn_s)
        metrics.observe("request_decode_time", self._last_s - self._first_s)
        metrics.observe("request_inference_time", self._last_s - turn_s)
        if self._num_tokens > 1:
            decode_s = self._last_s - self._first_s
            metrics.observe("request_time_per_output_token", decode_s / (self._num_tokens - 1))
