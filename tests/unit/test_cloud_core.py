"""The cloud's core: who is let in, and what a broken frame costs."""

from dataclasses import replace
from typing import Any

import pytest

from cloud_server.core.actions import (
    CloseConnection,
    Send,
)
from tests.support.cloud_core import (
    CONFIG,
    HELLO,
    Cloud,
    figures,
    one_fault,
    opening,
    shallow_rows,
    states,
)
from wire.connection import Phase
from wire.errors import FaultCode
from wire.messages import Opened, SessionId, Welcome

A = shallow_rows(*range(100, 112))


def test_a_device_is_welcomed_and_its_session_opened() -> None:
    cloud = Cloud()
    connection = cloud.connect()
    assert isinstance(cloud.received(connection)[0], Welcome)
    assert cloud.send(connection, opening(1, key=1)) == [Opened(SessionId(1), 0)]
    assert figures(cloud) == (1, 16)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"max_version": 2, "min_version": 2}, FaultCode.UNSUPPORTED_VERSION),
        ({"credential": b"guess"}, FaultCode.BAD_CREDENTIAL),
        ({"fingerprint": b"g" * 32}, FaultCode.FINGERPRINT_MISMATCH),
        ({"first_layer": 3}, FaultCode.SHAPE_MISMATCH),
    ],
)
def test_a_device_that_does_not_fit_is_told_why_and_closed(  # W10 to W13
    change: dict[str, Any], code: FaultCode
) -> None:
    cloud = Cloud(replace(CONFIG, credential=b"secret"))
    hello = replace(HELLO, **({"credential": b"secret"} | change))
    connection = cloud.connect(hello)
    fault = one_fault(cloud.received(connection))
    assert (fault.code, fault.session, fault.retry_after_s) == (code, 0, 0.0)
    assert cloud.devices[connection].phase is Phase.CLOSED
    assert cloud.core.figures().num_connections == 0


@pytest.mark.parametrize("frame", [b"", b"\xff", b"\x05" * 3, b"\x01" + bytes(4000)], ids=len)
def test_a_malformed_frame_ends_its_connection_and_no_other(frame: bytes) -> None:  # W4, W6
    cloud = Cloud()
    other = cloud.connect()
    cloud.send(other, opening(1, key=1))
    for hello in (None, HELLO):
        connection = cloud.connect(hello)
        assert one_fault(cloud.send_frame(connection, frame)).code is FaultCode.BAD_FRAME
        assert cloud.send_frame(connection, frame) == []
    assert cloud.core.figures().num_connections == 1
    cloud.send(other, states(1, 0, A[:2]))
    cloud.run_all()
    assert len(cloud.replies(other)) == 1


def test_a_text_frame_ends_its_connection() -> None:  # W1
    cloud = Cloud()
    connection = cloud.connect()
    actions = cloud.core.receive_frame(connection, "hello", cloud.now)
    fault = one_fault([action.message for action in actions if isinstance(action, Send)])
    assert fault.code is FaultCode.BAD_FRAME
    assert actions[-1] == CloseConnection(connection)


def test_a_socket_that_stays_silent_is_closed() -> None:  # W14
    cloud = Cloud()
    silent, greeted = cloud.connect(None), cloud.connect()
    cloud.pass_time(CONFIG.handshake_timeout_s + 1)
    assert cloud.faults(silent) == [FaultCode.DEADLINE_EXCEEDED]
    assert cloud.faults(greeted) == []


def test_connections_are_counted_once_they_are_greeted() -> None:
    cloud = Cloud()
    silent = [cloud.connect(None) for _ in range(2 * CONFIG.max_connections)]
    connections = [cloud.connect() for _ in range(CONFIG.max_connections)]
    assert [cloud.received(connection) for connection in silent] == [[]] * len(silent)
    late = cloud.connect()
    fault = one_fault(cloud.received(late))
    assert fault.code is FaultCode.TOO_MANY_SESSIONS
    assert fault.retry_after_s > 0
    cloud.disconnect(connections[0])
    assert cloud.faults(cloud.connect()) == []
