"""How every test run begins and what it says at its end."""

import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from submodels.no_telemetry import switch_off_telemetry
from tests.support.event_loop import EVENT_LOOPS

# Before a test imports ONNX Runtime or transformers itself.
switch_off_telemetry()
# Before torch is imported anywhere: spinning threads of several engines on two cores turn
# milliseconds into seconds.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A property is about values; how long a loaded machine takes to draw or check them is not.
settings.register_profile("hat", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# `make quick`; tests with a number of their own take `at_most` of it.
settings.register_profile("quick", settings.get_profile("hat"), max_examples=25)
# A failure there is the change's and not chance's, and is told so that it can be tried elsewhere.
settings.register_profile("ci", settings.get_profile("hat"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "hat")


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Async tests run on asyncio's own loop, or on the one that their mark or parameter names."""
    mark = request.node.get_closest_marker("event_loop")
    name = getattr(request, "param", mark.args[0] if mark else "asyncio")
    return "asyncio", {"loop_factory": EVENT_LOOPS[name]}


@pytest.fixture(autouse=True)
def _log_level_is_left_as_it_was() -> Iterator[None]:
    """A program that runs in this process sets its own."""
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Ties are counted and shown: a first difference where the reference could not decide."""
    ties = [
        value
        for report in terminalreporter.getreports("passed")
        if report.when == "call"
        for name, value in report.user_properties
        if name == "ties"
    ]
    if ties:
        terminalreporter.write_line(
            f"greedy equality: {len(ties)} tests compared ids with transformers, {sum(ties)} ties"
        )
