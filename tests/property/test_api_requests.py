"""Any body is a request or a 400."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_runtime.api.errors import ApiError
from device_runtime.api.request.body import ChatRequest, CompletionRequest, decode_request
from device_runtime.api.request.refused_fields import _IN_BOTH, _IN_CHAT
from device_runtime.api.request.sampling import seed_of_choice

leaves = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
names = st.sampled_from(
    [*(field.name for field in msgspec.structs.fields(ChatRequest)), *_IN_BOTH, *_IN_CHAT, "prompt"]
)
bodies = st.dictionaries(names, values, max_size=6).map(msgspec.json.encode)


def request_or_error(body, kind):
    try:
        return decode_request(body, kind)
    except ApiError as error:
        return error


@pytest.mark.parametrize("kind", [ChatRequest, CompletionRequest])
@given(body=st.one_of(bodies, st.binary(max_size=40)))
def test_any_body_is_a_request_or_a_400_with_the_envelope(kind, body):
    outcome = request_or_error(body, kind)
    if isinstance(outcome, ApiError):
        assert outcome.status == 400
        envelope = msgspec.json.decode(outcome.encode())
        assert set(envelope["error"]) == {"message", "type", "param", "code"}
    else:
        assert isinstance(outcome, kind)


@given(seed=st.integers(-(2**63), 2**63 - 1))
def test_choices_of_one_seed_have_distinct_seeds_and_the_first_has_its_own(seed):
    seeds = [seed_of_choice(seed, number) for number in range(16)]
    assert len(set(seeds)) == 16
    assert seeds[0] == seed % 2**64
    assert all(0 <= each < 2**64 for each in seeds)
    assert seeds == [seed_of_choice(seed, number) for number in range(16)]
