"""The vLLM engine of a cloud bundle: lengths, number format and memory chosen, then started."""

import logging
import signal
import sys
import threading
import time
from types import FrameType

from cloud_server.config import CloudConfig, check_vllm_settings, context_tokens
from cloud_server.engines.host_memory import available_bytes
from cloud_server.engines.loading import LoadedEngine
from cloud_server.engines.vllm.classes import MiddleClass, middle_class
from cloud_server.engines.vllm.engine import EngineShape
from cloud_server.engines.vllm.kept import check_kept_here
from cloud_server.engines.vllm.start import (
    StartedEngine,
    is_cpu_build,
    run_workers,
    start_engine,
)
from cloud_server.number_format import FORMATS, FormatChoice, Room, given_format, is_open
from process.errors import StartError
from submodels.bundle.bundle import Bundle, load_bundle
from submodels.manifest import Manifest
from wire.limits import ITEM_BYTES
from wire.messages import Dtype

_log = logging.getLogger(__name__)

_MOST_BLOCK_TOKENS = 128
"""The largest KV block that vLLM chooses by itself."""

_PAUSE_S = 2.0
"""Before workers are started again: machine 0 has to notice that they are gone."""


def load_vllm_engine(bundle: Bundle, config: CloudConfig) -> LoadedEngine:
    """The bundle's middle layers in vLLM's processes.

    Raises:
        StartError: vLLM is missing, or it, the bundle and the settings do not go together.
    """
    middle, shape, kv_bytes = _checked(bundle, config)
    kv_memory_bytes = _kv_memory_bytes(config, kv_bytes)
    started = start_engine(bundle.path, config, shape, kv_memory_bytes, middle)
    _log.info("vLLM is up: %s", _facts_line(started))
    kv_host_bytes = started.engine.capacity_tokens * kv_bytes if is_cpu_build() else 0
    return LoadedEngine(
        started.engine,
        _description(config, started),
        kv_bytes,
        close=started.close,
        kv_host_bytes=kv_host_bytes,
        why_lost=lambda: "a worker has ended" if started.workers.are_lost else None,
    )


def follow(config: CloudConfig) -> None:
    """Only compute for machine 0, to which devices connect, until SIGTERM or SIGINT.

    This machine's workers are started again whenever they end. They end when any worker of the
    engine does, on whichever machine: machine 0 then loads its own again, and all of them meet at
    `master_addr`.

    Raises:
        StartError: vLLM is missing, or it, the bundle and the settings do not go together.
        BundleError: there is no such bundle.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    bundle = load_bundle(config.bundle, "cloud", config.verify_weights, key=config.bundle_key)
    where = f"{config.master_addr}:{config.master_port}"
    while True:
        _log.info("machine %d of %d computes for %s", config.node_rank, config.nnodes, where)
        run_bundle_workers(bundle, config)
        _log.warning("the workers have ended; starting them again")
        threading.Event().wait(_PAUSE_S)


def run_bundle_workers(bundle: Bundle, config: CloudConfig) -> None:
    """This machine's share of the bundle's layers, until a worker ends.

    Raises:
        StartError: as for `load_vllm_engine`.
    """
    middle, shape, kv_bytes = _checked(bundle, config)
    run_workers(bundle.path, config, shape, _kv_memory_bytes(config, kv_bytes), middle)


def _leave(number: int, frame: FrameType | None) -> None:
    _log.info("%s: stopped", signal.Signals(number).name)
    sys.exit(0)


def kv_bytes_per_token(manifest: Manifest, dtype: Dtype) -> int:
    """Bytes of one position in all middle layers, keys and values, over all workers."""
    shape = manifest.shape
    return shape.num_cached(manifest.middle_layers) * ITEM_BYTES[dtype]


def _checked(bundle: Bundle, config: CloudConfig) -> tuple[MiddleClass, EngineShape, int]:
    """The layers' class, what they take, and the KV bytes of a position, if bundle and settings go
    together."""
    _check_folder(bundle)
    manifest = bundle.manifest
    _check_settings(config, manifest)
    if manifest.kept_quantisation is not None and is_cpu_build():
        check_kept_here(bundle.path)
    layers = manifest.middle_layers
    middle = middle_class(manifest.shape, layers, config.tensor_parallel_size)
    shape = _shape(manifest, config)
    return middle, shape, kv_bytes_per_token(manifest, shape.dtype)


def _check_folder(bundle: Bundle) -> None:
    """vLLM reads a whole folder: every safetensors file in it, and settings by their names."""
    unlisted = bundle.unlisted()
    if unlisted:
        raise StartError(
            f"engine vllm reads the whole folder, and {bundle.path / unlisted[0]} is not listed in "
            "hat.json; take it away"
        )


def _check_settings(config: CloudConfig, manifest: Manifest) -> None:
    check_vllm_settings(config)
    kept = manifest.kept_quantisation
    if kept is not None and config.quantization is not None:
        raise StartError(
            f"quantization {config.quantization}: the bundle's layers are {kept}'s already"
        )
    if config.pipeline_parallel_size > manifest.num_middle_layers:
        raise StartError(
            f"pipeline_parallel_size {config.pipeline_parallel_size}: expected at most one stage "
            f"per layer, the bundle has {manifest.num_middle_layers}"
        )
    heads = manifest.shape.num_attention_heads
    if heads % config.tensor_parallel_size:
        raise StartError(
            f"tensor_parallel_size {config.tensor_parallel_size}: expected a divisor of the "
            f"model's {heads} attention heads"
        )


def _shape(manifest: Manifest, config: CloudConfig) -> EngineShape:
    context = context_tokens(config, manifest.shape.max_context_tokens)
    choice = _format(manifest, config, context)
    _log.info("number format %s", choice.reason)
    return EngineShape(
        manifest.shape.hidden_size, choice.dtype, context, max(2, config.step_budget_tokens)
    )


def _format(manifest: Manifest, config: CloudConfig, context: int) -> FormatChoice:
    """The engine's number format; several nodes, which must agree, measure nothing."""
    stored = FORMATS[manifest.dtype]
    may_measure = is_open(config.dtype, stored, is_cpu=config.nnodes == 1)
    if manifest.kept_quantisation is not None or not (may_measure and is_cpu_build()):
        return given_format(config.dtype, stored)
    from cloud_server.engines.torch.probe import measured_format, num_weights

    shape, layers = manifest.shape, manifest.middle_layers
    kv_tokens = config.capacity_tokens or context
    needed_bytes = num_weights(shape, layers) * ITEM_BYTES[Dtype.FP32]
    needed_bytes += kv_tokens * kv_bytes_per_token(manifest, Dtype.FP32)
    room = Room(needed_bytes, available_bytes())
    return measured_format(shape, layers, stored, room, time.perf_counter)


def _kv_memory_bytes(config: CloudConfig, kv_bytes: int) -> int | None:
    """What a worker needs for the capacity that was asked for; None leaves it to vLLM."""
    if config.capacity_tokens is None or config.kv_cache_memory is not None:
        return config.kv_cache_memory
    # Its share of layers and heads may be rounded up to a layer, or to a head that is copied:
    # half as much again is room enough for all but the most lopsided split.
    num_blocks = -(-config.capacity_tokens // _MOST_BLOCK_TOKENS) + 2
    whole_bytes = num_blocks * _MOST_BLOCK_TOKENS * kv_bytes
    num_workers = config.tensor_parallel_size * config.pipeline_parallel_size
    return whole_bytes if num_workers == 1 else min(whole_bytes, 3 * whole_bytes // num_workers)


def _description(config: CloudConfig, started: StartedEngine) -> str:
    parallel = f"TP {config.tensor_parallel_size}, PP {config.pipeline_parallel_size}"
    attention = ", ".join(started.facts[0].attention)
    return f"{started.version} on {started.facts[0].device}, {parallel}, {attention}"


def _facts_line(started: StartedEngine) -> str:
    facts = started.facts[0]
    return (
        f"{len(started.facts)} workers, {facts.num_blocks} KV blocks of "
        f"{started.engine.block_tokens} tokens, runner {facts.runner}"
    )
