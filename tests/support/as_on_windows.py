"""A process that lacks what Python lacks on Windows; the system itself stays what it is.

Standard library and packages are imported before, since they choose their own ways by platform.
"""

import asyncio
import importlib
import os
import select
import signal
import socket
import subprocess
import sys
from types import ModuleType

_MISSING_MODULES = (
    "fcntl",
    "grp",
    "pty",
    "pwd",
    "readline",
    "resource",
    "syslog",
    "termios",
    "tty",
)
_MISSING_NAMES = {
    os: (
        *("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_DIRECTORY", "fork", "geteuid", "getuid"),
        *("getgid", "getloadavg", "getpgid", "killpg", "mkfifo", "sched_getaffinity", "setsid"),
        *("statvfs", "sysconf", "uname", "fchmod", "fchown", "pread", "pwrite", "sendfile"),
    ),
    select: ("poll", "epoll"),
    signal: (
        *("SIGHUP", "SIGKILL", "SIGPROF", "SIGALRM", "SIGCHLD", "SIGPIPE", "SIGQUIT", "SIGUSR1"),
        *("SIGUSR2", "SIGWINCH", "setitimer", "getitimer", "ITIMER_PROF", "ITIMER_REAL"),
        *("pthread_sigmask", "sigwait", "alarm"),
    ),
    socket: ("SO_REUSEPORT", "TCP_CONGESTION", "TCP_INFO", "TCP_USER_TIMEOUT"),
}
_PACKAGES = (
    *("aiohttp", "aiohttp.web", "click", "jinja2", "jinja2.ext", "jinja2.sandbox", "llguidance"),
    *("ml_dtypes", "msgspec", "numpy", "onnxruntime", "prometheus_client", "tokenizers"),
    *("concurrent.futures", "http.client", "logging", "multiprocessing", "platform", "shutil"),
    *(
        "ssl",
        "subprocess",
        "tempfile",
        "threading",
        "tomllib",
        "urllib.request",
        "uuid",
        "webbrowser",
    ),
)


def become_windows() -> None:
    """From now on this process has what Python has on Windows, and no more."""
    for package in _PACKAGES:
        importlib.import_module(package)
    for name in (*_MISSING_MODULES, "uvloop"):
        _hide(name)
    for module, names in _MISSING_NAMES.items():
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    asyncio.SelectorEventLoop.add_signal_handler = _no_handler  # type: ignore[method-assign]
    subprocess.Popen.kill = _kill  # type: ignore[method-assign]
    sys.platform = "win32"


def _hide(name: str) -> None:
    """`import name` raises ModuleNotFoundError."""
    modules: dict[str, ModuleType | None] = sys.modules  # type: ignore[assignment]
    modules[name] = None


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """`TerminateProcess` needs no signal."""
    os.kill(process.pid, 9)


class NoHandlersError(NotImplementedError):
    """As `ProactorEventLoop` says of itself."""


def _no_handler(*_: object) -> None:
    raise NoHandlersError
