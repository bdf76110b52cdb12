"""How many KV positions to offer: what was asked for, or what the memory allows."""

import math
from dataclasses import dataclass

from process.errors import PassingError

_KV_SHARE = 0.5
"""Of the memory that the weights leave: the rest is for rows, scores, sockets, and a moving slab,
which exists twice for a moment."""

_HOST_SHARE = 0.5
"""Of the host memory that weights and KV cache leave: for idle sessions. The rest is for sockets,
rows, and whatever else runs on the machine."""

_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class KvDemand:
    """What a KV cache is asked to hold. `useful_tokens`: more would never be used."""

    bytes_per_token: int
    useful_tokens: int
    capacity_tokens: int | None


def choose_capacity(demand: KvDemand, free_bytes: int) -> int:
    """The KV capacity in tokens, given what is free once the weights are there.

    Raises:
        PassingError: the capacity asked for does not fit, or nothing does.
    """
    if demand.capacity_tokens is not None:
        needed_bytes = demand.capacity_tokens * demand.bytes_per_token
        if needed_bytes > free_bytes:
            raise PassingError(
                f"capacity_tokens {demand.capacity_tokens} takes {gib(needed_bytes)} of KV cache, "
                f"{gib(free_bytes)} of memory are free"
            )
        return demand.capacity_tokens
    affordable_tokens = int(free_bytes * _KV_SHARE) // demand.bytes_per_token
    if affordable_tokens < 1:
        raise PassingError(f"no memory for a KV cache: {gib(free_bytes)} are free")
    return min(affordable_tokens, demand.useful_tokens)


@dataclass(frozen=True, slots=True)
class HostDemand:
    """What host memory is asked to hold of idle sessions. `gib` None: what it allows.

    `useful_tokens`: more would never be used. `kv_host_bytes`: what the engine's own KV cache may
    still take of it.
    """

    gib: float | None
    bytes_per_token: int
    useful_tokens: int
    kv_host_bytes: int = 0


def choose_host_tokens(demand: HostDemand, free_bytes: int) -> int:
    """How many positions of idle sessions to keep in host memory, of which so much is free.

    Raises:
        PassingError: what was asked for does not fit.
    """
    left_bytes = max(0, free_bytes - demand.kv_host_bytes)
    num_bytes = int(left_bytes * _HOST_SHARE)
    if demand.gib is not None:
        num_bytes = int(demand.gib * _GIB)
        if num_bytes > left_bytes:
            raise PassingError(
                f"host_cache_gib {demand.gib:g}: {gib(left_bytes)} of memory are free beside the "
                "KV cache"
            )
    return min(num_bytes // demand.bytes_per_token, demand.useful_tokens)


def least_kv_bytes(demand: KvDemand, context_tokens: int) -> int:
    """Memory beside the weights that offers the capacity asked for, or else one whole session."""
    if demand.capacity_tokens is not None:
        return demand.capacity_tokens * demand.bytes_per_token
    return math.ceil(context_tokens * demand.bytes_per_token / _KV_SHARE)


def check_weights_fit(weight_bytes: int, free_bytes: int) -> None:
    """Return if the weights fit beside what is there.

    Raises:
        PassingError: they do not.
    """
    if weight_bytes > free_bytes:
        raise PassingError(
            f"the middle layers take {gib(weight_bytes)}, {gib(free_bytes)} of memory are free"
        )


def gib(num_bytes: int) -> str:
    """A number of bytes for people, such as `1.5 GiB`."""
    return f"{num_bytes / _GIB:.3g} GiB"
