"""Which settings belong to which engine: what an engine would ignore is refused."""

import dataclasses
from typing import Final

from cloud_server.config import CloudConfig
from process.errors import StartError

VLLM_ONLY: Final = (
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "nnodes",
    "node_rank",
    "master_addr",
    "master_port",
    "distributed_executor_backend",
    "gpu_memory_utilization",
    "kv_cache_memory",
    "quantization",
    "vllm_args",
)


def context_tokens(config: CloudConfig, model_context: int) -> int:
    """The longest session: the model's, or what was asked for.

    Raises:
        StartError: more was asked for than the model was made for.
    """
    context = config.max_context_tokens or model_context
    if context > model_context:
        raise StartError(
            f"max_context_tokens {context}: this model was made for at most {model_context}"
        )
    return context


def check_torch_settings(config: CloudConfig) -> None:
    """Return if nothing was set that the engine torch does not know.

    Raises:
        StartError: something was.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for name in VLLM_ONLY:
        value = getattr(config, name)
        if value != defaults[name]:
            raise StartError(f"{name} {value}: only engine vllm has this setting")


def check_vllm_settings(config: CloudConfig) -> None:
    """Return if nothing was set that the engine vllm does not know, and its nodes make sense.

    Raises:
        StartError: something was, or they do not.
    """
    if config.device != "auto":
        raise StartError(f"device {config.device}: engine vllm takes what vLLM was built for")
    if config.threads is not None:
        raise StartError("threads: engine vllm binds its own, see VLLM_CPU_OMP_THREADS_BIND")
    if config.node_rank >= config.nnodes:
        raise StartError(
            f"node_rank {config.node_rank}: expected less than nnodes, {config.nnodes}"
        )
    num_workers = config.tensor_parallel_size * config.pipeline_parallel_size
    if num_workers % config.nnodes:
        raise StartError(
            f"nnodes {config.nnodes}: expected a divisor of the {num_workers} workers"
            " (tensor_parallel_size times pipeline_parallel_size)"
        )
