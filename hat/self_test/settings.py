"""The operator's engine over one bundle after the other, started and ended."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from cloud_server.config import CloudConfig
from cloud_server.engines.engine import MiddleEngine
from hat.self_test.checks import MIN_STEP_TOKENS
from hat.self_test.quiet import Quiet
from submodels.bundle.bundle import load_bundle

Mode = Literal["eager", "compiled"]

_MIN_SESSIONS: Final = 64
_TOKENS_PER_STAGE: Final = 8192
"""32 sessions of the step times, in KV blocks of up to 128 tokens."""


@dataclass(frozen=True, slots=True)
class Started:
    """An engine, what it says it is, and how long its start took."""

    engine: MiddleEngine
    description: str
    start_s: float


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


@contextmanager
def started(config: CloudConfig, quiet: Quiet) -> Iterator[Started]:
    """The engine of `config.bundle`, in this thread; it is ended with the context.

    Raises:
        UserError: it does not start.
    """
    from cloud_server.server import load_chosen_engine

    begun_s = time.perf_counter()
    with quiet():
        loaded = load_chosen_engine(load_bundle(config.bundle, "cloud"), config)
    try:
        yield Started(loaded.engine, loaded.description, time.perf_counter() - begun_s)
    finally:
        with quiet():
            loaded.close()
