from hypothesis import given
from hypothesis import strategies as st

from device_runtime.acceptance import accept, walk

tokens = st.integers(0, 3)


@given(st.lists(tokens, max_size=8), st.data())
def test_the_walk_decides_what_accept_decides(draft, data):
    target = data.draw(st.lists(tokens, min_size=len(draft) + 1, max_size=len(draft) + 1))
    verdict = accept(draft, target)
    decided = walk(draft, lambda index: target[index], frozenset())
    assert decided == (*draft[: verdict.num_accepted], verdict.next_token)
    assert decided == tuple(target[: verdict.num_accepted + 1])
