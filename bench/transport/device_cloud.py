"""The cloud's end of our own link: the real daemon, whose layers take no time.

`python -m bench.transport.device_cloud HOST` prints its port and serves until it is killed. What
comes back for a frame's last row is when the frame had come, on the monotonic clock that both ends
of a link on one machine share.
"""

import asyncio
import random
import struct
import sys
import time
from pathlib import Path

from cloud_server.config import CloudConfig
from cloud_server.core.actions import Step, StepOutcome, StepWork
from cloud_server.core.config import CoreConfig
from cloud_server.daemon.app import make_app
from cloud_server.daemon.bundle_desk import BundleDesk
from cloud_server.daemon.daemon import CloudDaemon, EngineRhythm, Patience
from cloud_server.daemon.metrics import Metrics
from cloud_server.daemon.reception import make_reception
from cloud_server.daemon.steps import StepListener
from process.listening.runner import GuardedRunner
from process.program.run import run_on_loop
from wire.messages import Dtype

HIDDEN_SIZE = 1000
"""So a row has 2,000 bytes."""

ROW_BYTES = 2 * HIDDEN_SIZE
MAX_ROWS = 1024
ARRIVED = struct.Struct("<d")

_CONFIG = CoreConfig(
    fingerprint=bytes(32),
    first_layer=1,
    num_layers=1,
    hidden_size=HIDDEN_SIZE,
    dtype=Dtype.BF16,
    capacity_tokens=1 << 20,
    max_context_tokens=1 << 16,
    max_frame_tokens=MAX_ROWS,
    credit_window_tokens=4 * MAX_ROWS,
    step_budget_tokens=8 * MAX_ROWS,
    target_step_s=0.0,
    max_lanes=192,
)


class _NoSteps:
    """See `Steps`: each is over at once."""

    def listen(self, listener: StepListener) -> None:
        """See `Steps`."""
        self._listener = listener

    def submit(self, step: Step) -> None:
        """See `Steps`."""
        results = tuple(map(_answer, step.items))
        asyncio.get_running_loop().call_soon(
            self._listener.on_step_done, step, StepOutcome(results, 1e-6)
        )


def _answer(item: StepWork) -> bytes:
    num_bytes = item.num_answer_rows * ROW_BYTES
    return ARRIVED.pack(time.monotonic()).ljust(num_bytes, b"\0")[:num_bytes]


class _Serving:
    """What the HTTP face asks for."""

    def __init__(self) -> None:
        self.metrics = Metrics(_CONFIG.verify_tokens)
        self.desk: BundleDesk | None = None
        self.reception = make_reception(CloudConfig(Path("unused")), time.monotonic)
        self.daemon: CloudDaemon | None = CloudDaemon(
            _CONFIG,
            _NoSteps(),
            self.metrics,
            Patience(),
            EngineRhythm(),
            time.monotonic,
            random.SystemRandom(),
        )


async def serve(host: str) -> None:
    """Print a port and serve until cancelled."""
    serving = _Serving()
    runner = GuardedRunner(make_app(serving), serving.reception.guard)
    await runner.setup()
    await runner.listen(host, 0, None)
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    run_on_loop(serve(sys.argv[1]))
