"""The torch engine of a cloud bundle: device, number format, threads and capacity chosen."""

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import replace

import torch

from cloud_server.config import CloudConfig, context_tokens
from cloud_server.engines.host_memory import available_bytes
from cloud_server.engines.loading import LoadedEngine
from cloud_server.engines.sizing import (
    KvDemand,
    check_weights_fit,
    choose_capacity,
    least_kv_bytes,
)
from cloud_server.engines.torch.engine import EngineLimits
from cloud_server.engines.torch.linear import why_not_packed
from cloud_server.engines.torch.loading import EnginePlan, LayerTensors, build_engine, tensor_dtype
from cloud_server.engines.torch.probe import measured_format, num_weights
from cloud_server.engines.torch.rows import torch_dtype
from cloud_server.number_format import (
    FORMATS,
    FormatChoice,
    Room,
    given_format,
    is_open,
)
from process.errors import PassingError, StartError
from submodels.bundle.bundle import Bundle
from submodels.bundle.layer_weights import Placed
from submodels.tensors.tensor_layout import Part, layer_name, layer_tensor_shapes
from wire.limits import ITEM_BYTES
from wire.messages import Dtype

_log = logging.getLogger(__name__)


def load_torch_engine(bundle: Bundle, config: CloudConfig) -> LoadedEngine:
    """The bundle's middle layers, ready on the chosen device.

    To be called in the thread that will use the engine: the number of threads is set there too.

    Raises:
        StartError: a device, context or capacity that this model or machine does not have.
        SplitError: a number that does not fit the format asked for.
    """
    threads = default_threads() if config.threads is None else config.threads
    torch.set_num_threads(threads)
    plan = _plan(bundle, config)
    limits = _limits(plan, config)
    engine = build_engine(plan, limits, _layer_tensors(bundle, plan))
    kv_bytes = plan.kv_shape.bytes_per_token
    # On a processor the cache grows as it is used.
    kv_host_bytes = engine.capacity_tokens * kv_bytes if plan.device.type == "cpu" else 0
    return LoadedEngine(engine, _description(plan, threads), kv_bytes, kv_host_bytes=kv_host_bytes)


def default_threads() -> int:
    """One core is left to the event loop; with a single core the two share it."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)) - 1)
    return max(1, (os.cpu_count() or 1) - 1)


def _description(plan: EnginePlan, threads: int) -> str:
    if plan.device.type != "cpu":
        return f"torch on {plan.device}"
    weights = "packed" if plan.packed else "plain"
    return f"torch on cpu, threads {threads}, {weights} weights"


def _plan(bundle: Bundle, config: CloudConfig) -> EnginePlan:
    manifest = bundle.manifest
    device = _device(config.device)
    plan = EnginePlan(
        shape=manifest.shape,
        first_layer=manifest.num_input_layers,
        num_layers=manifest.num_middle_layers,
        dtype=FORMATS[manifest.dtype],
        device=device,
        packed=False,
    )
    choice = _choice(plan, config)
    _log.info("number format %s", choice.reason)
    reason = why_not_packed(device, torch_dtype(choice.dtype))
    if reason is not None and device.type == "cpu":
        _log.warning("weights are not packed, which costs speed: %s", reason)
    return replace(plan, dtype=choice.dtype, packed=reason is None)


def _device(text: str) -> torch.device:
    has_cuda = torch.cuda.is_available()
    if text == "auto":
        return torch.device("cuda" if has_cuda else "cpu")
    expected = "auto, cpu, cuda or cuda:N"
    try:
        device = torch.device(text)
    except RuntimeError as error:
        raise StartError(f"device: expected {expected}, got {text!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise StartError(f"device: expected {expected}, got {text!r}")
    if device.type == "cuda" and not has_cuda:
        raise PassingError(f"device {text}: no CUDA GPU that this torch can use")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise StartError(f"device {text}: this machine has {torch.cuda.device_count()} GPUs")
    return device


def _choice(stored: EnginePlan, config: CloudConfig) -> FormatChoice:
    """The engine's number format, for a plan in the bundle's own."""
    if not is_open(config.dtype, stored.dtype, is_cpu=stored.device.type == "cpu"):
        return given_format(config.dtype, stored.dtype)
    wide = replace(stored, dtype=Dtype.FP32)
    context = context_tokens(config, stored.shape.max_context_tokens)
    kv_bytes = least_kv_bytes(_kv_demand(wide, config, context), context)
    room = Room(_weight_bytes(wide) + kv_bytes, _free_bytes(stored.device))
    layers = (stored.shape, stored.layers, stored.dtype)
    return measured_format(*layers, room, time.perf_counter)


def _limits(plan: EnginePlan, config: CloudConfig) -> EngineLimits:
    """Capacity and context, after a look at what the weights leave."""
    context = context_tokens(config, plan.shape.max_context_tokens)
    free_bytes = _free_bytes(plan.device)
    weight_bytes = _weight_bytes(plan)
    check_weights_fit(weight_bytes, free_bytes)
    capacity = choose_capacity(_kv_demand(plan, config, context), free_bytes - weight_bytes)
    return EngineLimits(capacity, min(context, capacity))


def _kv_demand(plan: EnginePlan, config: CloudConfig, context: int) -> KvDemand:
    return KvDemand(
        bytes_per_token=plan.kv_shape.bytes_per_token,
        useful_tokens=config.max_sessions * context,
        capacity_tokens=config.capacity_tokens,
    )


def _free_bytes(device: torch.device) -> int:
    if device.type == "cpu":
        return available_bytes()
    return int(torch.cuda.mem_get_info(device)[0])


def _weight_bytes(plan: EnginePlan) -> int:
    return num_weights(plan.shape, plan.layers) * ITEM_BYTES[plan.dtype]


def _layer_tensors(bundle: Bundle, plan: EnginePlan) -> LayerTensors:
    """Reads one layer at a time from the memory-mapped file, straight to its place."""
    file = bundle.open_tensors(Part.MIDDLE)

    def layer_tensors(index: int) -> Mapping[str, torch.Tensor]:
        names = layer_tensor_shapes(plan.shape.of_layer(plan.first_layer + index))
        placed = {name: Placed(tensor_dtype(plan, name), plan.device) for name in names}
        return {name: placed[name].tensor(file.read(layer_name(index, name))) for name in names}

    return layer_tensors
