import pytest

from device_runtime.session.acceptance import Verdict, accept, walk


def test_an_empty_draft_accepts_nothing_and_takes_the_targets_token():
    assert accept([], [7]) == Verdict(0, 7)


def test_a_draft_the_target_agrees_with_is_kept_whole_and_followed_by_the_bonus_token():
    assert accept([1, 2, 3], [1, 2, 3, 4]) == Verdict(3, 4)


def test_the_first_mismatch_is_replaced_and_later_agreement_does_not_count():
    assert accept([1, 9, 3], [1, 2, 3, 4]) == Verdict(1, 2)


@pytest.mark.parametrize("target", [[], [1], [1, 2, 3]])
def test_a_target_of_the_wrong_length_is_refused(target):
    with pytest.raises(ValueError, match="expected 2 target tokens"):
        accept([1], target)


def test_the_walk_asks_for_no_choice_after_the_first_mismatch():
    asked = []

    def choose(index: int) -> int:
        asked.append(index)
        return [1, 2, 3][index]

    assert walk([1, 9], choose, frozenset()) == (1, 2)
    assert asked == [0, 1]


def test_a_stop_token_inside_an_accepted_run_ends_the_walk():
    assert walk([1, 2, 3], lambda index: [1, 2, 3, 4][index], frozenset({2})) == (1, 2)


def test_the_walk_through_a_tree_goes_where_the_target_goes():
    draft, parents = [1, 2, 5, 3, 4], (0, 0, 1, 0, 3, 1)
    asked = []

    def choose(row: int) -> int:
        asked.append(row)
        return [5, 0, 0, 3, 9, 0][row]

    assert walk(draft, choose, frozenset(), parents) == (5, 3, 9)
    assert asked == [0, 3, 4]
    assert walk(draft, choose, frozenset({5}), parents) == (5,)


def test_of_equal_siblings_the_first_counts():
    assert walk([1, 1, 2], lambda row: [1, 7, 2, 8][row], frozenset(), (0, 0, 0, 2)) == (1, 7)
