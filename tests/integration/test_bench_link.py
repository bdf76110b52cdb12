"""Links between network namespaces: what crosses them, and that nothing of them is left."""

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.link.measure import link_record, measure_link
from bench.link.opening import open_link, open_links, reason_against
from bench.link.shaped_link import LinkError, LinkKind, ShapedLink
from bench.link.spec import LinkSpec, parse_link_spec

_REASON = reason_against(LinkKind.TAP)
pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(_REASON is not None, reason=f"no TAP links here: {_REASON}"),
]

_SPEC = parse_link_spec("up=8mbit,down=16mbit,rtt=30ms")
_BURST = 1.25
"""A relay that the machine held up sends what has waited all at once; exact bounds are in the
property tests, where time is made up."""

_END_S = 30.0


@pytest.fixture(scope="module")
def link() -> Iterator[ShapedLink]:
    with open_link(_SPEC, kind=LinkKind.TAP) as opened:
        yield opened


def _python_at(prefix: tuple[str, ...], script: str, *arguments: str) -> str:
    argv = [*prefix, sys.executable, "-c", script, *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=_END_S).stdout


def _namespace(prefix: tuple[str, ...]) -> int:
    """The inode of a link's namespace."""
    return Path(prefix[-1].removeprefix("--net=")).stat().st_ino


def _processes_in(namespace: int) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "ns" / "net").stat().st_ino == namespace:
                found.append(int(process.name))
    return found


def _keepers() -> set[int]:
    """Those that this process has started."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            is_child = f"PPid:\t{os.getpid()}\n" in (process / "status").read_text()
            if is_child and b"bench.link.keeper" in (process / "cmdline").read_bytes():
                found.add(int(process.name))
    return found


def _wait_for_end(process: int) -> bool:
    """Whether a process that is not ours ends in time; `process` is a pidfd."""
    ready, _, _ = select.select([process], [], [], _END_S)
    os.close(process)
    return bool(ready)


def test_a_link_is_as_slow_as_asked_and_says_what_it_was(link: ShapedLink) -> None:
    measured = measure_link(link, 0.5)
    assert measured.rtt_s["min"] >= _SPEC.rtt_s
    assert measured.rtt_s["min"] <= measured.rtt_s["p50"] <= measured.rtt_s["p99"]
    assert 1e5 < measured.uplink_bytes_per_s < 1e6 * _BURST
    assert 2e5 < measured.downlink_bytes_per_s < 2e6 * _BURST
    assert measured.congestion_control == "cubic"
    record = link_record(link, measured)
    assert (record.kind, record.uplink_bytes_per_s, record.delay_s) == ("tap", 1e6, 0.015)
    assert record.measured_rtt_s == measured.rtt_s
    figures = link.figures()
    assert figures is not None
    assert figures.num_carried > measured.num_rtts


def test_the_ends_are_apart_and_each_has_its_own_loopback(link: ShapedLink) -> None:
    script = (
        "import os, socket; here = socket.create_server(('127.0.0.1', 0))\n"
        "socket.create_connection(here.getsockname()).close()\n"
        "print(os.readlink('/proc/self/ns/net'), [name for _, name in socket.if_nameindex()])"
    )
    places = {_python_at(prefix, script) for prefix in (link.cloud_prefix, link.device_prefix)}
    assert len(places) == 2
    assert all("'lo', 'link0'" in place for place in places)
    assert os.readlink("/proc/self/ns/net") not in str(places)


_ECHO = (
    "import socket, sys, time\n"
    "here = socket.create_server(('0.0.0.0', 9300)); print('up', flush=True)\n"
    "while True:\n"
    "    each, (host, _) = here.accept()\n"
    "    each.sendall(host.encode())\n"
)
_STAY = (
    "import socket, sys\n"
    "def come(): return socket.create_connection((sys.argv[1], 9300), timeout=5)\n"
    "old = come(); print(old.recv(20).decode(), flush=True)\n"
    "sys.stdin.readline()\n"
    "try:\n"
    "    old.settimeout(1.0); old.send(b'x'); old.recv(1); print('alive')\n"
    "except OSError as error: print(type(error).__name__)\n"
    "print(come().recv(20).decode(), flush=True)\n"
)


def test_a_device_that_moves_has_another_address_and_its_connections_die_silently() -> None:
    with open_link(_SPEC, kind=LinkKind.TAP) as opened:
        echo = subprocess.Popen(
            opened.cloud_command([sys.executable, "-c", _ECHO]), stdout=subprocess.PIPE
        )
        assert echo.stdout is not None
        assert echo.stdout.readline()
        device = subprocess.Popen(
            opened.device_command([sys.executable, "-c", _STAY, opened.cloud_host]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert device.stdout is not None
        assert device.stdout.readline() == "10.78.0.2\n"
        assert opened.move is not None
        opened.move()
        said, _ = device.communicate("\n", timeout=_END_S)
        assert said.splitlines() == ["TimeoutError", "10.79.0.1"]
    echo.communicate(timeout=_END_S)


def test_a_device_moves_by_itself_as_often_as_asked() -> None:
    script = (
        "import socket, sys, time\n"
        "for _ in range(100):\n"
        "    try:\n"
        "        here = socket.create_connection((sys.argv[1], 9300), timeout=1)\n"
        "        host = here.recv(20).decode()\n"
        "        print(host, flush=True)\n"
        "        if host == '10.79.0.2': break\n"
        "    except OSError: pass\n"
        "    time.sleep(0.1)\n"
    )
    with open_link(LinkSpec(delay_s=0.005, move_s=0.5), kind=LinkKind.TAP) as opened:
        echo = subprocess.Popen(
            opened.cloud_command([sys.executable, "-c", _ECHO]), stdout=subprocess.PIPE
        )
        assert echo.stdout is not None
        assert echo.stdout.readline()
        seen = _python_at(opened.device_prefix, script, opened.cloud_host).split()
    assert seen[-1] == "10.79.0.2"
    assert "10.79.0.1" in seen
    echo.communicate(timeout=_END_S)


def test_several_devices_have_a_link_each_to_one_cloud() -> None:
    with open_links(_SPEC, 2, kind=LinkKind.TAP) as links:
        assert links[0].cloud_prefix == links[1].cloud_prefix
        assert links[0].device_prefix != links[1].device_prefix
        assert links[0].cloud_host != links[1].cloud_host
        for each in links:
            assert measure_link(each, 0.05).rtt_s["min"] >= _SPEC.rtt_s


def test_a_closed_link_leaves_nothing_behind_and_ends_what_ran_in_it() -> None:
    before = _keepers()
    with open_link(_SPEC, kind=LinkKind.TAP) as opened:
        namespaces = [_namespace(opened.cloud_prefix), _namespace(opened.device_prefix)]
        server = subprocess.Popen(
            opened.cloud_command(["sh", "-c", "echo; exec sleep 1000"]), stdout=subprocess.PIPE
        )
        assert server.stdout is not None
        assert server.stdout.readline(), "it runs in there"
        assert server.pid in _processes_in(namespaces[0])
    server.communicate(timeout=_END_S)
    assert server.returncode == -signal.SIGKILL
    assert not any(_processes_in(namespace) for namespace in namespaces)
    assert _keepers() == before


def test_a_killed_owner_leaves_nothing_behind() -> None:
    script = (
        "import subprocess, sys\n"
        "from bench.link.opening import open_link\n"
        "from bench.link.spec import LinkSpec\n"
        "with open_link(LinkSpec(delay_s=0.001), kind='tap') as link:\n"
        "    subprocess.Popen(link.device_command(['sh', '-c', 'echo $$; exec sleep 1000']))\n"
        "    sys.stdin.read()\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    inside = int(owner.stdout.readline())
    left = {inside, *_processes_in(Path(f"/proc/{inside}/ns/net").stat().st_ino)}
    assert len(left) == 2, "a sleep and the keeper"
    handles = [os.pidfd_open(process) for process in left]
    owner.kill()
    owner.communicate()
    assert [_wait_for_end(handle) for handle in handles] == [True, True]


def test_a_link_whose_relay_died_is_an_error() -> None:
    with pytest.raises(LinkError, match="the link's relay ended before the link was closed"):
        _open_link_and_kill_its_relay()


def _open_link_and_kill_its_relay() -> None:
    before = _keepers()
    with open_link(_SPEC, kind=LinkKind.TAP) as opened:
        (keeper,) = _keepers() - before
        handle = os.pidfd_open(keeper)
        os.kill(keeper, signal.SIGKILL)
        assert _wait_for_end(handle)
        with pytest.raises(LinkError, match="the link's relay has ended"):
            opened.figures()


def test_a_relay_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with (
        pytest.raises(LinkError, match="the link's relay did not start"),
        open_link(_SPEC, kind=LinkKind.TAP),
    ):
        pass


def test_more_links_than_addresses_are_refused() -> None:
    with (
        pytest.raises(LinkError, match="expected 1 to 250 links, got 251"),
        open_links(_SPEC, 251, kind=LinkKind.TAP),
    ):
        pass
