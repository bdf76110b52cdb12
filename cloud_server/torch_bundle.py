"""The torch engine of a cloud bundle: device, number format, threads and capacity chosen."""

import logging
import os
from collections.abc import Mapping

import torch

from cloud_server.config import CloudConfig
from cloud_server.engine_settings import ENGINE_DTYPES, context_tokens
from cloud_server.errors import ConfigError
from cloud_server.host_memory import available_bytes
from cloud_server.kv_sizing import KvDemand, check_weights_fit, choose_capacity
from cloud_server.loaded_engine import LoadedEngine
from cloud_server.torch_engine import EngineLimits
from cloud_server.torch_linear import why_not_packed
from cloud_server.torch_loading import EnginePlan, LayerTensors, build_engine
from cloud_server.torch_rows import torch_dtype
from submodels.bundle import Bundle
from submodels.errors import SplitError
from submodels.layer_weights import Placed
from submodels.tensor_layout import Part, layer_name, layer_tensor_shapes
from wire.limits import ITEM_BYTES
from wire.messages import Dtype

_log = logging.getLogger(__name__)


def load_torch_engine(bundle: Bundle, config: CloudConfig) -> LoadedEngine:
    """The bundle's middle layers, ready on the chosen device.

    To be called in the thread that will use the engine: the number of threads is set there too.

    Raises:
        ConfigError: a device, context or capacity that this model or machine does not have.
    """
    threads = default_threads() if config.threads is None else config.threads
    torch.set_num_threads(threads)
    plan = _plan(bundle, config)
    limits = _limits(plan, config)
    try:
        engine = build_engine(plan, limits, _layer_tensors(bundle, plan))
    except SplitError as error:
        raise ConfigError(str(error)) from error
    return LoadedEngine(engine, _description(plan, threads), plan.kv_shape.bytes_per_token)


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
    dtype = _dtype(config.dtype, manifest.dtype, device)
    reason = why_not_packed(device, torch_dtype(dtype))
    if reason is not None and device.type == "cpu":
        _log.warning("weights are not packed, which costs speed: %s", reason)
    return EnginePlan(
        shape=manifest.shape,
        first_layer=manifest.num_input_layers,
        num_layers=manifest.num_middle_layers,
        dtype=dtype,
        device=device,
        packed=reason is None,
    )


def _device(text: str) -> torch.device:
    has_cuda = torch.cuda.is_available()
    if text == "auto":
        return torch.device("cuda" if has_cuda else "cpu")
    expected = "auto, cpu, cuda or cuda:N"
    try:
        device = torch.device(text)
    except RuntimeError as error:
        raise ConfigError(f"device: expected {expected}, got {text!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device: expected {expected}, got {text!r}")
    if device.type == "cuda" and not has_cuda:
        raise ConfigError(f"device {text}: no CUDA GPU that this torch can use")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device {text}: this machine has {torch.cuda.device_count()} GPUs")
    return device


def _dtype(asked: str, stored: str, device: torch.device) -> Dtype:
    """The engine's number format: the bundle's own, unless that would crawl.

    float16 on a CPU has no fast kernels (attention was 50 times slower than in float32); every
    float16 number is a float32 number, so widening changes no weight.
    """
    if asked != "auto":
        return ENGINE_DTYPES[asked]
    if stored == "float16" and device.type == "cpu":
        _log.info("float16 weights run in float32 on a CPU")
        return Dtype.FP32
    return ENGINE_DTYPES[stored]


def _limits(plan: EnginePlan, config: CloudConfig) -> EngineLimits:
    """Capacity and context, after a look at what the weights leave."""
    context = context_tokens(config, plan.shape.max_context_tokens)
    free_bytes = _free_bytes(plan.device)
    weight_bytes = _weight_bytes(plan)
    check_weights_fit(weight_bytes, free_bytes)
    demand = KvDemand(
        bytes_per_token=plan.kv_shape.bytes_per_token,
        useful_tokens=config.max_sessions * context,
        capacity_tokens=config.capacity_tokens,
    )
    capacity = choose_capacity(demand, free_bytes - weight_bytes)
    return EngineLimits(capacity, min(context, capacity))


def _free_bytes(device: torch.device) -> int:
    if device.type == "cpu":
        return available_bytes()
    return int(torch.cuda.mem_get_info(device)[0])


def _weight_bytes(plan: EnginePlan) -> int:
    shapes = layer_tensor_shapes(plan.shape).values()
    num_numbers = sum(torch.Size(shape).numel() for shape in shapes)
    return num_numbers * plan.num_layers * ITEM_BYTES[plan.dtype]


def _layer_tensors(bundle: Bundle, plan: EnginePlan) -> LayerTensors:
    """Reads one layer at a time from the memory-mapped file, straight to its place."""
    file = bundle.open_tensors(Part.MIDDLE)
    names = tuple(layer_tensor_shapes(plan.shape))
    placed = Placed(torch_dtype(plan.dtype), plan.device)

    def layer_tensors(index: int) -> Mapping[str, torch.Tensor]:
        return {name: placed.tensor(file.read(layer_name(index, name))) for name in names}

    return layer_tensors
