"""Reservations: never above the capacity, and back to nothing when all have ended."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_server.core.actions import SequenceHandle
from cloud_server.core.scheduling.kv_accounting import KvAccounting, KvFullError

turns = st.lists(st.tuples(st.integers(1, 8), st.integers(1, 60)), max_size=60)


@given(capacity=st.integers(1, 100), block=st.integers(1, 20), turns=turns)
def test_reservations_stay_within_the_capacity_and_all_come_back(
    capacity: int, block: int, turns: list[tuple[int, int]]
) -> None:
    """In whole blocks: the capacity loses what fills none, a reservation is rounded up."""
    if capacity < block:
        with pytest.raises(ValueError, match=f"capacity of at least {block}"):
            KvAccounting(capacity, block)
        return
    accounting = KvAccounting(capacity, block)
    capacity -= capacity % block
    assert accounting.capacity_tokens == capacity
    held: dict[SequenceHandle, int] = {}
    for number, max_tokens in turns:
        handle = SequenceHandle(number)
        if handle in held:
            accounting.release(handle)
            del held[handle]
        elif (charged := math.ceil(max_tokens / block) * block) <= capacity - sum(held.values()):
            accounting.reserve(handle, max_tokens)
            held[handle] = charged
            assert accounting.charge(max_tokens) == charged
        else:
            with pytest.raises(KvFullError):
                accounting.reserve(handle, max_tokens)
        assert accounting.reserved_tokens == sum(held.values()) <= capacity
        assert accounting.free_tokens == capacity - sum(held.values())
    for handle in held:
        accounting.release(handle)
    assert accounting.reserved_tokens == 0


def test_a_refusal_has_the_numbers() -> None:
    accounting = KvAccounting(10)
    accounting.reserve(SequenceHandle(1), 7)
    with pytest.raises(KvFullError, match="at most 3 free of 10 tokens, got 4"):
        accounting.reserve(SequenceHandle(2), 4)


def test_a_sequence_reserves_once_and_releases_once() -> None:
    accounting = KvAccounting(10)
    accounting.reserve(SequenceHandle(1), 2)
    with pytest.raises(ValueError, match="without a reservation"):
        accounting.reserve(SequenceHandle(1), 2)
    accounting.release(SequenceHandle(1))
    with pytest.raises(ValueError, match="with a reservation"):
        accounting.release(SequenceHandle(1))


@pytest.mark.parametrize("amount", [0, -1])
def test_nothing_is_not_reserved(amount: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        KvAccounting(10).reserve(SequenceHandle(1), amount)
    with pytest.raises(ValueError, match="at least 1"):
        KvAccounting(amount)
    with pytest.raises(ValueError, match="blocks of at least 1"):
        KvAccounting(10, amount)
