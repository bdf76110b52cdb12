"""A kept session's file comes back as it was written, or is told to be damaged."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_runtime.session.kept_text import (
    DamagedFileError,
    Identity,
    KeptText,
    decode,
    encode,
    packed_ids,
)

IDENTITY = Identity(("weights", "cloud", "boot"))
ids = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=50)


def record(ids_of_text, **changes):
    fields = {
        "identity": IDENTITY,
        "key": bytes(range(16)),
        "max_tokens": 60,
        "token_ids": packed_ids(ids_of_text),
        "used_unix_s": 100.0,
        "expires_unix_s": 148.0,
    }
    return KeptText(**(fields | changes))


@given(token_ids=ids, key=st.binary(min_size=16, max_size=16), used=st.floats(0, 1e10))
def test_what_is_written_is_what_is_read(token_ids, key, used):
    kept = record(token_ids, key=key, used_unix_s=used, expires_unix_s=used + 48.0)
    assert decode(encode(kept)) == kept
    assert kept.ids.tolist() == token_ids


@given(token_ids=ids, data=st.data())
def test_a_file_that_was_changed_anywhere_is_damaged(token_ids, data):
    whole = bytearray(encode(record(token_ids)))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(DamagedFileError):
        decode(bytes(whole))
    with pytest.raises(DamagedFileError):
        decode(encode(record(token_ids))[:at])


@given(st.binary(max_size=200))
def test_any_other_bytes_are_damaged(data):
    with pytest.raises(DamagedFileError):
        decode(data)


@pytest.mark.parametrize(
    "changes",
    [
        {"key": bytes(15)},
        {"token_ids": b""},
        {"token_ids": b"\0\0\0"},
        {"token_ids": b"\xff\xff\xff\xff"},
        {"max_tokens": 2},
        {"used_unix_s": float("nan")},
        {"expires_unix_s": float("inf")},
    ],
)
def test_values_that_cannot_be_are_damaged_whatever_the_checksum_says(changes):
    with pytest.raises(DamagedFileError, match="values"):
        decode(encode(record([1, 2, 3], **changes)))


@given(age_s=st.floats(-100, 100))
def test_it_is_usable_until_it_expires_under_the_same_identity_alone(age_s):
    kept, now = record([1, 2, 3]), 100.0 + age_s
    assert kept.is_usable(IDENTITY, now) == (100.0 <= now < 148.0)
    assert not kept.is_usable(Identity(("weights", "cloud", "another boot")), now)
