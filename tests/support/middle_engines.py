"""The middle engines that must keep the contract, each made for a tiny model."""

import contextlib
import threading
import weakref
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cloud_server.engines.engine import MiddleEngine, StepItem
from cloud_server.engines.hosting.calls import facts_of
from cloud_server.engines.hosting.channel import Channel, make_ends
from cloud_server.engines.hosting.child import answer_calls
from cloud_server.engines.hosting.engine import HostedEngine
from cloud_server.engines.loading import LoadedEngine
from cloud_server.engines.torch import linear as torch_linear
from cloud_server.engines.torch.attention import Attention, FusedAttention, MatmulAttention
from cloud_server.engines.torch.engine import EngineLimits
from cloud_server.engines.torch.linear import why_not_packed
from cloud_server.engines.torch.loading import EnginePlan, build_engine
from cloud_server.engines.torch.rows import rows_of, torch_dtype
from tests.support.middle_models import FIRST_LAYER, MAX_CONTEXT, NUM_MIDDLE_LAYERS, MiddleModel
from tests.support.vllm_engines import PARALLEL, Parallel, vllm_engine
from wire.messages import Dtype, Want
from wire.numbers import NUMPY_DTYPES

CAPACITY_TOKENS = 4000

EngineFactory = Callable[[MiddleModel, Dtype], MiddleEngine]


def torch_engine(
    middle: MiddleModel,
    dtype: Dtype = Dtype.FP32,
    attention: Attention | None = None,
    device: str = "cpu",
    packed: bool = False,
) -> MiddleEngine:
    """The embedded engine over a tiny model's middle layers."""
    plan = EnginePlan(
        shape=middle.shape,
        first_layer=FIRST_LAYER,
        num_layers=NUM_MIDDLE_LAYERS,
        dtype=dtype,
        device=torch.device(device),
        packed=packed,
        attention=attention,
    )
    limits = EngineLimits(CAPACITY_TOKENS, MAX_CONTEXT)
    return build_engine(plan, limits, middle.layer_tensors)


def shortened_engine(middle: MiddleModel, num_layers: int) -> MiddleEngine:
    """The embedded engine over the first of the middle layers alone, float32."""
    plan = EnginePlan(
        shape=middle.shape,
        first_layer=FIRST_LAYER,
        num_layers=num_layers,
        dtype=Dtype.FP32,
        device=torch.device("cpu"),
        packed=False,
    )
    return build_engine(plan, EngineLimits(CAPACITY_TOKENS, MAX_CONTEXT), middle.layer_tensors)


def packed_torch_engine(middle: MiddleModel, dtype: Dtype) -> MiddleEngine:
    """As a CPU runs a larger model: every weight packed, where the machine can."""
    can_pack = why_not_packed(torch.device("cpu"), torch_dtype(dtype)) is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_linear, "_MIN_PACKED_FLOAT32_ELEMENTS", 0)
        return torch_engine(middle, dtype, packed=can_pack)


def hosted_torch_engine(middle: MiddleModel, dtype: Dtype) -> MiddleEngine:
    """As a daemon has it, but that the other end of the channel is a thread of this process."""
    ours, theirs = map(Channel, make_ends())
    loaded = LoadedEngine(torch_engine(middle, dtype), "torch", 0)

    def answer() -> None:
        with contextlib.suppress(EOFError):
            answer_calls(theirs, loaded.engine)

    threading.Thread(target=answer, daemon=True).start()
    engine = HostedEngine(ours, facts_of(loaded), lambda: "its thread has ended")
    weakref.finalize(engine, ours.close)
    return engine


def _vllm_factory(parallel: Parallel) -> EngineFactory:
    return lambda middle, dtype: vllm_engine(middle, dtype, parallel, CAPACITY_TOKENS)


ENGINES: Mapping[str, EngineFactory] = MappingProxyType(
    {
        "torch-matmul": lambda middle, dtype: torch_engine(middle, dtype, MatmulAttention()),
        "torch-fused": lambda middle, dtype: torch_engine(middle, dtype, FusedAttention()),
        "torch-hosted": hosted_torch_engine,
        "torch-packed": packed_torch_engine,
        "torch-cuda": lambda middle, dtype: torch_engine(middle, dtype, device="cuda"),
        **{f"vllm-{name}": _vllm_factory(parallel) for name, parallel in PARALLEL.items()},
    }
)


def as_rows(states: torch.Tensor, dtype: Dtype) -> NDArray[np.generic]:
    """Rows `[T, H]` in an engine's number format."""
    return rows_of(states.to(torch_dtype(dtype)).contiguous())


def run_one(
    engine: MiddleEngine,
    sequence: int,
    position: int,
    rows: NDArray[np.generic],
    want: Want = Want.ALL,
) -> NDArray[np.generic]:
    """A step with a single item."""
    return engine.step([StepItem(sequence, position, rows, want)])[0]


def random_rows(engine: MiddleEngine, num_rows: int, seed: int) -> NDArray[np.generic]:
    """Seeded Gaussian rows in the engine's number format."""
    generator = np.random.default_rng(seed)
    rows = generator.standard_normal((num_rows, engine.hidden_size)).astype(np.float32)
    return rows.astype(NUMPY_DTYPES[engine.dtype])


def assert_near(rows: NDArray[Any], expected: NDArray[Any]) -> None:
    """Equal but for the order of float32 additions, whose error grows with the largest number."""
    largest = max(1.0, float(np.abs(expected).max(initial=0.0)))
    np.testing.assert_allclose(rows, expected, rtol=1e-5, atol=4e-6 * largest)


def family_of(engine_name: str) -> str:
    """The model that an engine is tried with where any will do."""
    return "qwen2-plain" if engine_name.startswith("vllm") else "qwen2"
