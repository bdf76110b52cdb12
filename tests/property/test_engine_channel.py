"""What goes through the channel of a hosted engine arrives as it was, and stays."""

import threading
from collections.abc import Iterator

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud_server.engines.hosting.channel import BLOCK_BYTES, Channel, make_ends

FORMATS = (np.float32, np.float16, ml_dtypes.bfloat16)


@pytest.fixture(scope="module")
def ends() -> Iterator[tuple[Channel, Channel]]:
    first, second = map(Channel, make_ends())
    yield first, second
    first.close()
    second.close()


def _there(ends: tuple[Channel, Channel], message: object) -> object:
    """What comes out; a reader of its own, since a large message does not fit the socket."""
    came = []
    reader = threading.Thread(target=lambda: came.append(ends[1].receive()))
    reader.start()
    ends[0].send(message)
    reader.join(30)
    return came[0]


@st.composite
def _arrays(draw: st.DrawFn) -> np.ndarray:
    shape = draw(st.tuples(st.integers(0, 5), st.integers(0, 40)))
    values = np.random.default_rng(draw(st.integers(0, 9))).standard_normal(shape)
    array = values.astype(draw(st.sampled_from(FORMATS)))
    match draw(st.sampled_from(["as it is", "every second", "turned", "read only"])):
        case "every second":
            array = array[:, ::2]
        case "turned":
            array = array.T
        case "read only":
            array.flags.writeable = False
    return array


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arrays=st.lists(_arrays(), max_size=5), word=st.text())
def test_arrays_arrive_as_they_were(ends, arrays, word):
    got_word, got = _there(ends, (word, arrays))
    assert got_word == word
    assert len(got) == len(arrays)
    for came, sent in zip(got, arrays, strict=True):
        assert (came.dtype, came.shape) == (sent.dtype, sent.shape)
        assert came.tobytes() == sent.tobytes()


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("beyond", [-1, 0, 1])
def test_as_much_as_fits_the_shared_memory_and_more(ends, dtype, beyond):
    array = np.zeros(BLOCK_BYTES // np.dtype(dtype).itemsize + beyond, dtype)
    array[-1] = 3
    came = _there(ends, [array, array[-5:]])
    np.testing.assert_array_equal(came[0], array)
    np.testing.assert_array_equal(came[1], array[-5:])


def test_what_came_is_not_changed_by_what_comes_next(ends):
    first = _there(ends, np.ones(100, np.float32))
    _there(ends, np.zeros(100, np.float32))
    assert first.sum() == 100


def test_rows_of_bfloat16_do_not_go_through_the_socket(ends):
    rows = np.ones((1000, 576), ml_dtypes.bfloat16)
    # Nobody reads: a socket holds a fifth of this.
    sending = threading.Thread(target=ends[0].send, args=(rows,), daemon=True)
    sending.start()
    sending.join(10)
    assert not sending.is_alive()
    np.testing.assert_array_equal(ends[1].receive(), rows)
