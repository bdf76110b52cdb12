"""The settings of a cloud daemon, read once and passed down."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cloud_server.number_format import DtypeSetting


@dataclass(frozen=True, slots=True)
class CloudConfig:
    """Settings of `hat cloud`. `None` means: chosen at start, and printed.

    `dtype` is what the layers compute in, `wire_dtype` what rows cross the link in (see
    `cloud_server.number_format`). `secret` is what devices must present; `trusted_proxies` are
    addresses and networks whose X-Forwarded-For is believed. `capacity_tokens` is the KV capacity
    over all sessions. `max_connections` counts devices, `max_sockets` everything that is
    connected, those included that have shown nothing yet. `step_budget_tokens` bounds the rows of
    one engine step, which aims at `target_step_s` within that (0: it does not), `max_frame_tokens`
    those of one frame. One address has at most `identity_share` of everything while others are
    connected. A device that is silent for `heartbeat_s` is gone. A session without a socket is
    kept for `session_ttl_s`; a new one is refused when its first rows would wait longer than
    `queue_deadline_s`.

    `verify_weights` hashes every file of the bundle, also those that were hashed before.

    The settings from `tensor_parallel_size` on are for the engine vllm, under vLLM's own names;
    `kv_cache_memory` is in bytes per worker, `vllm_args` a JSON object of further ones.
    """

    bundle: Path
    host: str = "127.0.0.1"
    port: int = 7700
    engine: Literal["torch", "vllm"] = "torch"
    device: str = "auto"
    verify_weights: bool = False
    dtype: DtypeSetting = "auto"
    wire_dtype: DtypeSetting = "auto"
    threads: int | None = None
    secret: str | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    trusted_proxies: tuple[str, ...] = ()
    capacity_tokens: int | None = None
    max_context_tokens: int | None = None
    max_sessions: int = 256
    max_connections: int = 256
    identity_share: float = 0.5
    max_sockets: int | None = None
    max_sockets_per_address: int | None = None
    step_budget_tokens: int = 512
    target_step_s: float = 0.25
    max_frame_tokens: int = 512
    session_ttl_s: float = 60.0
    heartbeat_s: float = 120.0
    queue_deadline_s: float = 30.0
    drain_timeout_s: float = 30.0
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    nnodes: int = 1
    node_rank: int = 0
    master_addr: str = "127.0.0.1"
    master_port: int = 29501
    distributed_executor_backend: Literal["mp", "ray"] = "mp"
    gpu_memory_utilization: float | None = None
    kv_cache_memory: int | None = None
    quantization: str | None = None
    vllm_args: str | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"
