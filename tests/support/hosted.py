"""Engines that a process of its own loads in tests; `capacity_tokens` is that process's number."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cloud_server.config import CloudConfig
from cloud_server.engines.engine import EngineFullError, Rows, SequenceId, StepItem
from cloud_server.engines.loading import LoadedEngine
from process.errors import StartError
from submodels.bundle.bundle import Bundle
from wire.messages import Dtype


class ForeignError(Exception):
    """An error of a package that the parent has not imported."""


class EchoEngine:
    """Gives back what it got; a position of `fails_at` or beyond is refused or never ends."""

    hidden_size = 4
    dtype = Dtype.FP32
    block_tokens = 16
    max_context_tokens = 64
    takes_taps = False

    def __init__(self) -> None:
        self.capacity_tokens = os.getpid()

    def open(self, max_tokens: int, *_: Any) -> SequenceId:
        """See `MiddleEngine.open`."""
        if max_tokens == 999:
            raise EngineFullError("999 are too many")
        if max_tokens == 998:
            raise ForeignError("998 as well")
        return SequenceId(max_tokens)

    def step(self, batch: Sequence[StepItem]) -> list[Rows]:
        """See `MiddleEngine.step`; position 1000 takes an hour."""
        if batch[0].position == 1000:
            time.sleep(3600)
        return [np.array(item.rows) for item in batch]

    def release(self, sequence: SequenceId) -> None:
        """See `MiddleEngine.release`."""


def load_echo(_bundle: Bundle, _config: CloudConfig) -> LoadedEngine:
    """An engine at once."""
    return LoadedEngine(EchoEngine(), "gives back", 5, kv_host_bytes=7)  # type: ignore[arg-type]


def load_refused(_bundle: Bundle, _config: CloudConfig) -> LoadedEngine:
    """What can never work."""
    raise StartError("device: expected auto, got 'tpu'")


def load_killed(_bundle: Bundle, _config: CloudConfig) -> LoadedEngine:
    """As one that takes all memory."""
    os.kill(os.getpid(), 9)
    raise AssertionError("unreachable")


def load_where(_bundle: Bundle, _config: CloudConfig) -> LoadedEngine:
    """Tells where modules come from."""
    import wire

    raise StartError(str(Path(wire.__file__ or "").parent))
