"""Measures an open link between its own two ends, and writes down what it was and is.

The ends are programs: `python -m bench.link.measure cloud HOST` prints its port and serves one
connection after the other; `... device HOST PORT SECONDS` measures and prints what it found as
JSON. A connection's first byte says what is wanted: E, send back what comes; U, take all until its
end and answer with the rate; D, send for the seconds that follow.
"""

import socket
import struct
import subprocess
import sys
import threading
import time

import msgspec

from bench.link.shaped_link import LinkError, ShapedLink
from bench.measures import percentile
from bench.records import LinkRecord

_PHASE_S = 0.8
_TIMEOUT_S = 60.0
_SOCKET_S = 30.0
_ECHO = struct.Struct("<dd")
_ECHO_EVERY_S = 0.01
_BLOCK_BYTES = 16_384
_UNSENT_BYTES = 32_768
_SETTLED_SHARE = 0.4
"""The first part of a transfer is slow start and says little about the link."""


class MeasuredLink(msgspec.Struct, frozen=True):
    """What a link did. Rates are what one TCP connection got through, without any headers."""

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
    ends = [sys.executable, "-m", "bench.link.measure"]
    cloud = subprocess.Popen(
        link.cloud_command([*ends, "cloud", link.bind_host]), stdout=subprocess.PIPE, text=True
    )
    try:
        assert cloud.stdout is not None
        port = cloud.stdout.readline().strip()
        if not port:
            raise LinkError(f"measuring: the cloud's end did not start ({cloud.wait()})")
        target = [link.cloud_host, str(link.forward(int(port))), str(phase_s)]
        argv = link.device_command([*ends, "device", *target])
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


def link_record(link: ShapedLink, measured: MeasuredLink | None = None) -> LinkRecord:
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
        measured_rtt_s=None if measured is None else measured.rtt_s,
        measured_uplink_bytes_per_s=None if measured is None else measured.uplink_bytes_per_s,
        measured_downlink_bytes_per_s=None if measured is None else measured.downlink_bytes_per_s,
    )


def _serve(host: str) -> None:
    """Print a port, then serve until killed."""
    with socket.create_server((host, 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            connection, _ = listener.accept()
            with connection:
                try:
                    _answer(connection)
                except OSError as error:  # the other end gave up; the next may do better
                    print(error, file=sys.stderr)


def _answer(connection: socket.socket) -> None:
    _prepare(connection)
    wanted, duration_s = struct.unpack("<cd", _exactly(connection, 9))
    match wanted:
        case b"E":
            while data := connection.recv(_BLOCK_BYTES):
                connection.sendall(data)
        case b"U":
            connection.sendall(struct.pack("<d", _received_bytes_per_s(connection, duration_s)))
        case b"D":
            _send_for(connection, duration_s)


def _measure(host: str, port: int, duration_s: float) -> MeasuredLink:
    """Round-trip times and both rates, each measured for `duration_s`."""
    with _connect(host, port, b"E", duration_s) as connection:
        congestion = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
        rtts_s = _round_trips_s(connection, duration_s)
    with _connect(host, port, b"U", duration_s) as connection:
        _send_for(connection, duration_s)
        (uplink,) = struct.unpack("<d", _exactly(connection, 8))
    with _connect(host, port, b"D", duration_s) as connection:
        downlink = _received_bytes_per_s(connection, duration_s)
    middle = {f"p{share}": percentile(rtts_s, share) for share in (50, 90, 99)}
    rtt_s = {"min": min(rtts_s), **middle, "max": max(rtts_s)}
    return MeasuredLink(rtt_s, len(rtts_s), uplink, downlink, congestion.rstrip(b"\0").decode())


def _round_trips_s(connection: socket.socket, duration_s: float) -> list[float]:
    """Send a small message at an even pace, whatever has come back, and time each."""
    connection.sendall(bytes(_ECHO.size))
    _exactly(connection, _ECHO.size)  # the first one may still wait for the connection itself
    num_echoes = max(1, round(duration_s / _ECHO_EVERY_S))
    begin_s = time.perf_counter()

    def send() -> None:
        for number in range(num_echoes):
            time.sleep(max(0.0, begin_s + number * _ECHO_EVERY_S - time.perf_counter()))
            connection.sendall(_ECHO.pack(time.perf_counter(), 0.0))

    threading.Thread(target=send, daemon=True).start()
    rtts_s = []
    for _ in range(num_echoes):
        sent_s, _ = _ECHO.unpack(_exactly(connection, _ECHO.size))
        rtts_s.append(time.perf_counter() - sent_s)
    return rtts_s


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
    settled_s = moments[0][0] + duration_s * _SETTLED_SHARE
    start = next((moment for moment in moments[:-1] if moment[0] >= settled_s), moments[0])
    lasted_s = moments[-1][0] - start[0]
    return (num_bytes - start[1]) / lasted_s if lasted_s > 0 else 0.0


def _connect(host: str, port: int, wanted: bytes, duration_s: float) -> socket.socket:
    connection = socket.create_connection((host, port), timeout=_SOCKET_S)
    _prepare(connection)
    connection.sendall(struct.pack("<cd", wanted, duration_s))
    return connection


def _prepare(connection: socket.socket) -> None:
    connection.settimeout(_SOCKET_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Or megabytes would wait here when time is up, and a slow link take seconds for them.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)


def _exactly(connection: socket.socket, num_bytes: int) -> bytes:
    data = b""
    while len(data) < num_bytes:
        piece = connection.recv(num_bytes - len(data))
        if not piece:
            raise ConnectionError("the other end closed the connection")
        data += piece
    return data


if __name__ == "__main__":
    if sys.argv[1] == "cloud":
        _serve(sys.argv[2])
    else:
        found = _measure(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
        print(msgspec.json.encode(found).decode())
