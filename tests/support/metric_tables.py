"""The tables of docs/metrics.md, made from the pages that both programs serve.

`python -m tests.support.metric_tables` writes them into the document.
"""

import re
from dataclasses import replace
from pathlib import Path

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from cloud_server.daemon.metrics import Metrics as CloudMetrics
from device_runtime.api.metrics import GenerationTimer
from device_runtime.api.metrics import Metrics as DeviceMetrics
from device_runtime.generation.stats import DraftCounts
from device_runtime.generation.timeline import Timeline
from tests.support.fake_generator import FakeGenerator, always, scripted_stats

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
FOREIGN = ("process_", "python_")
"""What the library adds, where the system tells it."""
BUILD = {"version": "1", "commit": "2", "engine": "3", "number_format": "4"}

_MARKED = "<!-- metrics of hat {name} -->\n{table}\n<!-- end -->"
_PART = "_created"
"""When a counter began: a gauge of the text format beside each of them."""


def device_page() -> str:
    """What a device says that has answered once."""
    generator = FakeGenerator(always([1]))
    metrics = DeviceMetrics("story", generator, generator, lambda: 0.2, BUILD)  # type: ignore[arg-type]
    timer = GenerationTimer(metrics, num_prompt_tokens=5, arrived_s=0.0)
    timer.emitted(3)
    stats = replace(scripted_stats(Timeline()), drafted_by={"suffix": DraftCounts(3, 2)})
    timer.ended("stop", stats)
    return metrics.render().decode()


def cloud_page() -> str:
    """What a cloud says that has just begun."""
    metrics = CloudMetrics(verify_tokens=16)
    metrics.tell_build(BUILD)
    return metrics.render(None).decode()


PAGES = {"device": device_page, "cloud": cloud_page}


def families(page: str) -> list[Metric]:
    """The metrics of a page, without those that only say when another began."""
    found = text_string_to_metric_families(page)
    return [each for each in found if not each.name.endswith(_PART)]


def full_name(metric: Metric) -> str:
    """The name as it is asked for: a counter's ends in `_total`."""
    return f"{metric.name}_total" if metric.type == "counter" else metric.name


def with_fresh_tables(text: str) -> str:
    """The document with the table of each program replaced by one made now."""
    for name, page in PAGES.items():
        pattern = _MARKED.format(name=name, table=".*?")
        fresh = _MARKED.format(name=name, table=_table(page()))
        text, num_found = re.subn(pattern, lambda _, new=fresh: new, text, flags=re.DOTALL)
        assert num_found == 1, f"no place for the table of hat {name}"
    return text


def _table(page: str) -> str:
    own = [each for each in families(page) if not each.name.startswith(FOREIGN)]
    rows = [_row(each) for each in sorted(own, key=full_name)]
    return "\n".join(["| metric | type | labels | |", "|---|---|---|---|", *rows])


def _row(metric: Metric) -> str:
    labels = sorted({label for each in metric.samples for label in each.labels} - {"le"})
    cells = [f"`{full_name(metric)}`", metric.type, ", ".join(labels), metric.documentation]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    DOCUMENT.write_text(with_fresh_tables(DOCUMENT.read_text()))
