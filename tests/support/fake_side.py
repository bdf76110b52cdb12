"""A side of `hat up` that serves nothing: `python -m tests.support.fake_side PORT MANNER`.

Manners: `good` ends on SIGTERM, `stubborn` does not, `broken` fails before it is ready, `dying`
fails once it was asked whether it is ready.
"""

import contextlib
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import FrameType

from hat.child import end_with_parent


class _Ready(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Print nothing but what the tests look for."""


def _say(text: str) -> None:
    # Nobody reads once the supervisor is gone; that alone must not end this process.
    with contextlib.suppress(OSError):
        os.write(1, f"{text}\n".encode())


def main(port: int, manner: str) -> None:
    def stop(number: int, frame: FrameType | None) -> None:
        _say("told to stop")
        if manner != "stubborn":
            os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    end_with_parent(grace_s=0.5)
    _say(f"pid {os.getpid()}")
    if manner == "broken":
        _say("hat: no such bundle")
        sys.exit(1)
    with HTTPServer(("127.0.0.1", port), _Ready) as server:
        if manner == "dying":
            server.handle_request()
            _say("hat: out of memory")
            threading.Timer(0.2, os._exit, [3]).start()
        server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
