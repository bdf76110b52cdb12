"""The cloud's core: rows of further depths for sessions that ask for them, and for no others."""

from dataclasses import replace
from typing import Any

import pytest

from cloud_server.core.actions import ConnectionId
from tests.support.cloud_core import (
    CONFIG,
    HELLO,
    Cloud,
    deep_rows,
    one_fault,
    opening,
    rows_of,
    shallow_rows,
    states,
    tap_row,
)
from wire.errors import FaultCode
from wire.messages import Codec, Want

A = shallow_rows(*range(100, 112))
B = shallow_rows(*range(200, 212))

TAPPED = replace(CONFIG, takes_taps=True)
TAPPED_HELLO = replace(HELLO, codecs=0b101)


def open_tapped(taps: int, **changes: Any) -> tuple[Cloud, ConnectionId]:
    """A cloud that gives taps, and a session of it that asks for some."""
    cloud = Cloud(TAPPED)
    connection = cloud.connect(TAPPED_HELLO)
    cloud.send(connection, replace(opening(1, key=1), taps=taps, **changes))
    return cloud, connection


def test_a_session_with_taps_gets_them_piece_by_piece_in_one_reply() -> None:  # W38
    cloud, connection = open_tapped(taps=0b101_0000)
    cloud.send(connection, states(1, 0, A, Want.ALL))
    assert cloud.run_all() == 2
    (reply,) = cloud.replies(connection)
    assert (reply.codec, reply.num_rows) == (Codec.TAPPED, 12)
    rows = rows_of(reply.payload)
    assert rows[0::3] == deep_rows(A, 12)
    assert rows[1::3] == [tap_row(A[: i + 1], 2) for i in range(12)]
    assert rows[2::3] == [tap_row(A[: i + 1], 4) for i in range(12)]


def test_sessions_with_and_without_taps_share_steps_and_keep_theirs() -> None:  # W38
    cloud, connection = open_tapped(taps=0b1_0000)
    cloud.send(connection, opening(2, key=2))
    cloud.send(connection, states(1, 0, A[:2], Want.LAST))
    cloud.send(connection, states(2, 0, B[:2], Want.LAST))
    assert cloud.run_all() == 1
    tapped, plain = sorted(cloud.replies(connection), key=lambda reply: reply.session)
    assert rows_of(tapped.payload) == [deep_rows(A[:2], 1)[0], tap_row(A[:2], 2)]
    assert (plain.codec, rows_of(plain.payload)) == (Codec.RAW, deep_rows(B[:2], 1))


@pytest.mark.parametrize("depth", [0, 1, 2, 8, 9, 127])
def test_taps_at_depths_that_no_middle_layer_has_between_two_end_the_session(
    depth: int,
) -> None:  # W38
    cloud = Cloud(TAPPED)
    connection = cloud.connect(TAPPED_HELLO)
    message = replace(opening(1, key=1), taps=1 << depth)
    fault = one_fault(cloud.send(connection, message))
    assert (fault.code, fault.session, fault.retry_after_s) == (FaultCode.SHAPE_MISMATCH, 1, 0.0)
    assert f"depths from 3 to 7, got {depth}" in fault.message


def test_taps_are_those_of_the_last_open_of_a_session() -> None:  # W27, W38
    cloud, connection = open_tapped(taps=0b1_0000)
    cloud.send(connection, states(1, 0, A[:2], Want.LAST))
    cloud.run_all()
    cloud.replies(connection)
    cloud.send(connection, opening(2, key=1))
    cloud.send(connection, states(2, 2, A[2:4], Want.LAST))
    cloud.run_all()
    (reply,) = cloud.replies(connection)
    assert (reply.codec, rows_of(reply.payload)) == (Codec.RAW, deep_rows(A[:4], 1))
