"""The link for those who are not root, and choosing among kinds."""

import contextlib
import os
import socket
import threading

import pytest

from bench.link.measure import measure_link
from bench.link.opening import best_kind, open_link, open_links
from bench.link.shaped_link import LinkError, LinkKind
from bench.link.spec import LinkSpec, LinkSpecError, parse_link_spec

pytestmark = pytest.mark.alone

_SPEC = parse_link_spec("up=8mbit,down=16mbit,rtt=30ms")
_BURST = 1.25
"""A relay that the machine held up sends what has waited all at once; exact bounds are in the
property tests, where time is made up."""

_TIMEOUT_S = 30.0


def _echo_until_the_end(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        whole = b""
        while data := connection.recv(65_536):
            whole += data
        connection.sendall(whole)


def test_a_relayed_link_is_as_slow_as_asked() -> None:
    with open_link(_SPEC, kind=LinkKind.TCP) as link:
        measured = measure_link(link, 0.5)
        assert link.kind == "tcp"
        assert link.figures() is None
    assert measured.rtt_s["min"] >= _SPEC.rtt_s
    assert 1e5 < measured.uplink_bytes_per_s < 1e6 * _BURST
    assert 2e5 < measured.downlink_bytes_per_s < 2e6 * _BURST


def test_bytes_and_the_end_of_a_stream_cross_a_relayed_link_unchanged() -> None:
    sent = os.urandom(200_000)
    with (
        open_links(LinkSpec(delay_s=0.002, jitter_s=0.003), 2, kind=LinkKind.TCP) as links,
        socket.create_server(("127.0.0.1", 0)) as server,
    ):
        port = server.getsockname()[1]
        ports = [link.forward(port) for link in links]
        assert len({port, *ports}) == 3
        assert links[0].forward(port) == ports[0]
        echo = threading.Thread(target=_echo_until_the_end, args=(server,))
        echo.start()
        with socket.create_connection((links[1].cloud_host, ports[1]), _TIMEOUT_S) as device:
            device.sendall(sent)
            device.shutdown(socket.SHUT_WR)
            came = b"".join(iter(lambda: device.recv(65_536), b""))
        echo.join(_TIMEOUT_S)
    assert came == sent


def test_a_device_whose_cloud_is_not_there_is_let_go() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with open_link(LinkSpec(delay_s=0.001), kind=LinkKind.TCP) as link:
        target = (link.cloud_host, link.forward(port))
        with (
            socket.create_connection(target, _TIMEOUT_S) as device,
            contextlib.suppress(ConnectionError),  # a reset says the same
        ):
            assert device.recv(1) == b""


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        (LinkSpec(loss=0.01), "lose packets; expected loss=0%"),
        (LinkSpec(reorder=0.01), "reorder packets; expected reorder=0%"),
        (LinkSpec(move_s=5.0), "change addresses; expected no move"),
    ],
)
def test_a_relayed_link_has_no_troubles_of_packets(spec: LinkSpec, what: str) -> None:
    with (
        pytest.raises(LinkError, match=f"a link of kind tcp cannot {what}"),
        open_link(spec, kind=LinkKind.TCP),
    ):
        pass


def test_without_roots_rights_a_shaped_link_is_relayed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert best_kind(_SPEC) is LinkKind.TCP
    with (
        pytest.raises(LinkError, match="a link of kind tap does not work here: not root"),
        open_link(_SPEC, kind=LinkKind.TAP),
    ):
        pass


def test_the_kernels_own_emulator_is_preferred_but_for_traces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reasons: dict[LinkKind, str] = {}
    monkeypatch.setattr("bench.link.opening.reason_against", reasons.get)
    assert best_kind(_SPEC) is LinkKind.NETEM
    assert best_kind(LinkSpec(trace="oboe-0")) is LinkKind.TAP
    assert best_kind(LinkSpec(reorder=0.01)) is LinkKind.TAP
    with (
        pytest.raises(LinkError, match="netem cannot follow a trace"),
        open_link(LinkSpec(trace="oboe-0"), kind=LinkKind.NETEM),
    ):
        pass
    reasons[LinkKind.NETEM] = "kind is unknown"
    assert best_kind(_SPEC) is LinkKind.TAP
    reasons[LinkKind.TAP] = "no such device"
    assert best_kind(_SPEC) is LinkKind.TCP


def test_a_link_without_shaping_changes_nothing() -> None:
    assert best_kind(LinkSpec()) is LinkKind.LOOPBACK
    with open_links(LinkSpec(), 2) as links:
        for link in links:
            assert link.kind == "loopback"
            assert link.device_command(["true"]) == link.cloud_command(["true"]) == ["true"]
            assert link.forward(7700) == 7700
    with (
        pytest.raises(LinkError, match="a link of kind loopback cannot be shaped"),
        open_link(_SPEC, kind=LinkKind.LOOPBACK),
    ):
        pass


def test_a_trace_that_is_not_there_is_an_error_at_once() -> None:
    with (
        pytest.raises(LinkSpecError, match="expected a file or one of"),
        open_link(LinkSpec(trace="nowhere")),
    ):
        pass
