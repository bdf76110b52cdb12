"""The two small programs that measure a link, one at each end.

`python -m bench.link.ends cloud HOST` prints its port and serves one connection after the other;
`python -m bench.link.ends device HOST PORT SECONDS` measures and prints what it found as JSON.
A connection's first byte says what is wanted: E, send back what comes; U, take all until its end
and answer with the rate; D, send for the seconds that follow.
"""

import json
import select
import socket
import struct
import sys
import time

_ECHO_BYTES = 16
_ECHO_EVERY_S = 0.01
_READ_BYTES = 65_536
_SEND_BYTES = 16_384
_UNSENT_BYTES = 32_768
_SETTLED_SHARE = 0.4
"""The first part of a transfer is slow start and says little about the link."""

_TIMEOUT_S = 30.0


def serve(host: str) -> None:
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
    wanted = _exactly(connection, 9)
    (duration_s,) = struct.unpack("<d", wanted[1:])
    match wanted[:1]:
        case b"E":
            while data := connection.recv(_READ_BYTES):
                connection.sendall(data)
        case b"U":
            connection.sendall(struct.pack("<d", _received_bytes_per_s(connection, duration_s)))
        case b"D":
            _send_for(connection, duration_s)


def measure(host: str, port: int, duration_s: float) -> dict[str, object]:
    """Round-trip times and both rates, each measured for `duration_s`."""
    with _connect(host, port, b"E", duration_s) as connection:
        congestion = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
        rtts_s = _round_trips_s(connection, duration_s)
    with _connect(host, port, b"U", duration_s) as connection:
        _send_for(connection, duration_s)
        (uplink,) = struct.unpack("<d", _exactly(connection, 8))
    with _connect(host, port, b"D", duration_s) as connection:
        downlink = _received_bytes_per_s(connection, duration_s)
    return {
        "rtts_s": rtts_s,
        "uplink_bytes_per_s": uplink,
        "downlink_bytes_per_s": downlink,
        "congestion_control": congestion.rstrip(b"\0").decode(),
    }


def _round_trips_s(connection: socket.socket, duration_s: float) -> list[float]:
    """Send a small message at an even pace, whatever has come back, and time each."""
    connection.sendall(bytes(_ECHO_BYTES))
    _exactly(connection, _ECHO_BYTES)  # the first one may still wait for the connection itself
    begin_s = time.perf_counter()
    rtts_s: list[float] = []
    came = b""
    num_sent = 0
    num_wanted = max(1, round(duration_s / _ECHO_EVERY_S))
    while len(rtts_s) < num_wanted:
        wait_s = _TIMEOUT_S
        if num_sent < num_wanted:
            wait_s = max(0.0, begin_s + num_sent * _ECHO_EVERY_S - time.perf_counter())
        if select.select([connection], [], [], wait_s)[0]:
            data = connection.recv(_READ_BYTES)
            now_s = time.perf_counter()
            if not data:
                raise ConnectionError("the cloud's end closed the connection")
            came += data
            while len(came) >= _ECHO_BYTES:
                rtts_s.append(now_s - struct.unpack("<dd", came[:_ECHO_BYTES])[0])
                came = came[_ECHO_BYTES:]
        elif num_sent == num_wanted:
            raise TimeoutError(f"no echo within {_TIMEOUT_S:g} s")
        if num_sent < num_wanted and time.perf_counter() >= begin_s + num_sent * _ECHO_EVERY_S:
            connection.sendall(struct.pack("<dd", time.perf_counter(), 0.0))
            num_sent += 1
    return rtts_s


def _send_for(connection: socket.socket, duration_s: float) -> None:
    """Send as much as goes, then say that no more comes."""
    end_s = time.perf_counter() + duration_s
    zeros = bytes(_SEND_BYTES)
    connection.settimeout(duration_s)
    try:
        while time.perf_counter() < end_s:
            connection.send(zeros)
    except TimeoutError:  # the link took nothing for so long
        pass
    connection.settimeout(_TIMEOUT_S)
    connection.shutdown(socket.SHUT_WR)


def _received_bytes_per_s(connection: socket.socket, duration_s: float) -> float:
    """The rate at which bytes came, slow start left out where the rest is long enough."""
    moments: list[tuple[float, int]] = []
    num_bytes = 0
    while data := connection.recv(_READ_BYTES):
        num_bytes += len(data)
        moments.append((time.perf_counter(), num_bytes))
    settled_s = moments[0][0] + duration_s * _SETTLED_SHARE if moments else 0.0
    start = next((moment for moment in moments if moment[0] >= settled_s), None)
    if start is None or moments[-1][0] <= start[0]:
        start = moments[0] if moments else (0.0, 0)
    if not moments or moments[-1][0] <= start[0]:
        return 0.0
    return (moments[-1][1] - start[1]) / (moments[-1][0] - start[0])


def _connect(host: str, port: int, wanted: bytes, duration_s: float) -> socket.socket:
    connection = socket.create_connection((host, port), timeout=_TIMEOUT_S)
    _prepare(connection)
    connection.sendall(wanted + struct.pack("<d", duration_s))
    return connection


def _prepare(connection: socket.socket) -> None:
    connection.settimeout(_TIMEOUT_S)
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
        serve(sys.argv[2])
    else:
        print(json.dumps(measure(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))))
