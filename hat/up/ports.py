"""Whether an address can be listened on, before anything is started there."""

import errno
import socket

from hat.errors import CommandError

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


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
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(address)
            except OSError as error:
                raise CommandError(_reason(error, host, port, flag)) from error


def reachable_host(host: str) -> str:
    """Where to connect on this machine when a server listens on `host`; IPv6 in brackets."""
    address = _WILDCARDS.get(host, host)
    return f"[{address}]" if ":" in address else address


def _reason(error: OSError, host: str, port: int, flag: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is in use; choose another with {flag}"
    return f"cannot listen on {host} port {port}: {error.strerror}; see {flag}"
