"""The settings of a cloud daemon, read once and passed down."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class CloudConfig:
    """Settings of `hat cloud`. `None` means: chosen at start, and printed.

    `secret` is what devices must present. `capacity_tokens` is the KV capacity over all
    sessions. `step_budget_tokens` bounds the rows of one engine step, `max_frame_tokens` those of
    one frame. A session without a socket is kept for `session_ttl_s`; queued work older than
    `queue_deadline_s` is refused.
    """

    bundle: Path
    host: str = "127.0.0.1"
    port: int = 7700
    engine: Literal["torch"] = "torch"
    device: str = "auto"
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    threads: int | None = None
    secret: str | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    capacity_tokens: int | None = None
    max_context_tokens: int | None = None
    max_sessions: int = 256
    max_connections: int = 256
    step_budget_tokens: int = 512
    max_frame_tokens: int = 512
    session_ttl_s: float = 60.0
    queue_deadline_s: float = 30.0
    drain_timeout_s: float = 30.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"
