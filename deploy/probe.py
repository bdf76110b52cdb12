#!/usr/bin/env python3
"""Exit 0 if the `hat` in this container answers 200: `hat-probe 7700 /ready`.

Needs only the standard library. Speaks TLS where `HAT_CLOUD_TLS_CERTIFICATE` is set; the
certificate names the cloud's public address, so it is not checked on the way to this machine.
"""

import http.client
import os
import ssl
import sys

TIMEOUT_S = 4.0


def main() -> int:
    """Ask once, without the proxies that urllib would take from the environment."""
    port, path = int(sys.argv[1]), sys.argv[2]
    connection = _connection(port)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        answer = response.read(300).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException) as error:
        print(f"no answer on port {port}: {error}")
        return 1
    finally:
        connection.close()
    print(f"{response.status} {answer}")
    return 0 if response.status == 200 else 1


def _connection(port: int) -> http.client.HTTPConnection:
    if not os.environ.get("HAT_CLOUD_TLS_CERTIFICATE"):
        return http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    unchecked = ssl._create_unverified_context()
    return http.client.HTTPSConnection("127.0.0.1", port, timeout=TIMEOUT_S, context=unchecked)


if __name__ == "__main__":
    sys.exit(main())
