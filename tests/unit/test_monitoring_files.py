"""Alert rules and dashboards ask only for what the programs tell."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from tests.support.metric_tables import PAGES, families
from wire.errors import FaultCode

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy" / "prometheus" / "hat.rules.yaml"
RULE_TESTS = ROOT / "deploy" / "prometheus" / "hat.rules.test.yaml"
DASHBOARDS = sorted((ROOT / "deploy" / "grafana").glob("*.json"))

OF_PROMETHEUS = {"instance", "job"}
"""Labels that a scrape adds."""
VARIABLES = {"$__rate_interval": "5m", "$instance": "here"}
"""What Grafana puts in before it asks."""
CLOSED = {
    "code": {code.name for code in FaultCode},
    "finished_reason": {"stop", "length", "abort", "error"},
}
"""Labels whose values are known."""


def _told() -> dict[str, set[str]]:
    """Every sample's name that either program tells, with its labels."""
    told: dict[str, set[str]] = {"up": set()}
    for page in PAGES.values():
        for metric in families(page()):
            for sample in metric.samples:
                told.setdefault(sample.name, set()).update(sample.labels)
    return told


TOLD = _told()


def _rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _panels(path: Path) -> list[dict[str, Any]]:
    return [p for p in json.loads(path.read_text())["panels"] if p["type"] != "row"]


def _queries() -> Iterator[tuple[str, str]]:
    """Where a query stands, and the query as Prometheus gets it."""
    for rule in _rules():
        yield rule["alert"], rule["expr"]
    for path in DASHBOARDS:
        for panel in _panels(path):
            for target in panel["targets"]:
                query = target["expr"]
                for variable, value in VARIABLES.items():
                    query = query.replace(variable, value)
                yield f"{path.stem}: {panel['title']}", query


QUERIES = [pytest.param(q, id=f"{n} {where}") for n, (where, q) in enumerate(_queries())]


def _nodes(node: Any) -> Iterator[Any]:
    """An expression and all within it."""
    yield node
    for name in ("expr", "lhs", "rhs", "param", "vector_selector"):
        if (inner := getattr(node, name, None)) is not None and not isinstance(inner, str):
            yield from _nodes(inner)
    arguments = getattr(node, "args", None) or []
    for argument in arguments:
        yield from _nodes(argument)


def _selectors(query: str) -> list[Any]:
    nodes = _nodes(promql_parser.parse(query))
    return [node for node in nodes if isinstance(node, promql_parser.VectorSelector)]


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_can_be_read_and_names_metrics_and_labels_that_exist(query: str) -> None:
    selectors = _selectors(query)
    assert selectors
    # Each name that looks like one of ours was reached, however deep it stands.
    assert {s.name for s in selectors} >= set(re.findall(r"\b(?:hat|process)_\w+", query))
    for selector in selectors:
        assert selector.name in TOLD, selector.name
        for matcher in selector.matchers.matchers:
            assert matcher.name in TOLD[selector.name] | OF_PROMETHEUS, (
                f"{selector.name}: {matcher}"
            )
            if matcher.name in CLOSED:
                assert matcher.value in CLOSED[matcher.name]


@pytest.mark.parametrize("query", QUERIES)
def test_counters_are_asked_for_as_rates_and_sums_keep_labels_that_are_there(query: str) -> None:
    nodes = list(_nodes(promql_parser.parse(query)))
    ranged = {
        node.vector_selector.name
        for node in nodes
        if isinstance(node, promql_parser.MatrixSelector)
    }
    for selector in _selectors(query):
        is_counter = selector.name.endswith(("_total", "_bucket", "_count", "_sum"))
        assert is_counter == (selector.name in ranged), selector.name
    labels = {label for s in _selectors(query) for label in TOLD[s.name]} | OF_PROMETHEUS
    for grouped in re.findall(r"\bby \(([^)]*)\)", query):
        assert {label.strip() for label in grouped.split(",")} <= labels


def test_rules_say_what_to_do_once_each_and_cover_both_programs() -> None:
    rules = _rules()
    names = [rule["alert"] for rule in rules]
    assert len(names) == len(set(names)) > 10
    for rule in rules:
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert set(rule["annotations"]) == {"summary", "description"}
        for label in re.findall(r"\$labels\.(\w+)", json.dumps(rule)):
            assert label in OF_PROMETHEUS | {
                n for s in _selectors(rule["expr"]) for n in TOLD[s.name]
            }
    text = RULES.read_text()
    assert "hat_cloud_" in text
    assert "hat_link_connected" in text


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_can_be_imported(path: Path) -> None:
    board = json.loads(path.read_text())
    assert board["uid"] == path.stem
    assert "id" not in board, "given by the Grafana that it is imported into"
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    for panel in _panels(path):
        assert panel["description"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    variables = {one["name"]: one for one in board["templating"]["list"]}
    assert set(variables) == {"datasource", "instance"}
    [asked] = re.findall(r"label_values\((\w+), instance\)", variables["instance"]["definition"])
    assert asked in TOLD


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Prometheus')")
def test_promtool_takes_the_rules_and_their_tests_pass() -> None:
    for words in (["check", "rules", str(RULES)], ["test", "rules", str(RULE_TESTS)]):
        done = subprocess.run(
            ["promtool", *words], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr
