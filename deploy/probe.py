#!/usr/bin/env python3
"""Exit 0 if the `hat` in this container answers 200: `hat-probe 7700 /ready`.

Needs only the standard library. Asks without TLS and, where that is not understood, with it: the
figures of a cloud speak it when others may reach them (where HAT_CLOUD_METRICS_HOST says that they
may, the other way round). The certificate names the cloud's public address, so it is not checked on
the way to this machine.
"""

import http.client
import os
import ssl
import sys

TIMEOUT_S = 2.0
"""Of each question; a supervisor waits 5 s for both."""

LOOPBACK = ("", "127.0.0.1", "::1", "localhost")


def main() -> int:
    """Ask at most twice, without the proxies that urllib would take from the environment."""
    port, path = int(sys.argv[1]), sys.argv[2]
    reason = ""
    for connection in _connections(port):
        try:
            status, answer = _ask(connection, path)
        except (OSError, http.client.HTTPException) as error:
            reason = str(error)
            if isinstance(error, ConnectionRefusedError):
                break
        else:
            print(f"{status} {answer}")
            return 0 if status == 200 else 1
    print(f"no answer on port {port}: {reason}")
    return 1


def _connections(port: int) -> tuple[http.client.HTTPConnection, ...]:
    """Without TLS and with it, the likely one first: a wrong one is a line in the log."""
    plain = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    unchecked = ssl._create_unverified_context()
    secure = http.client.HTTPSConnection("127.0.0.1", port, timeout=TIMEOUT_S, context=unchecked)
    figures_are_shown = os.environ.get("HAT_CLOUD_METRICS_HOST", "") not in LOOPBACK
    return (secure, plain) if figures_are_shown else (plain, secure)


def _ask(connection: http.client.HTTPConnection, path: str) -> tuple[int, str]:
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read(300).decode(errors="replace").strip()
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
