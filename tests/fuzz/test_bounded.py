"""A bounded part of the fuzzing, by a seed: seconds, and the same bytes each time."""

import logging
from unittest.mock import patch

import pytest

from cloud_server.core.scheduling.kv_accounting import KvAccounting
from cloud_server.core.session import Session
from tests.fuzz.draws import Draws
from tests.fuzz.running import TARGETS, FoundError, load, run_plain

NUM_RUNS = {
    "decode": 40_000,
    "core": 250,
    "device": 15,
    "http": 10_000,
    "headers": 10_000,
    "bundle": 2000,
    "plan": 800,
}


@pytest.fixture(autouse=True)
def quiet():
    """What a hostile cloud makes a device say is thousands of lines."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_that_others_send_breaks_what_reads_it(name) -> None:
    tally = run_plain(load(name), seed=1, num_runs=NUM_RUNS[name])
    assert tally.num_runs == NUM_RUNS[name]
    assert tally.num_frames >= tally.num_runs


@pytest.mark.parametrize(
    "broken",
    [
        patch.object(Session, "_check_place", lambda *_: None),
        patch.object(KvAccounting, "release", lambda *_: None),
    ],
    ids=["gaps are let in", "room is not given back"],
)
def test_a_core_that_is_broken_is_found_out(broken) -> None:
    with broken, pytest.raises(FoundError):
        run_plain(load("core"), seed=1, num_runs=NUM_RUNS["core"])


def test_draws_take_all_bytes_and_then_zeros() -> None:
    draws = Draws(bytes((1, 2, 3, 4)))
    assert draws.number(0, 255) == 1
    assert draws.number(10, 1000) == 10 + (2 + 3 * 256) % 991
    assert not draws.is_empty
    assert draws.some(2) == b"\4\0"
    assert draws.is_empty
    assert draws.pick("ab") == "a"
