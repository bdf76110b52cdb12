"""What the two processes of a hosted engine say to each other."""

from dataclasses import dataclass
from typing import Any

from cloud_server.config import CloudConfig
from cloud_server.engines.engine import MiddleEngine
from cloud_server.engines.loading import EngineLoader, LoadedEngine
from submodels.bundle.bundle import Bundle
from wire.messages import Dtype


@dataclass(frozen=True, slots=True)
class Start:
    """The first message to the engine's process; `load` is a function of a module."""

    load: EngineLoader
    bundle: Bundle
    config: CloudConfig


@dataclass(frozen=True, slots=True)
class Facts:
    """What does not change of a loaded engine: the attributes of `MiddleEngine`, and those of
    `LoadedEngine`."""

    hidden_size: int
    dtype: Dtype
    capacity_tokens: int
    block_tokens: int
    max_context_tokens: int
    takes_taps: bool
    description: str
    kv_bytes_per_token: int
    kv_host_bytes: int


@dataclass(frozen=True, slots=True)
class Call:
    """A method of the engine and its arguments. A copy is named by its number."""

    method: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class CopyName:
    """A copy of positions `[begin, end)` that the engine's process holds."""

    number: int
    begin: int
    end: int

    def wait(self) -> None:
        """See `PendingCopy.wait`: it was waited for there."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a call returned, or what it raised."""

    value: Any = None
    error: Exception | None = None


def facts_of(loaded: LoadedEngine) -> Facts:
    """What a process has loaded."""
    engine: MiddleEngine = loaded.engine
    return Facts(
        hidden_size=engine.hidden_size,
        dtype=engine.dtype,
        capacity_tokens=engine.capacity_tokens,
        block_tokens=engine.block_tokens,
        max_context_tokens=engine.max_context_tokens,
        takes_taps=engine.takes_taps,
        description=loaded.description,
        kv_bytes_per_token=loaded.kv_bytes_per_token,
        kv_host_bytes=loaded.kv_host_bytes,
    )
