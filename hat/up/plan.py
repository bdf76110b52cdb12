"""What `hat up` starts: arguments, environment and addresses of the two sides."""

import errno
import secrets
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cloud_server.config import CloudConfig, beside
from device_runtime.config import DeviceConfig
from hat.errors import CommandError
from hat.settings.programs import CLOUD, DEVICE, C
from hat.settings.sources import Resolved, Sources, load
from hat.up.children import Side
from process.addresses import bracketed, near_host
from process.errors import ConfigError
from process.sockets.binding import keep_to_oneself

_SECRET_BYTES = 32
# Beyond the drain: closing sockets, freeing the model, writing the last lines.
_STOP_MARGIN_S = 10.0
_SECRET_VARIABLES = ("HAT_SECRET", "HAT_CLOUD_SECRET", "HAT_DEVICE_SECRET")


def up_settings(
    cloud: Sources, device: Sources
) -> tuple[Resolved[CloudConfig], Resolved[DeviceConfig]]:
    """Both sides' settings, each from all its sources.

    Raises:
        ConfigError: a setting is wrong, or does not go with `hat up`.
    """
    of_cloud, of_device = load(CLOUD, cloud), load(DEVICE, device)
    for name in ("tls_certificate", "tls_key", "tls_self_signed"):
        if of_cloud.value(name) not in (None, False):
            source = of_cloud.given[name].source
            raise ConfigError(f"{source}: hat up joins both sides without TLS; remove {name}")
    port = of_device.value("port")
    if of_cloud.value("port") == port:
        raise ConfigError(f"--port and --cloud-port are both {port}")
    return of_cloud, of_device


def address_of(side: Resolved[C]) -> str:
    """Host and port where programs of this machine find a side."""
    return f"{reachable_host(side.value('host'))}:{side.value('port')}"


def sides(
    cloud: Resolved[CloudConfig],
    device: Resolved[DeviceConfig],
    bundle: Path,
    environ: Mapping[str, str],
    sampling: Sequence[str] = (),
) -> tuple[Side, Side]:
    """The cloud and the device of one bundle folder, with a secret that only they know.

    `sampling`: what the model's files do not say of their sampling; a user's settings win.
    """
    child_environ = _child_environment(environ)
    flags = {"cloud": f"ws://{address_of(cloud)}"}
    if sampling and device.given["sampling_defaults"].source == "default":
        flags["sampling_defaults"] = ",".join(sampling)
    return (
        _side(cloud, "cyan", bundle, child_environ, **_figures(cloud, device)),
        _side(device, "green", bundle, child_environ, **flags),
    )


def _figures(cloud: Resolved[CloudConfig], device: Resolved[DeviceConfig]) -> dict[str, str]:
    """The cloud takes the port above its own for figures, unless that is the device's."""
    port, taken = cloud.value("port"), device.value("port")
    if cloud.value("metrics_port") is not None or beside(port) != taken:
        return {}
    return {"metrics_port": str(port - 1 if port - 1 != taken else port - 2)}


def _side(
    settings: Resolved[C], color: str, bundle: Path, environ: Mapping[str, str], **explicit: str
) -> Side:
    return Side(
        name=settings.program.name,
        color=color,
        command=_command(settings, bundle, explicit),
        environ=environ,
        ready_url=f"http://{address_of(settings)}/ready",
        stop_within_s=settings.value("drain_timeout_s") + _STOP_MARGIN_S,
    )


def _command(settings: Resolved[C], bundle: Path, explicit: Mapping[str, str]) -> tuple[str, ...]:
    """The command line of one side. What this process relies on is said explicitly."""
    program, sources = settings.program, settings.sources
    address = {name: str(settings.value(name)) for name in ("host", "port")}
    flags = {**sources.flags, **explicit, **address}
    command = [sys.executable, "-m", "hat.child", program.name, str(bundle / program.name)]
    command += [f"{s.flag}={flags[s.key]}" for s in program.settings if s.key in flags]
    if sources.file is not None:
        command += [f"--config={sources.file}"]
    return tuple(command)


def _child_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The user's environment with a fresh secret, and with output that is not held back."""
    dropped = {f"{name}_FILE" for name in _SECRET_VARIABLES}
    kept = {name: value for name, value in environ.items() if name not in dropped}
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    return {**kept, **dict.fromkeys(_SECRET_VARIABLES, secret), "PYTHONUNBUFFERED": "1"}


def require_free_port(host: str, port: int, flag: str) -> None:
    """Return if `port` of `host` can be listened on; `flag` is what to change otherwise.

    Raises:
        CommandError: the port is taken or forbidden, or the host is not this machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise CommandError(f"cannot listen on {host}: {error.strerror}") from error
    for family, kind, protocol, _, address in found:
        with socket.socket(family, kind, protocol) as probe:
            # As servers do: connections of an earlier run that are still closing do not matter.
            keep_to_oneself(probe)
            try:
                probe.bind(address)
            except OSError as error:
                raise CommandError(_reason(error, host, port, flag)) from error


def reachable_host(host: str) -> str:
    """Where to connect on this machine when a server listens on `host`; IPv6 in brackets."""
    return bracketed(near_host(host))


def _reason(error: OSError, host: str, port: int, flag: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is in use; choose another with {flag}"
    return f"cannot listen on {host} port {port}: {error.strerror}; see {flag}"
