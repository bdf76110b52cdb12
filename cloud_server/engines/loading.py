"""An engine that is ready to serve, and what the operator is told about it."""

from collections.abc import Callable
from dataclasses import dataclass

from cloud_server.config import CloudConfig
from cloud_server.engines.engine import MiddleEngine
from submodels.bundle.bundle import Bundle


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """`description` names engine, device and threads; `kv_bytes_per_token` is what a position takes
    over all workers, in the engine and in host memory. `kv_host_bytes` is what the engine's own KV
    cache may still take of this machine's memory.

    `close` ends what the engine has started beside it, such as processes.
    """

    engine: MiddleEngine
    description: str
    kv_bytes_per_token: int
    close: Callable[[], None] = _nothing
    kv_host_bytes: int = 0


EngineLoader = Callable[[Bundle, CloudConfig], LoadedEngine]
"""Loads a bundle's middle layers, in the thread that will run them. May raise StartError."""
