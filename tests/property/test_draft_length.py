import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_runtime.session.draft_length import FixedDraftLength, GoodputDraftLength

BASE_S = 0.05


def play(policy, num_rounds, num_accepted, row_s):
    """Rounds against a drafter whose every draft has its first tokens accepted; lengths."""
    lengths = []
    for _ in range(num_rounds):
        length = policy.num_tokens()
        lengths.append(length)
        policy.on_round(length, min(num_accepted, length), BASE_S + length * row_s)
    return lengths


rounds = st.lists(
    st.tuples(st.integers(0, 8), st.integers(0, 8), st.floats(0.0, 100.0)), max_size=40
)


@given(rounds=rounds, max_tokens=st.integers(0, 8))
def test_the_length_is_in_range_and_a_function_of_what_was_measured(rounds, max_tokens):
    first, second = GoodputDraftLength(max_tokens), GoodputDraftLength(max_tokens)
    for num_drafted, num_accepted, round_s in rounds:
        for policy in (first, second):
            policy.on_round(num_drafted, min(num_accepted, num_drafted), round_s)
        length = first.num_tokens()
        assert 0 <= length <= max_tokens
        assert length == second.num_tokens()


@given(max_tokens=st.integers(1, 8), row_s=st.floats(0.0, 0.01))
def test_drafts_that_are_always_right_are_drafted_at_full_length(max_tokens, row_s):
    policy = GoodputDraftLength(max_tokens)
    play(policy, 60, num_accepted=8, row_s=row_s)
    assert policy.num_tokens() == max_tokens


@given(max_tokens=st.integers(1, 8), row_s=st.floats(0.002, 0.05))
def test_drafts_that_are_never_right_shrink_to_rare_probes_of_one_token(max_tokens, row_s):
    policy = GoodputDraftLength(max_tokens)
    play(policy, 150, num_accepted=0, row_s=row_s)
    later = play(policy, 170, num_accepted=0, row_s=row_s)
    assert set(later) == {0, 1}
    assert later.count(1) == 10


def test_drafting_comes_back_when_the_text_turns_predictable():
    policy = GoodputDraftLength(4)
    play(policy, 150, num_accepted=0, row_s=0.003)
    play(policy, 60, num_accepted=8, row_s=0.003)
    assert policy.num_tokens() == 4


@given(max_tokens=st.integers(1, 8))
def test_the_predicted_goodput_becomes_the_measured_one(max_tokens):
    policy = GoodputDraftLength(max_tokens)
    for index in range(400):
        length = index % (max_tokens + 1)
        policy.on_round(length, length, BASE_S + length * 0.02)
    for length in range(max_tokens + 1):
        measured = (length + 1) / (BASE_S + length * 0.02)
        assert policy.goodputs()[length] == pytest.approx(measured, rel=0.25)


def test_the_cost_of_a_row_is_found_out_even_if_all_rounds_look_alike():
    policy = GoodputDraftLength(4)
    lengths = play(policy, 200, num_accepted=1, row_s=2 * BASE_S)
    assert max(lengths[:5]) > 1
    assert sum(lengths[100:]) <= 100


def test_a_draft_length_of_zero_never_probes():
    assert set(play(GoodputDraftLength(0), 50, 0, 0.0)) == {0}


def test_a_fixed_length_learns_nothing():
    assert set(play(FixedDraftLength(3), 20, 0, 1.0)) == {3}
