from hypothesis import given
from hypothesis import strategies as st

from device_runtime.drafting.ahead import AheadSwitch, Branch, kept_tokens

tokens = st.lists(st.integers(0, 2), max_size=6)
branches = st.lists(st.builds(Branch, st.integers(0, 6), tokens.map(tuple)), max_size=4)


@given(
    branches=branches, draft=tokens, num_accepted=st.integers(0, 6), next_token=st.integers(0, 2)
)
def test_what_is_kept_is_what_a_whole_text_with_that_branch_says_behind_the_decision(
    branches, draft, num_accepted, next_token
):
    decided = [*draft[:num_accepted], next_token]
    tails = [()]
    for branch in branches:
        text = [*draft[: branch.offset], *branch.tokens]
        is_placed = branch.offset <= len(draft) and branch.offset < len(decided)
        if is_placed and text[: len(decided)] == decided:
            tails.append(tuple(text[len(decided) :]))
    kept = kept_tokens(branches, draft, decided)
    assert kept in tails
    assert len(kept) == max(map(len, tails))


def test_only_a_branch_from_an_accepted_place_is_kept():
    draft = [5, 6, 7]
    end = Branch(3, (8, 9, 10))
    assert kept_tokens([end], draft, [5, 6, 7, 8]) == (9, 10)
    assert kept_tokens([end], draft, [5, 6, 7, 1]) == ()
    assert kept_tokens([end], draft, [5, 6, 8]) == ()
    assert kept_tokens([Branch(2, (8, 9))], draft, [5, 6, 8]) == (9,)


def play(num_rounds, seconds_on, seconds_off):
    """How many of the rounds were on."""
    switch, num_on = AheadSwitch(), 0
    for _ in range(num_rounds):
        is_on = switch.is_on()
        num_on += is_on
        switch.on_round(is_on, 2, seconds_on if is_on else seconds_off)
    return num_on


@given(slow=st.floats(1.05, 5.0))
def test_the_better_way_is_taken_and_the_other_tried_now_and_then(slow):
    num_on, num_off = play(160, 0.01, 0.01 * slow), 160 - play(160, 0.01 * slow, 0.01)
    for num_better in (num_on, num_off):
        assert 140 <= num_better < 160


def test_a_change_is_noticed():
    switch = AheadSwitch()
    ways = []
    for num_round in range(400):
        ways.append(switch.is_on())
        on_s = 0.01 if num_round < 100 else 0.04
        switch.on_round(ways[-1], 2, on_s if ways[-1] else 0.02)
    assert sum(ways[50:100]) > 40
    assert sum(ways[350:]) < 10
