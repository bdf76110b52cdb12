"""A vLLM engine from a folder with middle layers: processes started, facts checked."""

import contextlib
import importlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from cloud_server.config import CloudConfig
from cloud_server.engines.vllm.arguments import check_names, engine_arguments
from cloud_server.engines.vllm.classes import CPU_WIDTH, MiddleClass
from cloud_server.engines.vllm.engine import EngineShape, VllmMiddleEngine
from cloud_server.engines.vllm.exchange.rows import ExchangeShape
from cloud_server.engines.vllm.exchange.scratch import (
    clear,
    files_in,
    forget_shared_memory,
    sockets_folder,
)
from cloud_server.engines.vllm.exchange.shared_rows import RowPaths, SharedRows, share_rows
from cloud_server.engines.vllm.facts import WorkerFacts, check_facts, installed_version
from cloud_server.engines.vllm.paged_cache import PagedCache
from cloud_server.engines.vllm.processes import ProcessWorkers, answering_rank
from process.errors import PassingError, StartError
from wire.limits import ITEM_BYTES
from wire.messages import Dtype
from wire.numbers import NUMPY_DTYPES

_log = logging.getLogger(__name__)

_LEAST_QUEUE_MIB = 24

_BEFORE_IMPORT = MappingProxyType(
    {
        "HF_HUB_OFFLINE": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "PYTHONWARNINGS": "ignore::FutureWarning,ignore::DeprecationWarning",
        # Forking a process with threads and an event loop would copy their locks.
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        # Workers that have lost one of them do not end by themselves.
        "VLLM_WORKER_SHUTDOWN_TIMEOUT_SECONDS": "1",
    }
)
"""Variables that vLLM reads when it is first imported, or later, in its workers too."""


_FOR_ALL_HEADS = "TRITON_ATTN"
"""The attention on GPUs that has kernels for heads of every size."""


@dataclass(frozen=True, slots=True)
class StartedEngine:
    """An engine with its processes; `close` ends them."""

    engine: VllmMiddleEngine
    workers: ProcessWorkers
    facts: list[WorkerFacts]
    version: str
    close: Callable[[], None]


def start_engine(
    folder: Path,
    config: CloudConfig,
    shape: EngineShape,
    kv_memory_bytes: int | None,
    middle: MiddleClass,
) -> StartedEngine:
    """Start vLLM's processes over a folder with a middle's config.json and weights.

    `shape.dtype` is what the settings and the weights ask for. `kv_memory_bytes` is what each
    worker sets aside for KV, None: what vLLM chooses. Takes seconds to minutes.

    Raises:
        StartError: vLLM is missing, of another release, or refuses the model or the settings.
    """
    version = installed_version()
    with contextlib.ExitStack() as undo:
        undo.callback(clear)
        core = _engine_core(_arguments(folder, config, shape, kv_memory_bytes, middle))
        undo.callback(core.shutdown)
        forget_shared_memory()
        executor = core.model_executor
        facts = cast("list[WorkerFacts]", executor.collective_rpc("hat_facts"))
        check_facts(facts)
        expected, got = NUMPY_DTYPES[shape.dtype].name, facts[0].dtype
        if got != expected:
            raise StartError(f"engine vllm: expected rows in {expected}, got {got}")
        workers = ProcessWorkers(
            executor,
            config.pipeline_parallel_size,
            config.tensor_parallel_size,
            _shared_rows(executor, config, shape),
        )
        engine = VllmMiddleEngine(workers, shape, _cache(facts, config, shape))
        return StartedEngine(engine, workers, facts, version, undo.pop_all().close)


def run_workers(
    folder: Path,
    config: CloudConfig,
    shape: EngineShape,
    kv_memory_bytes: int | None,
    middle: MiddleClass,
) -> None:
    """This machine's workers of an engine that machine 0 drives, until one of them ends.

    Raises:
        StartError: as for `start_engine`.
    """
    installed_version()
    arguments = _arguments(folder, config, shape, kv_memory_bytes, middle)
    engine_args = _vllm("vllm.engine.arg_utils").EngineArgs
    executors = _vllm("vllm.v1.executor.multiproc_executor")
    with contextlib.ExitStack() as undo:
        undo.callback(clear)
        with _refusals_explained(), files_in(sockets_folder()):
            settings = engine_args(**arguments).create_engine_config(headless=True)
            executor = executors.MultiprocExecutor(settings, monitor_workers=False)
        undo.callback(executor.shutdown)
        forget_shared_memory()
        executor.start_worker_monitor(inline=True)


def is_cpu_build() -> bool:
    """Whether the vLLM that is installed computes on processors.

    Raises:
        StartError: none is installed.
    """
    _set_defaults(_BEFORE_IMPORT)
    return bool(_vllm("vllm.platforms").current_platform.is_cpu())


def _arguments(
    folder: Path,
    config: CloudConfig,
    shape: EngineShape,
    kv_memory_bytes: int | None,
    middle: MiddleClass,
) -> dict[str, Any]:
    num_workers = config.tensor_parallel_size * config.pipeline_parallel_size
    _set_environment(shape, num_workers // config.nnodes)
    is_cpu = is_cpu_build()
    if is_cpu:
        _check_kernels(middle)
    arguments = engine_arguments(folder, config, shape, kv_memory_bytes, middle.overrides)
    if len(middle.head_dims) > 1 and not is_cpu and "attention_config" not in arguments:
        # vLLM would choose for each size by itself; for its own Gemma 4 it takes one for both too.
        arguments.setdefault("attention_backend", _FOR_ALL_HEADS)
    check_names(arguments, _vllm("vllm.engine.arg_utils").EngineArgs.__dataclass_fields__)
    return arguments


def _check_kernels(middle: MiddleClass) -> None:
    """vLLM's workers would say the same, each in a trace of its own."""
    attention = _vllm("vllm.v1.attention.backends.cpu_attn").CPUAttentionBackend
    sizes = attention.get_supported_head_sizes()
    for head_dim in middle.head_dims:
        if head_dim not in sizes:
            expected = ", ".join(map(str, sizes))
            raise StartError(
                f"engine vllm: on a CPU it has kernels for heads of {expected} numbers, the "
                f"model's have {head_dim}; use torch"
            )
    for width in middle.expert_widths:
        if width % CPU_WIDTH:
            raise StartError(
                f"engine vllm: on a CPU experts have to be a multiple of {CPU_WIDTH} wide in each "
                f"worker, got {width}; use torch"
            )


def _shared_rows(executor: Any, config: CloudConfig, shape: EngineShape) -> SharedRows | None:
    """Memory shared with the workers, if all of them are on this machine and there is some."""
    if config.nnodes > 1 or config.distributed_executor_backend != "mp":
        return None
    item = "uint16" if shape.dtype is Dtype.BF16 else NUMPY_DTYPES[shape.dtype].name
    num_slots, num_first = config.pipeline_parallel_size, config.tensor_parallel_size
    wanted = ExchangeShape(num_slots, shape.max_step_tokens, shape.hidden_size, item)

    def attach(paths: RowPaths) -> None:
        executor.collective_rpc("hat_attach", args=(paths,))

    try:
        return share_rows(wanted, num_first, answering_rank(num_slots, num_first), attach)
    except OSError as error:
        _log.warning("rows are sent to the workers, no shared memory: %s", error)
        return None


def _cache(facts: list[WorkerFacts], config: CloudConfig, shape: EngineShape) -> PagedCache:
    block_tokens = facts[0].block_tokens[0]
    # vLLM's block 0 is for padding.
    num_blocks = min(each.num_blocks for each in facts) - 1
    if config.capacity_tokens is not None:
        wanted = -(-config.capacity_tokens // block_tokens)
        if wanted > num_blocks:
            raise StartError(
                f"capacity_tokens {config.capacity_tokens}: vLLM has room for "
                f"{num_blocks * block_tokens}; raise gpu_memory_utilization or kv_cache_memory"
            )
        num_blocks = wanted
    return PagedCache(num_blocks, block_tokens, shape.max_context_tokens)


def _engine_core(arguments: dict[str, Any]) -> Any:
    engine_args = _vllm("vllm.engine.arg_utils").EngineArgs
    core, abstract = _vllm("vllm.v1.engine.core"), _vllm("vllm.v1.executor.abstract")
    with _refusals_explained(), files_in(sockets_folder()):
        settings = engine_args(**arguments).create_engine_config()
        return core.EngineCore(settings, abstract.Executor.get_class(settings), log_stats=False)


@contextlib.contextmanager
def _refusals_explained() -> Iterator[None]:
    """vLLM's own complaints as lines for the operator."""
    try:
        yield
    except (ValueError, TypeError, AssertionError, NotImplementedError) as error:
        raise StartError(f"engine vllm refuses: {_reason(error)}") from error
    except Exception as error:
        reason = f"{_reason(error)} (lines of the workers above this one say more)"
        raise PassingError(f"engine vllm did not start: {reason}") from error


def _set_environment(shape: EngineShape, num_workers: int) -> None:
    """What vLLM reads from the environment, in this process and in its workers."""
    step_bytes = shape.max_step_tokens * shape.hidden_size * ITEM_BYTES[shape.dtype]
    # A step's rows go through a shared ring; larger ones would take a socket.
    queue_mib = max(_LEAST_QUEUE_MIB, 2 + 2 * step_bytes // (1 << 20))
    own = {
        "VLLM_RPC_BASE_PATH": str(sockets_folder()),
        "VLLM_MQ_MAX_CHUNK_BYTES_MB": str(queue_mib),
    }
    _set_defaults({**_BEFORE_IMPORT, **own})
    if num_workers > 1 and is_cpu_build():
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", _core_shares(num_workers))


def _set_defaults(values: Mapping[str, str]) -> None:
    for name, value in values.items():
        os.environ.setdefault(name, value)


def _core_shares(num_workers: int) -> str:
    """This machine's cores dealt out to workers on CPUs; vLLM would want a NUMA node for each."""
    cores = sorted(os.sched_getaffinity(0))
    share = max(1, len(cores) // num_workers)
    starts = [index * share % len(cores) for index in range(num_workers)]
    return "|".join(",".join(map(str, cores[start : start + share])) for start in starts)


def _vllm(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        advice = "pip install 'hat-serving[vllm]'"
        raise StartError(f"the engine needs vLLM ({error}): {advice}") from error


def _reason(error: Exception) -> str:
    """One line of what it says. pydantic counts first; behind why stand its own marks."""
    lines = str(error).strip().splitlines()
    if len(lines) > 1 and " validation error" in lines[0]:
        return lines[1].strip().split(" [type=")[0]
    return lines[0] if lines else type(error).__name__
