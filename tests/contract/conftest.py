"""What contract tests share over a whole run is ended with it."""

from collections.abc import Iterator

import pytest

from tests.support.vllm_engines import close_workers


@pytest.fixture(scope="session", autouse=True)
def _no_workers_left() -> Iterator[None]:
    yield
    close_workers()
