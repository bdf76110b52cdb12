"""How long a middle takes in a number format, from products of its shapes on this machine.

Some products of random numbers stand for all layers: linear layers over weights that do not fit
the processor's caches, as those of a model do not, and attention of one KV head.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch

from cloud_server.engines.torch.attention import HeadLayout, MatmulAttention, plan_blocks
from cloud_server.engines.torch.linear import Linear, make_linear, why_not_packed
from cloud_server.engines.torch.rows import torch_dtype
from cloud_server.number_format import (
    PROMPT_ROWS,
    ROUND_ROWS,
    FormatChoice,
    FormatTimes,
    Room,
    choose_format,
    no_room_for_float32,
)
from submodels.manifest import ModelShape
from submodels.tensors.tensor_layout import layer_tensor_shapes
from wire.messages import Dtype

Clock = Callable[[], float]

_LAYER_WEIGHTS: Final = 1 << 20
"""Of one product: 256 rows then take 0.1 s where bfloat16 is slow (5 GFLOP a second)."""

_ALL_WEIGHTS: Final = 1 << 24
"""That a few rows are multiplied with: 64 MiB in float32, to be read from memory each time."""

_ATTENTION_ROWS: Final = 64
_CONTEXT: Final = 512
_MIN_PASSES, _MAX_PASSES = 2, 6
_MAX_MEASURED_S: Final = 0.6


@dataclass(frozen=True, slots=True)
class _Products:
    """What is timed in one number format; each call runs it once."""

    prompt_linear: Callable[[], object]
    round_linear: Callable[[], object]
    prompt_attention: Callable[[], object]
    round_attention: Callable[[], object]

    def all(self) -> list[Callable[[], object]]:
        return [
            self.prompt_linear,
            self.round_linear,
            self.prompt_attention,
            self.round_attention,
        ]


def num_weights(shape: ModelShape, layers: range) -> int:
    """Numbers of these decoder layers."""
    counted = Counter(shape.of_layer(layer) for layer in layers)
    return sum(
        times * sum(math.prod(size) for size in layer_tensor_shapes(each).values())
        for each, times in counted.items()
    )


def measured_format(
    shape: ModelShape, layers: range, stored: Dtype, room: Room, clock: Clock
) -> FormatChoice:
    """The format for these layers on this machine; measured only if float32 fits at all."""
    if not room.is_enough:
        return no_room_for_float32(stored, room)
    times = measure_formats(shape, layers, (stored, Dtype.FP32), clock)
    return choose_format(stored, times, room)


@torch.inference_mode()
def measure_formats(
    shape: ModelShape, layers: range, dtypes: Sequence[Dtype], clock: Clock
) -> dict[Dtype, FormatTimes]:
    """Seconds of these layers in each format; where heads differ, those of the first stand for all.

    The formats take turns, and of several passes the fastest counts, since others use the machine
    too. Takes below a second. Threads are those of the calling thread's torch.
    """
    all_weights = num_weights(shape, layers)
    shape = shape.of_layer(layers.start)
    out_size, in_size = _cut(shape)
    num_copies = max(1, min(_ALL_WEIGHTS, all_weights) // (out_size * in_size))
    products = {dtype: _products(shape, out_size, in_size, num_copies, dtype) for dtype in dtypes}
    best = _best_times(products, clock)
    whole_prompt = all_weights / (out_size * in_size)
    whole_round = whole_prompt / num_copies
    num_heads = len(layers) * shape.num_key_value_heads
    prompt_heads = num_heads * PROMPT_ROWS / _ATTENTION_ROWS
    return {
        dtype: FormatTimes(
            times[0] * whole_prompt + times[2] * prompt_heads,
            times[1] * whole_round + times[3] * num_heads,
        )
        for dtype, times in best.items()
    }


def _cut(shape: ModelShape) -> tuple[int, int]:
    """A layer of the MLP's, cut to what is measured: outputs and inputs."""
    in_size = min(shape.hidden_size, 1024)
    return max(1, min(shape.intermediate_size, _LAYER_WEIGHTS // in_size)), in_size


def _products(
    shape: ModelShape, out_size: int, in_size: int, num_copies: int, dtype: Dtype
) -> _Products:
    number = torch_dtype(dtype)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(out_size, in_size, generator=generator).mul_(in_size**-0.5).to(number)
    packed = why_not_packed(torch.device("cpu"), number) is None
    layers = [make_linear(weight.clone(), None, packed) for _ in range(num_copies)]
    rows = torch.randn(PROMPT_ROWS, in_size, generator=generator).to(number)
    return _Products(
        partial(_run_layers, layers[:1], rows),
        partial(_run_layers, layers, rows[:ROUND_ROWS]),
        _attention(shape, _ATTENTION_ROWS, number),
        _attention(shape, ROUND_ROWS, number),
    )


def _run_layers(layers: Sequence[Linear], rows: torch.Tensor) -> None:
    for layer in layers:
        layer(rows)


def _attention(shape: ModelShape, num_rows: int, number: torch.dtype) -> Callable[[], object]:
    """One KV head's attention of the last rows of a context."""
    group = shape.num_attention_heads // shape.num_key_value_heads
    layout = HeadLayout(1, group)
    blocks = plan_blocks(_CONTEXT - num_rows, num_rows, None, layout, torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    sizes = ((num_rows * group, shape.head_dim), (shape.head_dim, _CONTEXT))
    queries, keys, values = (
        torch.randn(1, *size, generator=generator).to(number)
        for size in (*sizes, (_CONTEXT, shape.head_dim))
    )
    return partial(MatmulAttention().attend, queries, keys, values, blocks[0])


def _best_times(products: dict[Dtype, _Products], clock: Clock) -> dict[Dtype, list[float]]:
    """The least seconds of each product in each format, over passes through all of them."""
    best = {dtype: [float("inf")] * 4 for dtype in products}
    started_s = clock()
    for num_passes in range(_MAX_PASSES):
        if num_passes >= _MIN_PASSES and clock() - started_s > _MAX_MEASURED_S:
            break
        for index in range(4):
            for dtype, each in products.items():
                begun_s = clock()
                each.all()[index]()
                best[dtype][index] = min(best[dtype][index], clock() - begun_s)
    return best
