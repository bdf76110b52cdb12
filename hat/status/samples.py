"""A page of metrics as values by name, and what histograms say."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample


@dataclass(frozen=True, slots=True)
class Samples:
    """The samples of one page; labels beside those asked for are summed over."""

    samples: tuple[Sample, ...] = ()

    def value(self, name: str, **labels: str) -> float | None:
        """The sum of the samples of this name that have these labels; None: there is none."""
        values = [each.value for each in self._named(name, labels)]
        return sum(values) if values else None

    def count(self, name: str, **labels: str) -> float:
        """The same, and 0 where there is none."""
        return self.value(name, **labels) or 0.0

    def by_label(self, name: str, label: str) -> Mapping[str, float]:
        """The values of a metric by one label of its samples."""
        return {each.labels[label]: each.value for each in self._named(name, {})}

    def label(self, name: str, label: str) -> str | None:
        """A label of the first sample of this name."""
        first = next(self._named(name, {}), None)
        return None if first is None else first.labels.get(label)

    def mean(self, name: str) -> float | None:
        """The mean of a histogram's observations; None: there were none."""
        number = self.count(f"{name}_count")
        return self.count(f"{name}_sum") / number if number else None

    def quantile(self, name: str, share: float) -> float | None:
        """About what this share of a histogram's observations did not exceed; None without any.

        Within a bucket observations are taken to lie evenly, as Prometheus takes them.
        """
        buckets = sorted((float(le), n) for le, n in self.by_label(f"{name}_bucket", "le").items())
        total = buckets[-1][1] if buckets else 0.0
        if not total:
            return None
        wanted, below, least = share * total, 0.0, 0.0
        for most, number in buckets:
            if number >= wanted and number > below:
                inside = (wanted - below) / (number - below)
                return least if most == float("inf") else least + inside * (most - least)
            below, least = number, most
        return least

    def _named(self, name: str, labels: Mapping[str, str]) -> Iterator[Sample]:
        for each in self.samples:
            if each.name == name and labels.items() <= each.labels.items():
                yield each


NO_SAMPLES = Samples()


def parse_samples(page: str) -> Samples:
    """The samples of Prometheus' text format.

    Raises:
        ValueError: it is another format.
    """
    families = text_string_to_metric_families(page)
    return Samples(tuple(sample for family in families for sample in family.samples))
