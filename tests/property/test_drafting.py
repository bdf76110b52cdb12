from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runtime.drafting.ngram import PromptLookup

texts = st.lists(st.integers(0, 3), max_size=60)


def looked_up(tokens, num_tokens, lengths, window):
    """Prompt lookup by scanning the whole text."""
    for length in lengths:
        suffix = tokens[len(tokens) - length :]
        if len(suffix) < length:
            continue
        for end in range(len(tokens) - 1, max(length, len(tokens) - window) - 1, -1):
            if tokens[end - length : end] == suffix:
                draft = []
                for index in range(num_tokens):
                    source = end + index
                    draft.append(
                        tokens[source] if source < len(tokens) else draft[source - len(tokens)]
                    )
                return tuple(draft)
    return ()


@given(
    tokens=texts,
    cuts=st.lists(st.integers(0, 60), max_size=4),
    num_tokens=st.integers(0, 9),
    lengths=st.tuples(st.integers(1, 4), st.integers(0, 2)),
    window=st.integers(1, 40),
)
def test_a_draft_is_what_a_scan_of_the_text_finds(tokens, cuts, num_tokens, lengths, window):
    shortest, longest = lengths[0], lengths[0] + lengths[1]
    drafter = PromptLookup(shortest, longest, window)
    edges = [0, *sorted(min(cut, len(tokens)) for cut in cuts), len(tokens)]
    for begin, end in pairwise(edges):
        drafter.extend(tokens[begin:end])
    expected = looked_up(tokens, num_tokens, range(longest, shortest - 1, -1), window)
    assert drafter.propose(num_tokens) == expected


@given(tokens=texts, undecided=texts, num_tokens=st.integers(0, 9))
def test_a_draft_behind_undecided_tokens_is_what_a_scan_of_the_decided_text_finds(
    tokens, undecided, num_tokens
):
    drafter = PromptLookup()
    drafter.extend(tokens)
    end = [*tokens, *undecided]
    expected = ()
    for length in (3, 2):
        places = range(length, len(tokens)) if len(end) >= length else ()
        found = [at for at in places if tokens[at - length : at] == end[len(end) - length :]]
        if found:
            loop = end[found[-1] :]
            expected = tuple(loop[index % len(loop)] for index in range(num_tokens))
            break
    assert drafter.propose(num_tokens, undecided) == expected
    assert drafter.propose(num_tokens) == looked_up(tokens, num_tokens, (3, 2), 60)


@settings(max_examples=20, deadline=None)
@given(tokens=st.lists(st.integers(0, 10**6), min_size=60, max_size=100))
def test_the_index_never_outgrows_its_window(tokens):
    drafter = PromptLookup(2, 3, window_tokens=20)
    drafter.extend(tokens)
    assert len(drafter._continuations) <= 2 * 20


def test_a_loop_is_drafted_beyond_its_end():
    drafter = PromptLookup()
    drafter.extend([1, 2, 3, 1, 2, 3])
    assert drafter.propose(7) == (1, 2, 3, 1, 2, 3, 1)


def test_a_suffix_of_one_token_is_not_looked_up_by_default():
    drafter = PromptLookup()
    drafter.extend([1, 2, 3, 1])
    assert drafter.propose(3) == ()


@pytest.mark.parametrize(("shortest", "longest", "window"), [(0, 2, 9), (3, 2, 9), (1, 1, 0)])
def test_impossible_lengths_are_refused(shortest, longest, window):
    with pytest.raises(ValueError, match="1"):
        PromptLookup(shortest, longest, window)
