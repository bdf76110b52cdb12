from device_runtime.session.acceptance import walk

NEVER = frozenset[int]()


def choices(*target: int):
    return lambda index: target[index]


def test_an_empty_draft_accepts_nothing_and_takes_the_targets_token():
    assert walk([], choices(7), NEVER) == (7,)


def test_a_draft_the_target_agrees_with_is_kept_whole_and_followed_by_the_bonus_token():
    assert walk([1, 2, 3], choices(1, 2, 3, 4), NEVER) == (1, 2, 3, 4)


def test_the_first_mismatch_is_replaced_and_later_agreement_does_not_count():
    assert walk([1, 9, 3], choices(1, 2, 3, 4), NEVER) == (1, 2)


def test_the_walk_asks_for_no_choice_after_the_first_mismatch():
    asked = []

    def choose(index: int) -> int:
        asked.append(index)
        return [1, 2, 3][index]

    assert walk([1, 9], choose, NEVER) == (1, 2)
    assert asked == [0, 1]


def test_a_stop_token_inside_an_accepted_run_ends_the_walk():
    assert walk([1, 2, 3], choices(1, 2, 3, 4), frozenset({2})) == (1, 2)


def test_a_stop_token_in_the_place_of_a_wrong_guess_ends_the_walk():
    assert walk([1, 9, 3], choices(1, 2, 3, 4), frozenset({2})) == (1, 2)
