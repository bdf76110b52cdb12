"""A supervisor over two fake sides: `python -m tests.support.fake_pair CLOUD_MANNER DEVICE_MANNER`.

Prints "announced" once both are ready.
"""

import asyncio
import os
import socket
import sys

from hat.errors import CommandError
from hat.up.children import Side
from hat.up.pair import Pair


def _side(name: str, manner: str) -> Side:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return Side(
        name=name,
        color="cyan",
        command=(sys.executable, "-m", "tests.support.fake_side", str(port), manner),
        environ=dict(os.environ),
        ready_url=f"http://127.0.0.1:{port}/ready",
        stop_within_s=float(os.environ.get("STOP_WITHIN_S", "60")),
    )


def main(cloud: str, device: str) -> None:
    sides = (_side("cloud", cloud), _side("device", device))
    pair = Pair(sides, lambda: print("announced", flush=True))
    try:
        asyncio.run(pair.run())
    except CommandError as error:
        sys.exit(f"hat: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
