"""Measures an open link between its own two ends, and writes down what it was and is.

Each end is a program: `python -m bench.link.measure SECONDS HOST` at the cloud's prints its port,
`... SECONDS HOST PORT` at the device's connects to it and prints what it found as JSON. Over that
one connection go small echoes, then as much as goes up, then as much as goes down.
"""

import socket
import struct
import subprocess
import sys
import threading
import time
from statistics import median

import msgspec

from bench.link.shaped_link import LinkError, ShapedLink
from bench.measures import percentile
from bench.records import LinkRecord

_PHASE_S = 0.8
_TIMEOUT_S = 60.0
_SOCKET_S = 30.0
_NUMBER = struct.Struct("<d")
_ECHO_EVERY_S = 0.01
_BLOCK_BYTES = 16_384
_UNSENT_BYTES = 32_768
_SETTLED_SHARES = 0.4, 0.7
"""The first part of a transfer is slow start and says little about the link. From which moment on
it is looked at matters where a segment was lost: what came behind that counts when it is whole."""


class MeasuredLink(msgspec.Struct, frozen=True):
    """What a link did. Rates are what a TCP connection got through, without any headers."""

    rtt_s: dict[str, float]
    """min, p50, p90, p99 and max."""
    num_rtts: int
    uplink_bytes_per_s: float
    downlink_bytes_per_s: float
    congestion_control: str
    """The kernel's name for it."""


def measure_link(link: ShapedLink, phase_s: float = _PHASE_S) -> MeasuredLink:
    """Three phases of `phase_s`, one after the other: small echoes, all up, all down.

    Raises:
        LinkError: nothing came through, or not in a minute.
    """
    program = [sys.executable, "-m", "bench.link.measure", str(phase_s)]
    cloud = subprocess.Popen(
        link.cloud_command([*program, link.bind_host]), stdout=subprocess.PIPE, text=True
    )
    try:
        assert cloud.stdout is not None
        port = cloud.stdout.readline().strip()
        if not port:
            raise LinkError(f"measuring: the cloud's end did not start ({cloud.wait()})")
        argv = link.device_command([*program, link.cloud_host, str(link.forward(int(port)))])
        result = subprocess.run(argv, capture_output=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise LinkError(f"measuring: nothing within {_TIMEOUT_S:g} s") from error
    finally:
        cloud.kill()
        cloud.communicate()
    if result.returncode != 0:
        last = result.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise LinkError(f"measuring: {''.join(last)}")
    return msgspec.json.decode(result.stdout, type=MeasuredLink)


def link_record(link: ShapedLink, measured: MeasuredLink) -> LinkRecord:
    """The link as results keep it."""
    spec = link.spec
    return LinkRecord(
        kind=link.kind.value,
        uplink_bytes_per_s=spec.uplink_bytes_per_s,
        downlink_bytes_per_s=spec.downlink_bytes_per_s,
        delay_s=spec.delay_s,
        jitter_s=spec.jitter_s,
        loss=spec.loss,
        trace=spec.trace,
        burst_s=spec.burst_s,
        reorder=spec.reorder,
        late_s=spec.late_s if spec.reorder else 0.0,
        move_s=spec.move_s,
        measured_rtt_s=measured.rtt_s,
        measured_uplink_bytes_per_s=measured.uplink_bytes_per_s,
        measured_downlink_bytes_per_s=measured.downlink_bytes_per_s,
    )


def _be_cloud(phase_s: float, host: str) -> None:
    """Print a port, and serve one connection."""
    with socket.create_server((host, 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        connection, _ = listener.accept()
    with _prepared(connection):
        for _ in range(_num_echoes(phase_s)):
            connection.sendall(_exactly(connection, _NUMBER.size))
        connection.sendall(_NUMBER.pack(_received_bytes_per_s(connection, phase_s)))
        _send_for(connection, phase_s)


def _be_device(phase_s: float, host: str, port: int) -> MeasuredLink:
    """Round-trip times and both rates, each measured for `phase_s`."""
    with _prepared(socket.create_connection((host, port), timeout=_SOCKET_S)) as connection:
        congestion = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
        rtts_s = _round_trips_s(connection, _num_echoes(phase_s))
        _send_for(connection, phase_s)
        (uplink,) = _NUMBER.unpack(_exactly(connection, _NUMBER.size))
        downlink = _received_bytes_per_s(connection, phase_s)
    middle = {f"p{share}": percentile(rtts_s, share) for share in (50, 90, 99)}
    rtt_s = {"min": min(rtts_s), **middle, "max": max(rtts_s)}
    return MeasuredLink(rtt_s, len(rtts_s), uplink, downlink, congestion.rstrip(b"\0").decode())


def _num_echoes(phase_s: float) -> int:
    """The first one, and those that are timed."""
    return 1 + max(1, round(phase_s / _ECHO_EVERY_S))


def _round_trips_s(connection: socket.socket, num_echoes: int) -> list[float]:
    """Send small messages at an even pace, whatever has come back, and time each but the first,
    which may still wait for the connection itself."""
    begin_s = time.perf_counter()

    def send() -> None:
        for number in range(num_echoes):
            time.sleep(max(0.0, begin_s + number * _ECHO_EVERY_S - time.perf_counter()))
            connection.sendall(_NUMBER.pack(time.perf_counter()))

    threading.Thread(target=send, daemon=True).start()
    rtts_s = []
    for _ in range(num_echoes):
        (sent_s,) = _NUMBER.unpack(_exactly(connection, _NUMBER.size))
        rtts_s.append(time.perf_counter() - sent_s)
    return rtts_s[1:]


def _send_for(connection: socket.socket, duration_s: float) -> None:
    """Send as much as goes, then say that no more comes."""
    end_s = time.perf_counter() + duration_s
    zeros = bytes(_BLOCK_BYTES)
    connection.settimeout(duration_s)
    try:
        while time.perf_counter() < end_s:
            connection.send(zeros)
    except TimeoutError:  # the link took nothing for so long
        pass
    connection.settimeout(_SOCKET_S)
    connection.shutdown(socket.SHUT_WR)


def _received_bytes_per_s(connection: socket.socket, duration_s: float) -> float:
    """The rate at which bytes came, slow start left out where the rest is long enough."""
    moments: list[tuple[float, int]] = []
    num_bytes = 0
    while data := connection.recv(_BLOCK_BYTES * 4):
        num_bytes += len(data)
        moments.append((time.perf_counter(), num_bytes))
    if not moments:
        return 0.0
    first_s, last_s = (moments[0][0] + duration_s * share for share in _SETTLED_SHARES)
    end_s = moments[-1][0]
    starts = [each for each in moments[:-1] if first_s <= each[0] <= last_s and each[0] < end_s]
    rates = [(num_bytes - before) / (end_s - start_s) for start_s, before in starts]
    if rates:
        return median(rates)
    lasted_s = end_s - moments[0][0]
    return (num_bytes - moments[0][1]) / lasted_s if lasted_s > 0 else 0.0


def _prepared(connection: socket.socket) -> socket.socket:
    connection.settimeout(_SOCKET_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Or megabytes would wait here when time is up, and a slow link take seconds for them.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
    return connection


def _exactly(connection: socket.socket, num_bytes: int) -> bytes:
    data = b""
    while len(data) < num_bytes:
        piece = connection.recv(num_bytes - len(data))
        if not piece:
            raise ConnectionError("the other end closed the connection")
        data += piece
    return data


if __name__ == "__main__":
    seconds, host, *port = sys.argv[1:]
    if port:
        found = _be_device(float(seconds), host, int(port[0]))
        print(msgspec.json.encode(found).decode())
    else:
        _be_cloud(float(seconds), host)
