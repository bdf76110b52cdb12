from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from device_runtime.drafting.suffix.guesses import SuffixGuesses
from device_runtime.drafting.suffix.guessing import MOST_GUESSES, SUFFIX_CHANCES, guesses
from device_runtime.drafting.suffix.index import LONGEST_MATCH, SuffixIndex, slots_for
from device_runtime.drafting.suffix.memory import SuffixMemory

texts = st.lists(st.integers(0, 5), max_size=80)
many_texts = st.lists(texts, max_size=4)


def indexed(all_texts, max_tokens=1000, num_slots=1024):
    """An index of texts, the last of which is not ended."""
    index = SuffixIndex(max_tokens, num_slots)
    for number, text in enumerate(all_texts):
        if number:
            index.end_text()
        index.extend(text)
    return index


def laid_out(all_texts):
    """The texts one behind the other, None between them."""
    flat = []
    for number, text in enumerate(all_texts):
        flat += ([None] if number else []) + text
    return flat


def matching(flat, position, tail, first):
    """How many tokens before a position, kept from `first` on, are the tail's last."""
    num = 0
    while num < min(LONGEST_MATCH, len(tail), position - first) and (
        flat[position - 1 - num] == tail[-1 - num]
    ):
        num += 1
    return num


@given(
    all_texts=many_texts,
    tail=texts,
    max_tokens=st.integers(1, 400),
    slots=st.sampled_from([1, 8, 1024]),
)
def test_every_place_really_followed_the_end_of_the_text(all_texts, tail, max_tokens, slots):
    index, flat = indexed(all_texts, max_tokens, slots), laid_out(all_texts)
    first = max(0, len(flat) - max_tokens)
    found = index.places(tail)
    for place in found:
        assert first < place.position < len(flat)
        assert place.num_matching == matching(flat, place.position, tail, first) >= 1
        expected = flat[place.position : place.position + 7]
        if None in expected:
            expected = expected[: expected.index(None)]
        assert index.following(place.position, 7) == expected
        assert expected
    assert all(one.position > other.position for one, other in pairwise(found))


@given(all_texts=st.lists(st.lists(st.integers(0, 9), max_size=30), max_size=3), tail=texts)
def test_the_longest_match_is_found_where_a_context_has_few_places(all_texts, tail):
    index, flat = indexed(all_texts), laid_out(all_texts)
    scanned = [
        matching(flat, position, tail, 0)
        for position in range(1, len(flat))
        if flat[position] is not None
    ]
    assume(not tail or flat.count(tail[-1]) <= 16)
    longest = max((place.num_matching for place in index.places(tail)), default=0)
    assert longest == max(scanned, default=0)


@given(text=texts, cuts=st.lists(st.integers(0, 80), max_size=4))
def test_a_text_in_pieces_is_indexed_as_in_one(text, cuts):
    index = SuffixIndex(50, 64)
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    for begin, end in pairwise(edges):
        index.extend(text[begin:end])
    assert index.places(text) == indexed([text], 50, 64).places(text)


@given(text=st.lists(st.integers(0, 3), min_size=1, max_size=60), begun=st.lists(st.integers(0, 3)))
def test_guesses_behind_a_begun_draft_are_those_behind_the_longer_text(text, begun):
    now, later = SuffixGuesses(None), SuffixGuesses(None)
    now.begin(text)
    later.begin([*text, *begun])
    found = now.behind(begun)
    assert len(found) <= MOST_GUESSES
    assert all(0 <= guess.evidence < len(SUFFIX_CHANCES) for guess in found)
    end = [*text, *begun]
    # The draft itself is looked for and not looked through.
    if indexed([text]).places(end) == indexed([end]).places(end):
        assert found == later.behind()


def test_the_tokens_that_followed_most_often_are_guessed_and_the_latest_of_equals():
    often = indexed([[1, 2, 3, 7], [1, 2, 3, 8], [1, 2, 3, 8], [1, 2, 3, 9]])
    own = indexed([[1, 2, 3]])
    found = guesses(own, often, (1, 2, 3), ())
    assert [guess.token_id for guess in found] == [8]
    assert [guess.token_id for guess in guesses(own, indexed([[3, 4], [3, 5]]), (3,), ())] == [5]


def test_a_longer_match_counts_before_more_of_shorter_ones():
    memory = indexed([[5, 1, 2, 3, 7], [1, 2, 3, 8], [1, 2, 3, 8]])
    assert guesses(SuffixIndex(1, 1), memory, (5, 1, 2, 3), ())[0].token_id == 7


def test_more_agreement_and_a_longer_match_are_better_evidence():
    def chance(all_texts, tail):
        return SUFFIX_CHANCES[guesses(SuffixIndex(1, 1), indexed(all_texts), tail, ())[0].evidence]

    once, twice, split = [[1, 2, 3, 7]], [[1, 2, 3, 7]] * 2, [[1, 2, 3, 7], [1, 2, 3, 8]]
    assert chance(twice, (1, 2, 3)) > chance(once, (1, 2, 3)) > chance(split, (1, 2, 3))
    long = [*range(10, 30), 7]
    assert chance([long], long[:-1]) > chance(once, (1, 2, 3))


def test_a_loop_is_drafted_beyond_its_end():
    loop = SuffixGuesses(None)
    loop.begin([1, 2, 3, 1, 2, 3])
    assert [guess.token_id for guess in loop.behind()][:7] == [1, 2, 3, 1, 2, 3, 1]
    assert [guess.token_id for guess in loop.behind([1])][:5] == [2, 3, 1, 2, 3]


def test_drafts_come_out_of_another_requests_text():
    memory = SuffixMemory(1000)
    memory.remember(range(100))
    fresh = SuffixGuesses(memory)
    fresh.begin([200, 201, 40, 41, 42])
    assert [guess.token_id for guess in fresh.behind()][:5] == [43, 44, 45, 46, 47]


def test_what_a_conversation_repeats_is_kept_once():
    memory = SuffixMemory(10_000)
    text = list(range(1000))
    for turn in range(10):
        text = [*text, *range(5000 + 100 * turn, 5100 + 100 * turn)]
        memory.remember(text)
    kept_twice = memory.index.num_tokens - len(text)
    assert kept_twice <= 10 * (LONGEST_MATCH + 32 + 1)
    memory.remember(text)
    assert memory.index.num_tokens - len(text) == kept_twice
    for position in range(1, len(text), 50):
        assert memory.index.places(text[:position])[0].num_matching == min(position, LONGEST_MATCH)


def test_the_oldest_text_goes_first_and_memory_is_bounded():
    memory = SuffixMemory(1000)
    for number in range(30):
        memory.remember(range(1000 * number, 1000 * number + 300))
    index = memory.index
    assert index.places(range(29_000, 29_100))
    assert index.places(range(28_000, 28_100))
    assert index.places(range(27_000, 27_100)) != []
    assert index.places(range(26_000, 26_100)) == []
    assert len(index._tokens) == 1000
    assert all(len(earlier) == 1000 for earlier in index._earlier)
    assert len(memory._ends) <= 2 * 1000 // 32 + 300 // 32 + 1
    assert memory.max_bytes < 100 * 1000


def test_a_text_that_was_forgotten_in_part_is_kept_again():
    memory = SuffixMemory(400)
    memory.remember(range(300))
    memory.remember(range(1000, 1300))
    memory.remember(range(300))
    assert memory.index.places(range(50))


@given(all_texts=st.lists(st.lists(st.integers(0, 1), max_size=200), max_size=12))
def test_remembering_never_fails_and_finds_only_what_was_said(all_texts):
    memory = SuffixMemory(100)
    for text in all_texts:
        memory.remember(text)
        memory.index.places(text)
    assert len(memory.index._tokens) <= 100


@pytest.mark.parametrize(("max_tokens", "num_slots"), [(0, 1), (1, 0), (1, 3)])
def test_impossible_sizes_are_refused(max_tokens, num_slots):
    with pytest.raises(ValueError, match=r"max_tokens|num_slots"):
        SuffixIndex(max_tokens, num_slots)


@pytest.mark.parametrize(
    ("num_tokens", "slots"), [(1, 1), (2, 2), (3, 4), (1024, 1024), (1025, 2048)]
)
def test_there_is_a_slot_for_each_token(num_tokens, slots):
    assert slots_for(num_tokens) == slots
