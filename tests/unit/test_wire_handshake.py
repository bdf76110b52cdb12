"""Hello and Welcome: each mismatch has its own fault, in the documented order."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.codec import encode
from wire.errors import FaultCode, RemoteProtocolError
from wire.handshake import (
    MIN_VERSION,
    VERSION,
    CloudTerms,
    answer_hello,
    check_join,
    check_welcome,
    negotiate_version,
)
from wire.limits import MAX_HANDSHAKE_BYTES, MAX_HEADER_BYTES, RowLimits
from wire.messages import (
    Ability,
    Codec,
    Dtype,
    Hello,
    Join,
    SessionId,
    States,
    Want,
    Welcome,
)

TERMS = CloudTerms(
    fingerprint=b"f" * 32,
    first_layer=2,
    num_layers=6,
    credential=b"secret",
    rows=RowLimits(hidden_size=8, dtype=Dtype.BF16, max_frame_tokens=16),
    max_context_tokens=100,
    credit_limit_tokens=64,
    session_ttl_s=30.0,
)
HELLO = Hello(1, 1, b"f" * 32, 2, 6, 8, 0b101, 0b1, b"secret")


def test_a_device_that_fits_is_told_the_limits() -> None:
    welcome = answer_hello(HELLO, TERMS)
    assert welcome.dtype is Dtype.BF16
    assert (welcome.version, welcome.codecs, welcome.max_context_tokens) == (1, 1, 100)
    assert (welcome.max_frame_tokens, welcome.credit_limit_tokens) == (16, 64)
    assert check_welcome(HELLO, welcome) == TERMS.rows


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"min_version": 2, "max_version": 9}, FaultCode.UNSUPPORTED_VERSION),  # W10
        ({"credential": b"Secret"}, FaultCode.BAD_CREDENTIAL),  # W11
        ({"credential": b""}, FaultCode.BAD_CREDENTIAL),
        ({"fingerprint": b"g" * 32}, FaultCode.FINGERPRINT_MISMATCH),  # W12
        ({"first_layer": 1}, FaultCode.SHAPE_MISMATCH),  # W13
        ({"num_layers": 7}, FaultCode.SHAPE_MISMATCH),
        ({"hidden_size": 16}, FaultCode.SHAPE_MISMATCH),
        ({"dtypes": 0b011}, FaultCode.SHAPE_MISMATCH),
        ({"codecs": 0b10}, FaultCode.SHAPE_MISMATCH),
    ],
)
def test_a_mismatch_has_its_own_fault(change: dict[str, Any], code: FaultCode) -> None:
    with pytest.raises(RemoteProtocolError) as refused:
        answer_hello(replace(HELLO, **change), TERMS)
    assert refused.value.code is code


MIDDLE = 1 << Ability.MIDDLE
BY_MIDDLE = replace(TERMS, middle_fingerprint=b"m" * 32)


def test_a_device_that_names_the_middle_is_let_in_by_that_alone() -> None:  # W12
    named = replace(HELLO, fingerprint=b"m" * 32, codecs=0b1 | MIDDLE)
    assert answer_hello(named, BY_MIDDLE).codecs == 0b1
    assert answer_hello(HELLO, BY_MIDDLE).codecs == 0b1, "an earlier release names the whole model"
    for hello in (replace(named, codecs=0b1), replace(HELLO, codecs=0b1 | MIDDLE)):
        with pytest.raises(RemoteProtocolError) as refused:
            answer_hello(hello, BY_MIDDLE)
        assert refused.value.code is FaultCode.FINGERPRINT_MISMATCH


def test_a_cloud_that_compares_whole_models_ignores_the_bit() -> None:  # W10
    assert answer_hello(replace(HELLO, codecs=0b1 | MIDDLE), TERMS).codecs == 0b1


@pytest.mark.parametrize("change", [{"first_layer": 1}, {"num_layers": 5}, {"hidden_size": 16}])
def test_other_layers_are_told_before_another_fingerprint_of_the_middle(
    change: dict[str, Any],
) -> None:  # W12, W13
    named = replace(HELLO, fingerprint=b"n" * 32, codecs=0b1 | MIDDLE, **change)
    with pytest.raises(RemoteProtocolError) as refused:
        answer_hello(named, BY_MIDDLE)
    assert refused.value.code is FaultCode.SHAPE_MISMATCH


def test_who_lacks_the_secret_learns_nothing_about_the_model() -> None:  # W11
    stranger = replace(HELLO, credential=b"guess", fingerprint=b"g" * 32, hidden_size=1)
    with pytest.raises(RemoteProtocolError) as refused:
        answer_hello(stranger, TERMS)
    assert refused.value.code is FaultCode.BAD_CREDENTIAL
    assert "secret" not in refused.value.message.replace("shared secret", "")


def test_a_cloud_without_a_secret_lets_every_device_in() -> None:  # W11
    open_terms = replace(TERMS, credential=b"")
    assert answer_hello(replace(HELLO, credential=b"anything"), open_terms).version == VERSION


def test_dtypes_and_codecs_of_a_later_time_are_ignored() -> None:  # W10
    welcome = answer_hello(replace(HELLO, dtypes=0xFFFF, codecs=0xFFFF), TERMS)
    assert (welcome.dtype, welcome.codecs) == (Dtype.BF16, 1)


def test_a_cloud_with_taps_offers_them_to_who_asks_and_to_nobody_else() -> None:  # W38
    terms = replace(TERMS, rows=replace(TERMS.rows, codecs=0b101))
    assert answer_hello(HELLO, terms).codecs == 0b1
    assert answer_hello(replace(HELLO, codecs=0xFFFF), terms).codecs == 0b101
    assert answer_hello(replace(HELLO, codecs=0b101), TERMS).codecs == 0b1
    with pytest.raises(RemoteProtocolError):
        answer_hello(replace(HELLO, codecs=0b100), terms)


@given(low=st.integers(1, 70), span=st.integers(0, 70))
def test_the_version_is_the_highest_that_both_speak(low: int, span: int) -> None:  # W10
    common = set(range(MIN_VERSION, VERSION + 1)) & set(range(low, low + span + 1))
    if common:
        assert negotiate_version(low, low + span) == max(common)
        return
    with pytest.raises(RemoteProtocolError):
        negotiate_version(low, low + span)


@pytest.mark.parametrize("change", [{"version": 2}, {"dtype": Dtype.FP16}, {"codecs": 0b10}])
def test_a_welcome_that_was_not_offered_is_refused(change: dict[str, Any]) -> None:  # W14
    with pytest.raises(RemoteProtocolError):
        check_welcome(HELLO, replace(answer_hello(HELLO, TERMS), **change))


def test_the_frame_limit_holds_the_largest_frame_and_no_more() -> None:  # W4
    rows = RowLimits(hidden_size=512, dtype=Dtype.FP32, max_frame_tokens=16)
    payload = bytes(16 * rows.row_bytes)
    frame = encode(States(SessionId(1), 0, 0, 16, Dtype.FP32, Codec.RAW, Want.ALL, payload))
    assert len(frame) <= rows.max_frame_bytes <= len(payload) + MAX_HEADER_BYTES
    assert TERMS.rows.max_frame_bytes == MAX_HANDSHAKE_BYTES


def test_a_lane_key_is_for_who_asks_for_lanes_from_a_cloud_that_has_them() -> None:  # W44
    lanes = 1 << Ability.LANES
    terms = replace(TERMS, rows=replace(TERMS.rows, codecs=0b1 | lanes))
    asking = replace(HELLO, codecs=0b1 | lanes)
    welcome = answer_hello(asking, terms, b"k" * 16)
    assert (welcome.codecs, welcome.lane_key) == (0b1 | lanes, b"k" * 16)
    assert check_welcome(asking, welcome).codecs == 0b1 | lanes
    for hello, ours in ((HELLO, terms), (asking, TERMS)):
        assert answer_hello(hello, ours, b"k" * 16).lane_key == b""


@pytest.mark.parametrize("change", [{"lane_key": b""}, {"codecs": 0b1}])
def test_a_lane_key_without_lanes_or_lanes_without_a_key_are_refused(
    change: dict[str, Any],
) -> None:  # W44
    asking = replace(HELLO, codecs=0b1 | 1 << Ability.LANES)
    welcome = Welcome(1, Dtype.FP32, asking.codecs, 100, 8, 16, 30.0, lane_key=bytes(16))
    with pytest.raises(RemoteProtocolError, match="expected a lane key where lanes were agreed"):
        check_welcome(asking, replace(welcome, **change))


def test_a_lane_is_for_who_knows_the_secret() -> None:  # W44
    check_join(Join(1, bytes(16), TERMS.credential), TERMS)
    for join, code in (
        (Join(9, bytes(16), b"wrong"), FaultCode.UNSUPPORTED_VERSION),
        (Join(1, bytes(16), b"wrong"), FaultCode.BAD_CREDENTIAL),
        (Join(1, bytes(16), b""), FaultCode.BAD_CREDENTIAL),
    ):
        with pytest.raises(RemoteProtocolError) as caught:
            check_join(join, TERMS)
        assert caught.value.code is code
