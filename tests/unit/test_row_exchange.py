"""Memory that two processes see: both views are one, and nothing is left of it."""

import numpy as np
import pytest

from cloud_server.engines.vllm.exchange.rows import (
    SHARED_MEMORY,
    ExchangeShape,
    NamedExchange,
    open_exchange,
)

SHAPE = ExchangeShape(num_slots=2, max_rows=6, row_items=4, item="float32")


@pytest.fixture
def named():
    made = NamedExchange(SHAPE)
    yield made
    made.forget_name()


def test_both_sides_see_the_same_rows(named):
    worker = open_exchange(str(named.path), SHAPE)
    named.forget_name()
    assert not named.path.exists()
    rows = np.arange(24, dtype=np.float32).reshape(6, 4)
    for slot in (0, 1):
        named.exchange.shallow(slot, 6)[...] = rows + slot
        worker.deep(slot, 3)[...] = rows[:3] - slot
    for slot in (0, 1):
        np.testing.assert_array_equal(worker.shallow(slot, 6), rows + slot)
        np.testing.assert_array_equal(named.exchange.deep(slot, 3), rows[:3] - slot)


def test_the_memory_is_for_its_owner_alone(named):
    assert named.path.stat().st_mode & 0o777 == 0o600


def test_more_memory_than_there_is_leaves_no_name():
    before = set(named_files())
    with pytest.raises(OSError, match=r"."):
        NamedExchange(SHAPE._replace(max_rows=1 << 40))
    assert set(named_files()) == before


def named_files():
    return SHARED_MEMORY.glob("hat-rows-*")
