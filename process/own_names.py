"""Under which names and addresses this machine may be asked for."""

import contextlib
import socket

from process.addresses import is_wildcard

# Addresses of documentation: what is sent from this machine's own, and nothing is sent.
_FAR = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


def own_names(host: str) -> list[str]:
    """Under which a listener on this host may be asked for, the best first."""
    found = [host]
    if is_wildcard(host):
        found = [socket.gethostname()]
        for family, far in _FAR:
            with (
                contextlib.suppress(OSError),
                socket.socket(family, socket.SOCK_DGRAM) as probe,
            ):
                probe.connect((far, 9))
                found.append(str(probe.getsockname()[0]))
    return list(dict.fromkeys([*found, "localhost", "127.0.0.1", "::1"]))
