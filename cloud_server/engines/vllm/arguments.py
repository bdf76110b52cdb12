"""The operator's settings as arguments of vLLM's engine."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from cloud_server.config import CloudConfig
from cloud_server.engines.vllm.engine import EngineShape
from process.errors import StartError
from wire.numbers import NUMPY_DTYPES

_EXTENSION: Final = "cloud_server.engines.vllm.worker.HatWorkerExtension"

_OURS: Final = frozenset(
    {
        "model",
        "skip_tokenizer_init",
        "enable_prompt_embeds",
        "enable_prefix_caching",
        "async_scheduling",
        "worker_extension_cls",
        "disable_hybrid_kv_cache_manager",
        "max_model_len",
        "max_num_batched_tokens",
        "data_parallel_size",
        "speculative_config",
        "dtype",
        "tensor_parallel_size",
        "pipeline_parallel_size",
        "distributed_executor_backend",
        "gpu_memory_utilization",
        "kv_cache_memory_bytes",
        "quantization",
        "nnodes",
        "node_rank",
        "master_addr",
        "master_port",
    }
)
"""Arguments that this engine's way of working fixes, or that have a setting of ours: the engine
goes by the setting, so that vLLM must not be told anything else."""


_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


def engine_arguments(
    folder: Path,
    config: CloudConfig,
    shape: EngineShape,
    kv_memory_bytes: int | None,
    overrides: Mapping[str, Any] = _NOTHING,
) -> dict[str, Any]:
    """Arguments for `EngineArgs`; settings that were left out stay vLLM's own.

    `shape.dtype` is what the settings and the weights ask for; `kv_memory_bytes` is what each
    worker sets aside for KV, None: what vLLM chooses. `overrides` are settings of the model that
    hold instead of those in its config.json.

    Raises:
        StartError: `vllm_args` is no JSON object, or has a name that is not to be changed.
    """
    passed = dict(_passed_through(config))
    if overrides:
        asked = passed.get("hf_overrides", {})
        if not isinstance(asked, dict):
            raise StartError(f"vllm_args: hf_overrides: expected a JSON object, got {asked!r}")
        passed["hf_overrides"] = {**asked, **overrides}
    return {
        "disable_log_stats": True,
        # A verification has a few rows, a chunk many; nothing is gained by fewer sequences.
        "max_num_seqs": max(2, min(config.max_sessions, shape.max_step_tokens)),
        **_given(config),
        # vLLM's own "auto" makes bfloat16 of float32 weights.
        "dtype": NUMPY_DTYPES[shape.dtype].name,
        **({} if kv_memory_bytes is None else {"kv_cache_memory_bytes": kv_memory_bytes}),
        **passed,
        "model": str(folder),
        "skip_tokenizer_init": True,
        "enable_prompt_embeds": True,
        "enable_prefix_caching": False,
        # It would hand every answer to one more thread of the worker on its way back.
        "async_scheduling": False,
        # Sliding windows then live in the same KV blocks as full attention: one block table.
        "disable_hybrid_kv_cache_manager": True,
        "worker_extension_cls": _EXTENSION,
        "max_model_len": shape.max_context_tokens,
        "max_num_batched_tokens": max(2, shape.max_step_tokens),
    }


def _given(config: CloudConfig) -> Mapping[str, Any]:
    """Settings of ours under vLLM's names, without those that were left out."""
    values = {
        "tensor_parallel_size": config.tensor_parallel_size,
        "pipeline_parallel_size": config.pipeline_parallel_size,
        "distributed_executor_backend": config.distributed_executor_backend,
        "gpu_memory_utilization": config.gpu_memory_utilization,
        "quantization": config.quantization,
    }
    if config.nnodes > 1:
        values |= {
            "nnodes": config.nnodes,
            "node_rank": config.node_rank,
            "master_addr": config.master_addr,
            "master_port": config.master_port,
        }
    return {name: value for name, value in values.items() if value is not None}


def _passed_through(config: CloudConfig) -> Mapping[str, Any]:
    if config.vllm_args is None:
        return {}
    try:
        arguments = json.loads(config.vllm_args)
    except json.JSONDecodeError as error:
        raise StartError(f"vllm_args: expected a JSON object, {error}") from error
    if not isinstance(arguments, dict):
        raise StartError(f"vllm_args: expected a JSON object, got {config.vllm_args}")
    if taken := sorted(_OURS & arguments.keys()):
        raise StartError(f"vllm_args: {', '.join(taken)} cannot be changed")
    return arguments


def check_names(arguments: Mapping[str, Any], known: Mapping[str, object]) -> None:
    """Return if vLLM knows every argument.

    Raises:
        StartError: it does not, with the name.
    """
    for name in arguments:
        if name not in known:
            raise StartError(f"vllm_args: this release of vLLM has no argument {name!r}")
