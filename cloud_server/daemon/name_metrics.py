"""What each name has and had, for Prometheus: as many names as the core tells apart, no more."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from cloud_server.core.figures import NameFigures
from cloud_server.core.names.tokens import ANYONE, Name

_PREFIX = "hat_cloud_name"
_GAUGES = {
    "connections": ("num_connections", "Devices of this name that are connected."),
    "sessions": ("num_sessions", "Its sessions that hold a KV cache."),
    "reserved_tokens": ("reserved_tokens", "KV positions that they reserve."),
    "queued_tokens": ("queued_tokens", "Its rows that wait for a step."),
}
_COUNTERS = {
    "rows": ("num_rows", "Rows of this name that ran."),
    "quota_refusals": ("num_refused", "What a quota has refused to this name."),
}


class NameMetrics(Collector):
    """Asks for the `figures` whenever a page is rendered; before there are some nobody came."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.figures: Callable[[], Mapping[Name, NameFigures]] = _nobody
        registry.register(self)

    def describe(self) -> list[Metric]:
        """Nothing before there is somebody."""
        return []

    def collect(self) -> Iterator[Metric]:
        """A line of each metric for each name; operators chose these, devices did not."""
        figures = self.figures()
        for metric, (field, about) in _GAUGES.items():
            gauge = GaugeMetricFamily(f"{_PREFIX}_{metric}", about, labels=["name"])
            for name, each in figures.items():
                gauge.add_metric([name], getattr(each, field))
            yield gauge
        for metric, (field, about) in _COUNTERS.items():
            counter = CounterMetricFamily(f"{_PREFIX}_{metric}", about, labels=["name"])
            for name, each in figures.items():
                counter.add_metric([name], getattr(each, field))
            yield counter


def _nobody() -> Mapping[Name, NameFigures]:
    return {ANYONE: NameFigures()}
