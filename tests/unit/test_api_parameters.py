"""From a request's fields to how a text is generated: what is named when a field is wrong."""

import msgspec
import pytest

from device_runtime.api.errors import ApiError
from device_runtime.api.job.plan import MAX_STOP_CHARACTERS, stop_strings
from device_runtime.api.request.body import CompletionRequest, decode_request
from device_runtime.api.request.sampling import logit_biases

VOCAB_SIZE = 512


def request(**fields):
    return decode_request(msgspec.json.encode({"prompt": "hi", **fields}), CompletionRequest)


def test_keys_of_logit_bias_are_strings_of_whole_numbers():
    given = {"0": 1, "7": -100, "511": 2.5, "20.0": 100}
    biases = logit_biases(request(logit_bias=given).logit_bias, VOCAB_SIZE)
    assert biases == {0: 1, 7: -100, 511: 2.5, 20: 100}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(
            (key, 1)
            for key in ("five", "-5", "", " 5", "5 ", "1_0", "\u0665", "1.5", "1e2", "0x1", "+5")
        ),
        *((key, 1) for key in ("512", "99999999999", "9" * 5000, "512.0", "\ufffd")),
        *(("5", value) for value in (101, -100.5, 1e300, "1", None, True, [1], {"a": 1})),
    ],
)
def test_a_wrong_key_or_value_of_logit_bias_is_named(key, value):
    biases = request(logit_bias={"3": 1, key: value, "4": 1}).logit_bias
    with pytest.raises(ApiError) as caught:
        logit_biases(biases, VOCAB_SIZE)
    assert (caught.value.status, caught.value.param) == (400, "logit_bias")
    assert repr(key[:40]) in caught.value.message
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    "stops", [["a"] * 1000, [str(place) for place in range(1000)], ["\0", "\0\0"], [], "x" * 2000]
)
def test_any_number_of_stop_strings_is_looked_for_each_once(stops):
    expected = (stops,) if isinstance(stops, str) else tuple(dict.fromkeys(stops))
    assert stop_strings(request(stop=stops)) == expected


def test_stop_strings_are_bounded_by_their_characters_in_all():
    stops = [f"{place:04}" for place in range(MAX_STOP_CHARACTERS // 4)]
    assert len(stop_strings(request(stop=stops))) == len(stops)
    with pytest.raises(ApiError, match="stop: expected at most 32768 characters in all") as caught:
        stop_strings(request(stop=[*stops, "x"]))
    assert caught.value.param == "stop"
