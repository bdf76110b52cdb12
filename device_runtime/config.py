"""The settings of a device, read once and passed down."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class DeviceConfig:
    """Settings of `hat device`. `None` means: chosen at start, and printed.

    `verify_weights` hashes every file of the bundle, also those that were hashed before.
    `weights` picks the ONNX weights of input and output layers and head: float32 computes what
    the checkpoint says, int8 and int4 are smaller and faster and change answers. `secret` is
    what the cloud expects, `api_key` what HTTP clients must present (`None`: anyone).
    `chunking` says how prompts are cut: by what is measured of link and cloud, by the paper's
    rule, or into `chunk_tokens`, of which 0 sends a prompt whole. `max_num_seqs` generations run
    at once and `max_queue` wait. `draft_weights` picks those of adapter and drafting head, which
    change no answer.
    `cors_origins` are the web pages that may ask, `allowed_hosts` the names under which the
    endpoint may be asked beside those of this machine (none given: any name, where it listens on
    more than this machine).
    `reconnect_timeout_s` is how long an answer in progress waits for a lost cloud, and a cloud
    that is silent for `heartbeat_s` is lost.
    The model answers to each `served_model_name`, to the bundle's if there is none.
    Requests that say nothing are sampled by `sampling_defaults` (texts like `temperature=0.6`),
    then by the model's generation_config.json (`generation_config` none: not), then as OpenAI has
    it.
    `kept_sessions` finished sessions wait for a conversation's next turn, on both sides.
    """

    bundle: Path
    host: str = "127.0.0.1"
    port: int = 8000
    cloud: str = "ws://127.0.0.1:7700"
    engine: Literal["onnx", "torch"] = "onnx"
    weights: Literal["float32", "int8", "int4"] = "float32"
    verify_weights: bool = False
    threads: int | None = None
    drafter: Literal["auto", "adapter", "ngram", "medusa", "none"] = "auto"
    draft_tokens: int | None = None
    draft_weights: Literal["float32", "int8", "int4"] = "int8"
    draft_ahead: Literal["auto", "off"] = "auto"
    chunking: Literal["adaptive", "paper", "fixed"] = "adaptive"
    chunk_tokens: int = 64
    secret: str | None = None
    cloud_ca: Path | None = None
    api_key: str | None = None
    cors_origins: tuple[str, ...] = ("localhost",)
    allowed_hosts: tuple[str, ...] = ()
    served_model_name: tuple[str, ...] = ()
    max_model_len: int | None = None
    generation_config: Literal["auto", "none"] = "auto"
    sampling_defaults: tuple[str, ...] = ()
    max_num_seqs: int = 16
    max_queue: int = 64
    kept_sessions: int = 4
    drain_timeout_s: float = 30.0
    reconnect_timeout_s: float = 30.0
    heartbeat_s: float = 10.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"
