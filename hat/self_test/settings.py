"""The operator's settings, changed for the engines of a self-test."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

from cloud_server.config import CloudConfig
from hat.self_test.checks import MIN_STEP_TOKENS

Mode = Literal["eager", "compiled"]

_MIN_SESSIONS: Final = 64
_TOKENS_PER_STAGE: Final = 8192
"""32 sessions of the step times, in KV blocks of up to 128 tokens."""


def modes(config: CloudConfig) -> tuple[Mode, ...]:
    """The ways in which the layers are run; the first is that of the settings."""
    if config.engine == "torch":
        return ("eager",)
    is_eager = json.loads(config.vllm_args or "{}").get("enforce_eager", False)
    return ("eager",) if is_eager else ("compiled", "eager")


def in_mode(config: CloudConfig, mode: Mode) -> CloudConfig:
    """The settings with the layers run this way."""
    if config.engine == "torch":
        return config
    arguments = json.loads(config.vllm_args or "{}") | {"enforce_eager": mode == "eager"}
    return replace(config, vllm_args=json.dumps(arguments))


def for_checks(config: CloudConfig) -> CloudConfig:
    """The settings with room for the batches of the checks."""
    return replace(
        config,
        step_budget_tokens=max(config.step_budget_tokens, MIN_STEP_TOKENS),
        max_sessions=max(config.max_sessions, _MIN_SESSIONS),
    )


def for_random_model(
    config: CloudConfig, bundle: Path, dtype: Literal["float32", "float16", "bfloat16"]
) -> CloudConfig:
    """The settings without those that are meant for the operator's own model."""
    return replace(
        for_checks(config),
        bundle=bundle,
        dtype=dtype,
        quantization=None,
        capacity_tokens=_TOKENS_PER_STAGE * (1 + config.pipeline_parallel_size),
        kv_cache_memory=None,
        max_context_tokens=None,
    )
