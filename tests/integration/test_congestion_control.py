"""The congestion control of the link is the one that was asked for, at each end its own."""

import os
import socket
import sys

import pytest

from device_runtime.config import DeviceConfig
from device_runtime.main import start_lines
from device_runtime.server import serve_device
from process.errors import StartError
from process.sockets.congestion import (
    allowed_congestion_controls,
    check_congestion_control,
    choose_congestion_control,
    congestion_control,
    is_slow_after_pause,
    slow_start_after_idle,
)
from tests.support.stack import cloud_config, split_for_serving
from tests.support.tokenizers import MODEL_FOLDER
from tests.support.world import REAL, serve_cloud

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the names are Linux's")


def _used(port: int) -> dict[str, set[str]]:
    """Of this process's connections to a port on this machine, by end: device's and cloud's."""
    found: dict[str, set[str]] = {"device": set(), "cloud": set()}
    for handle in os.listdir("/proc/self/fd"):
        try:
            sock = socket.socket(fileno=os.dup(int(handle)))
        except OSError:  # no socket, or gone
            continue
        with sock:
            try:
                local, remote = sock.getsockname()[1], sock.getpeername()[1]
                name = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
            except (OSError, IndexError):  # listens, or is no TCP socket
                continue
            if port in (local, remote):
                found["cloud" if local == port else "device"].add(name.rstrip(b"\0").decode())
    return found


async def test_device_and_cloud_use_what_they_were_told_and_say_so(tmp_path, caplog):
    caplog.set_level("INFO")
    bundles = split_for_serving(MODEL_FOLDER, tmp_path / "out", 1)
    async with serve_cloud(cloud_config(bundles, {"congestion_control": "reno"})) as server:
        port = int(server.url.rpartition(":")[2])
        where = {"bundle": bundles, "port": 0, "cloud": f"ws://127.0.0.1:{port}", "threads": 1}
        config = DeviceConfig(**where, congestion_control="reno")
        async with serve_device(config, REAL) as device:
            await device.link.connected()
            assert _used(port) == {"device": {"reno"}, "cloud": {"reno"}}
            assert "connected; congestion control reno\n" in start_lines(config, device)
    assert f"devices connect to ws://127.0.0.1:{port}, congestion control reno" in caplog.text


async def test_without_the_setting_the_kernel_chooses(tmp_path):
    bundles = split_for_serving(MODEL_FOLDER, tmp_path / "out", 1)
    with socket.socket() as fresh:
        own = fresh.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0").decode()
    async with serve_cloud(cloud_config(bundles)) as server:
        port = int(server.url.rpartition(":")[2])
        url = f"ws://127.0.0.1:{port}"
        plain = DeviceConfig(bundle=bundles, port=0, cloud=url, threads=1)
        async with serve_device(plain, REAL) as device:
            await device.link.connected()
            assert _used(port) == {"device": {own}, "cloud": {own}}
            assert "congestion" not in start_lines(plain, device)


async def test_one_that_the_kernel_does_not_have_is_refused_at_the_start(tmp_path):
    bundles = split_for_serving(MODEL_FOLDER, tmp_path / "out", 1)
    expected = r"congestion_control nonsense: expected one that this kernel has loaded \(.*reno.*\)"
    with pytest.raises(StartError, match=expected):
        async with serve_cloud(cloud_config(bundles, {"congestion_control": "nonsense"})):
            pass
    config = DeviceConfig(bundle=bundles, port=0, congestion_control="nonsense")
    with pytest.raises(StartError, match=expected):
        async with serve_device(config, REAL):
            pass


def test_one_that_needs_rights_is_refused_with_those_that_do_not(monkeypatch):
    def refuse(sock: object, name: str) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("process.sockets.congestion.choose_congestion_control", refuse)
    with pytest.raises(StartError, match=r"expected one that this program may choose \(.*reno"):
        check_congestion_control("vegas")


def test_without_a_wish_nothing_is_asked_of_the_kernel(monkeypatch):
    monkeypatch.delattr(socket, "TCP_CONGESTION")
    check_congestion_control(None)
    with pytest.raises(StartError, match="this system lets no program choose one"):
        check_congestion_control("bbr")


def test_only_what_steers_its_rate_itself_is_warm_after_a_pause() -> None:
    assert is_slow_after_pause("cubic", is_slow_start=True) is True
    assert is_slow_after_pause("bbr", is_slow_start=True) is False
    assert is_slow_after_pause("cubic", is_slow_start=False) is False
    assert is_slow_after_pause("cubic", None) is None
    assert is_slow_after_pause(None, is_slow_start=True) is None


def test_a_connections_congestion_control_and_the_setting_are_told_on_linux() -> None:
    with socket.socket() as sock:
        choose_congestion_control(sock, "reno")
        assert congestion_control(sock) == "reno"
    assert congestion_control(object()) is None
    assert slow_start_after_idle() in (True, False)


def test_those_that_any_program_may_choose_can_be_chosen():
    names = allowed_congestion_controls()
    assert names
    for name in names:
        check_congestion_control(name)
