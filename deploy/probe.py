#!/usr/bin/env python3
"""Exit 0 if the `hat` in this container answers 200: `hat-probe 7700 /ready`.

Needs only the standard library. Asks without TLS and, where that is not understood, with it: the
figures of a cloud speak it when others may reach them. The certificate names the cloud's public
address, so it is not checked on the way to this machine.
"""

import http.client
import ssl
import sys

TIMEOUT_S = 2.0
"""Of each question; a supervisor waits 5 s for both."""


def main() -> int:
    """Ask at most twice, without the proxies that urllib would take from the environment."""
    port, path = int(sys.argv[1]), sys.argv[2]
    try:
        status, answer = _ask(
            http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S), path
        )
    except ConnectionRefusedError as error:
        return _no_answer(port, error)
    except (OSError, http.client.HTTPException):
        unchecked = ssl._create_unverified_context()
        secure = http.client.HTTPSConnection(
            "127.0.0.1", port, timeout=TIMEOUT_S, context=unchecked
        )
        try:
            status, answer = _ask(secure, path)
        except (OSError, http.client.HTTPException) as error:
            return _no_answer(port, error)
    print(f"{status} {answer}")
    return 0 if status == 200 else 1


def _ask(connection: http.client.HTTPConnection, path: str) -> tuple[int, str]:
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read(300).decode(errors="replace").strip()
    finally:
        connection.close()


def _no_answer(port: int, error: Exception) -> int:
    print(f"no answer on port {port}: {error}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
