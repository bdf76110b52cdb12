"""`python -m bench.hostile.sleeper BUNDLE ...`: a cloud whose engine sleeps instead of computing.

What its scheduling costs a device is then seen on a machine with other work too: a step takes the
same time however busy the cores are.
"""

import argparse
import asyncio
import random
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cloud_server.config import CloudConfig
from cloud_server.engines.engine import (
    EngineFullError,
    HostCopy,
    PendingCopy,
    Rows,
    SequenceId,
    StepItem,
)
from cloud_server.engines.loading import LoadedEngine
from cloud_server.server import serve_cloud
from process.program.logs import configure_logs
from submodels.bundle.bundle import Bundle
from wire.messages import Dtype

_ROW_SHARE = 0.008
"""Of a step's fixed time, for each row: about a GPU's, where 100 rows double a step."""

_CAPACITY_TOKENS, _CONTEXT_TOKENS = 1 << 17, 512


class Sleeper:
    """A `MiddleEngine` that gives zeros, after `step_s` and a little for each row."""

    dtype = Dtype.FP32
    block_tokens = 1
    takes_taps = False
    capacity_tokens = _CAPACITY_TOKENS
    max_context_tokens = _CONTEXT_TOKENS

    def __init__(self, hidden_size: int, step_s: float) -> None:
        self.hidden_size = hidden_size
        self._step_s = step_s
        self._num_opened = 0

    def open(
        self, max_tokens: int, fork_of: SequenceId | None = None, fork_tokens: int = 0
    ) -> SequenceId:
        """See `MiddleEngine`."""
        self._num_opened += 1
        return SequenceId(self._num_opened)

    def step(self, batch: Sequence[StepItem]) -> list[Rows]:
        """See `MiddleEngine`."""
        num_rows = sum(len(item.rows) for item in batch)
        time.sleep(self._step_s * (1 + _ROW_SHARE * num_rows))
        return [np.zeros((item.num_wanted_rows, self.hidden_size), np.float32) for item in batch]

    def release(self, sequence: SequenceId) -> None:
        """See `MiddleEngine`."""

    def save(self, sequence: SequenceId, begin: int, end: int) -> HostCopy:
        """See `MiddleEngine`."""
        raise EngineFullError("nothing is kept elsewhere")

    def restore(self, sequence: SequenceId, copy: HostCopy, begin: int, end: int) -> PendingCopy:
        """See `MiddleEngine`."""
        return copy

    def drop(self, copy: HostCopy) -> PendingCopy:
        """See `MiddleEngine`."""
        return copy


async def _serve(config: CloudConfig, step_s: float) -> None:
    def load(bundle: Bundle, _: CloudConfig) -> LoadedEngine:
        engine = Sleeper(bundle.manifest.shape.hidden_size, step_s)
        return LoadedEngine(engine, f"sleeps {1e3 * step_s:g} ms a step", 4)

    chance = random.SystemRandom()
    async with serve_cloud(config, time.monotonic, load, None, chance, time.time):
        await asyncio.Event().wait()


def main() -> None:
    """Serve until this process is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--step-ms", type=float, required=True)
    parser.add_argument("--tokens-file", type=Path)
    parser.add_argument("--secret-file", type=Path)
    parser.add_argument("--serve-device-bundle", type=Path)
    given = parser.parse_args()
    configure_logs("info", "text")
    secret = None if given.secret_file is None else given.secret_file.read_text().strip()
    config = CloudConfig(
        given.bundle,
        port=given.port,
        secret=secret,
        tokens_file=given.tokens_file,
        serve_device_bundle=given.serve_device_bundle,
        host_cache_gib=0.0,
        wire_dtype="float32",
    )
    asyncio.run(_serve(config, given.step_ms / 1e3))


if __name__ == "__main__":
    main()
