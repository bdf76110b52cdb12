"""What host memory is for: when a copy pays, how much a step copies, and whose copy goes first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_server.core.actions import Identity, SequenceHandle
from cloud_server.core.saving.policy import CopyPace, Kept, whose_copies_go
from cloud_server.engines.sizing import HostDemand, choose_host_tokens
from process.errors import StartError

ROW_BYTES = 8192
FEW = 32


def kept(number: int, identity: str, num_tokens: int, quiet_since_s: float = 0.0) -> Kept:
    return Kept(SequenceHandle(number), Identity(identity), num_tokens, quiet_since_s)


@given(
    token_s=st.floats(1e-7, 1e-2),
    limit_s=st.floats(1e-3, 0.1),
    block_tokens=st.sampled_from([1, 16, 128]),
)
def test_a_step_copies_whole_blocks_for_about_as_long_as_it_may(token_s, limit_s, block_tokens):
    pace = CopyPace(block_tokens, FEW)
    for _ in range(30):
        num_tokens = pace.step_tokens(limit_s)
        assert num_tokens % block_tokens == 0 < num_tokens
        pace.observe(num_tokens, num_tokens * token_s)
    assert num_tokens == block_tokens or num_tokens * token_s <= 1.001 * limit_s
    assert (num_tokens + block_tokens) * token_s > 0.999 * limit_s or num_tokens > 1 << 20


def test_nothing_is_known_at_first_and_little_is_copied():
    pace = CopyPace(16, FEW)
    assert pace.step_tokens(0.03) == 64
    pace.observe(64, 1e-9)
    assert pace.step_tokens(0.03) == 256


def test_one_late_copy_makes_no_machine_slow():
    pace = CopyPace(1, FEW)
    for _ in range(10):
        pace.observe(100, 0.001)
    pace.observe(100, 0.01)
    assert pace.step_tokens(0.001) > 30


def test_a_copy_pays_unless_it_takes_longer_than_to_send_and_compute_the_rows_again():
    pace = CopyPace(16, FEW)
    assert pace.is_worth(FEW + 1, ROW_BYTES, run_s=0.0), "not known, so it is tried"
    assert not pace.is_worth(FEW, ROW_BYTES, run_s=9.0), "sent again in one frame"
    # 8 KiB of a row take 0.66 ms at 100 Mbit/s; out and back may take as long.
    for token_s, is_worth in ((0.00032, True), (0.00034, False)):
        pace = CopyPace(16, FEW)
        pace.observe(1000, 1000 * token_s)
        assert pace.is_worth(1000, ROW_BYTES, run_s=0.0) is is_worth
        assert pace.is_worth(1000, ROW_BYTES, run_s=0.1), "computing it again costs as well"


def test_whoever_has_most_loses_the_longest_idle_first():
    lists = [
        kept(1, "much", 50, 3.0),
        kept(2, "much", 50, 2.0),
        kept(3, "little", 60, 1.0),
    ]
    assert whose_copies_go(lists, kept(9, "new", 30), 0) == []
    assert [each.handle for each in whose_copies_go(lists, kept(9, "new", 30), 40)] == [2]
    # With one of the two gone, it is no longer the one who has most.
    assert [each.handle for each in whose_copies_go(lists, kept(9, "new", 30), 90)] == [2, 3]


def test_a_newcomer_counts_and_never_drops_what_is_of_somebody_with_less():
    lists = [kept(1, "own", 50, 3.0), kept(2, "other", 40, 1.0)]
    assert [each.handle for each in whose_copies_go(lists, kept(9, "own", 30), 20)] == [1]
    assert whose_copies_go([kept(2, "other", 40)], kept(9, "own", 50), 20) is None
    assert whose_copies_go([], kept(9, "own", 50), 1) is None


@given(
    held=st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(1, 50), st.floats(0, 9)), max_size=9
    ),
    newcomer=st.tuples(st.sampled_from("abcd"), st.integers(1, 50)),
    short=st.integers(-5, 200),
)
def test_what_goes_is_enough_and_no_more_or_nothing_goes(held, newcomer, short):
    lists = [kept(number, *each) for number, each in enumerate(held)]
    gone = whose_copies_go(lists, kept(99, *newcomer, 0.0), short)
    if gone is None:
        return
    assert len(set(gone)) == len(gone)
    assert sum(each.num_tokens for each in gone) >= short
    assert not gone or sum(each.num_tokens for each in gone[:-1]) < short


GIB = 1 << 30


def test_half_of_what_the_kv_cache_leaves_is_for_idle_sessions():
    demand = HostDemand(None, 1024, 1 << 40, kv_host_bytes=6 * GIB)
    assert choose_host_tokens(demand, 10 * GIB) == 2 * GIB // 1024
    assert choose_host_tokens(demand, 5 * GIB) == 0
    assert choose_host_tokens(HostDemand(None, 1024, 77), 10 * GIB) == 77, "more is never used"


def test_what_was_asked_for_is_given_or_refused_in_one_line():
    assert choose_host_tokens(HostDemand(1.5, 1024, 1 << 40), 2 * GIB) == 3 * GIB // 2048
    assert choose_host_tokens(HostDemand(0, 1024, 1 << 40), 2 * GIB) == 0
    with pytest.raises(StartError, match=r"host_cache_gib 3: 2 GiB of memory are free"):
        choose_host_tokens(HostDemand(3, 1024, 1 << 40, kv_host_bytes=GIB), 3 * GIB)
