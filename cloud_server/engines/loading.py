"""An engine that is ready to serve, and what the operator is told about it."""

from collections.abc import Callable
from dataclasses import dataclass

from cloud_server.config import CloudConfig
from cloud_server.engines.engine import MiddleEngine
from submodels.bundle.bundle import Bundle


def _nothing() -> None:
    pass


def _lives() -> str | None:
    return None


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """`description` names engine, device and threads; `kv_bytes_per_token` is what a position takes
    over all workers, in the engine and in host memory. `kv_host_bytes` is what the engine's own KV
    cache may still take of this machine's memory.

    `close` ends what the engine has started beside it, such as processes. `why_lost` says how these
    have ended by themselves, if they have; it is asked while nobody asks the engine for anything.
    """

    engine: MiddleEngine
    description: str
    kv_bytes_per_token: int
    close: Callable[[], None] = _nothing
    kv_host_bytes: int = 0
    why_lost: Callable[[], str | None] = _lives


EngineLoader = Callable[[Bundle, CloudConfig], LoadedEngine]
"""Loads a bundle's middle layers, in the thread that will run them. May raise StartError."""
