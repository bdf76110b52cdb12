from hypothesis import given
from hypothesis import strategies as st

from device_runtime.session.acceptance import accept, walk

tokens = st.integers(0, 3)


@given(st.lists(tokens, max_size=8), st.data())
def test_the_walk_decides_what_accept_decides(draft, data):
    target = data.draw(st.lists(tokens, min_size=len(draft) + 1, max_size=len(draft) + 1))
    verdict = accept(draft, target)
    decided = walk(draft, lambda index: target[index], frozenset())
    assert decided == (*draft[: verdict.num_accepted], verdict.next_token)
    assert decided == tuple(target[: verdict.num_accepted + 1])


@given(st.lists(tokens, min_size=1, max_size=8), st.data())
def test_a_tree_that_is_a_chain_is_walked_as_a_draft(draft, data):
    target = data.draw(st.lists(tokens, min_size=len(draft) + 1, max_size=len(draft) + 1))
    stop = data.draw(st.frozensets(tokens, max_size=1))
    parents = (0, *range(len(draft)))
    expected = walk(draft, lambda index: target[index], stop)
    assert walk(draft, lambda row: target[row], stop, parents) == expected
