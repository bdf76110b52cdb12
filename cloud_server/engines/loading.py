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
    """`description` names engine, device and threads; `kv_bytes_per_token` is for people.

    `close` ends what the engine has started beside it, such as processes.
    """

    engine: MiddleEngine
    description: str
    kv_bytes_per_token: int
    close: Callable[[], None] = _nothing


EngineLoader = Callable[[Bundle, CloudConfig], LoadedEngine]
"""Loads a bundle's middle layers, in the thread that will run them. May raise StartError."""
