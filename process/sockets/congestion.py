"""TCP's congestion control: what the system has, and one that a program chooses."""

import socket
from pathlib import Path
from typing import Any

from process.errors import StartError, system_reason

_NAME_BYTES = 16
_SETTINGS = Path("/proc/sys/net/ipv4")


def check_congestion_control(name: str | None) -> None:
    """Return if this program may give its connections this congestion control; None: no wish.

    Raises:
        StartError: the system has none of this name, or keeps it from programs without rights.
    """
    if name is None:
        return
    if not hasattr(socket, "TCP_CONGESTION"):
        raise StartError(f"congestion_control {name}: this system lets no program choose one")
    with socket.socket() as sock:
        try:
            choose_congestion_control(sock, name)
        except FileNotFoundError as error:
            known = _congestion_controls("available")
            raise StartError(
                f"congestion_control {name}: expected one that this kernel has loaded{known}"
            ) from error
        except PermissionError as error:
            known = _congestion_controls("allowed")
            raise StartError(
                f"congestion_control {name}: expected one that this program may choose{known}; root"
                " adds to them with sysctl net.ipv4.tcp_allowed_congestion_control"
            ) from error
        except OSError as error:
            raise StartError(f"congestion_control {name}: {system_reason(error)}") from error


def choose_congestion_control(sock: Any, name: str) -> None:
    """Give a connection this congestion control.

    To be called once it is connected: a route may have one of its own, which a connection takes
    as it begins, whatever was chosen before.

    Raises:
        OSError: see `check_congestion_control`.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())


def allowed_congestion_controls() -> tuple[str, ...]:
    """Those that any program may choose; none where the system does not tell."""
    return tuple(_names("allowed"))


def congestion_control(sock: Any) -> str | None:
    """That of a connection; None where the system does not tell."""
    try:
        name = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _NAME_BYTES)
    except (OSError, AttributeError):
        return None
    return str(name.rstrip(b"\0").decode())


def slow_start_after_idle() -> bool | None:
    """Whether TCP begins slowly again after a pause, which Linux lets root switch off for a network
    namespace; None where the system does not tell."""
    try:
        return (_SETTINGS / "tcp_slow_start_after_idle").read_text().strip() != "0"
    except OSError:
        return None


def is_slow_after_pause(name: str | None, is_slow_start: bool | None) -> bool | None:
    """Whether a connection with this congestion control begins slowly again after a pause; None
    where the system does not tell.

    Source: Linux's `tcp_slow_start_after_idle_check`, which leaves alone what steers the rate
    itself: of its algorithms bbr alone.
    """
    if name is None or is_slow_start is None:
        return None
    return is_slow_start and name != "bbr"


def _congestion_controls(which: str) -> str:
    names = _names(which)
    return f" ({', '.join(names)})" if names else ""


def _names(which: str) -> list[str]:
    try:
        return (_SETTINGS / f"tcp_{which}_congestion_control").read_text().split()
    except OSError:
        return []
