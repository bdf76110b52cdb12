from hypothesis import given
from hypothesis import strategies as st

from device_runtime.session.acceptance import walk

tokens = st.integers(0, 3)


@given(st.lists(tokens, max_size=8), st.frozensets(tokens, max_size=1), st.data())
def test_the_walk_keeps_the_longest_right_beginning_and_one_token_of_the_targets(draft, stop, data):
    target = data.draw(st.lists(tokens, min_size=len(draft) + 1, max_size=len(draft) + 1))
    num_right = max(k for k in range(len(draft) + 1) if draft[:k] == target[:k])
    expected = target[: num_right + 1]
    stops = [index for index, token in enumerate(expected) if token in stop]
    if stops:
        del expected[stops[0] + 1 :]
    assert walk(draft, lambda index: target[index], stop) == tuple(expected)
