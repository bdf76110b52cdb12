"""Computed step times: what a machine reads and multiplies, over its rates times an efficiency.

A forward takes the longer of reading (weights once, cached keys and values once per row's
sequence) and multiplying (two operations per weight and row). Rates are the makers' dense FP16
figures; the efficiencies are assumptions, one place for all of them:

- memory 0.75;
- matrix products 0.55 on servers, 0.35 on Jetsons, at the sizes of a prompt's chunk;
- a fixed time per forward and stage for launches: 1 ms on servers (the paper measured 6.8 ms per
  stage of four A6000 for Vicuna-7B, of which reading takes 5.3 here), the same on
  Jetsons.

Sources: NVIDIA data sheets of A6000 (768 GB/s, 155 TFLOPS FP16 tensor, dense), H200 (4.8 TB/s,
989 TFLOPS), Jetson AGX Xavier (136.5 GB/s, 11 TFLOPS FP16) and AGX Orin 64 GB (204.8 GB/s,
42.5 TFLOPS FP16 tensor, dense).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from bench.sim.world.times import DeviceTimes
from chunking.cost import LinearTime
from cloud_server.core.actions import Step

_ITEM_BYTES = 2


_MEMORY_EFFICIENCY = 0.75
_FORWARD_S = 1e-3


@dataclass(frozen=True, slots=True)
class Machine:
    """One accelerator, by its memory and rates as sold and what of its products a decoder gets."""

    memory_bytes: float
    memory_bytes_per_s: float
    flops: float
    compute_efficiency: float

    def read_s(self, num_bytes: float) -> float:
        """Seconds to stream so many bytes."""
        return num_bytes / (self.memory_bytes_per_s * _MEMORY_EFFICIENCY)

    def multiply_s(self, num_flops: float) -> float:
        """Seconds for so many operations in large products."""
        return num_flops / (self.flops * self.compute_efficiency)


A6000 = Machine(48e9, 768e9, 155e12, 0.55)
H200 = Machine(141e9, 4.8e12, 989e12, 0.55)
SERVERS: Mapping[str, Machine] = MappingProxyType({"A6000": A6000, "H200": H200})
XAVIER = Machine(32e9, 136.5e9, 11e12, 0.35)
ORIN = Machine(64e9, 204.8e9, 42.5e12, 0.35)


@dataclass(frozen=True, slots=True)
class LargeModel:
    """A Llama, split: `num_input_layers` on the device, the head too."""

    name: str
    num_layers: int
    num_input_layers: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    kv_size: int
    """Numbers of a position's key in one layer: the hidden size, or less with shared heads."""

    @property
    def layer_params(self) -> int:
        """Weights of one decoder layer."""
        attention = 2 * self.hidden_size**2 + 2 * self.hidden_size * self.kv_size
        return attention + 3 * self.hidden_size * self.intermediate_size

    @property
    def head_params(self) -> int:
        """Weights of the output head."""
        return self.hidden_size * self.vocab_size

    @property
    def num_middle_layers(self) -> int:
        """Layers in the cloud."""
        return self.num_layers - self.num_input_layers

    @property
    def row_bytes(self) -> int:
        """A hidden state on the wire, FP16."""
        return self.hidden_size * _ITEM_BYTES

    def kv_bytes(self, num_layers: int) -> int:
        """Keys and values of one position."""
        return 2 * num_layers * self.kv_size * _ITEM_BYTES


VICUNA_7B = LargeModel("vicuna-7b", 32, 2, 4096, 11_008, 32_000, 4096)
VICUNA_13B = LargeModel("vicuna-13b", 40, 3, 5120, 13_824, 32_000, 5120)
LLAMA_8B = LargeModel("llama-3.1-8b", 32, 2, 4096, 14_336, 128_256, 1024)


@dataclass(frozen=True, slots=True)
class RooflineStep:
    """g of `num_stages` like machines in a pipeline, each with its share of the layers."""

    machine: Machine
    model: LargeModel
    num_layers: int
    num_stages: int = 1
    has_head: bool = False
    """Whether the head is read too, for the one row that it is wanted of."""

    def of(self, step: Step) -> float:
        """See `StepTime`."""
        num_rows = sum(item.num_rows for item in step.items)
        num_read = sum(item.position + item.num_rows for item in step.items)
        num_pairs = sum((item.position + item.num_rows / 2) * item.num_rows for item in step.items)
        return self.seconds(num_rows, num_read, num_pairs)

    def seconds(self, num_rows: int, num_read: float, num_pairs: float) -> float:
        """For rows in all, positions read, and pairs of a row and a position before it."""
        model, machine = self.model, self.machine
        num_weights = self.num_layers * model.layer_params
        num_bytes = num_weights * _ITEM_BYTES + num_read * model.kv_bytes(self.num_layers)
        num_bytes += _ITEM_BYTES * model.head_params if self.has_head else 0
        attention = 4.0 * model.hidden_size * self.num_layers * num_pairs
        num_flops = 2.0 * num_weights * num_rows + attention
        longest_s = max(machine.read_s(num_bytes), machine.multiply_s(num_flops))
        return self.num_stages * _FORWARD_S + longest_s


def device_times(machine: Machine, model: LargeModel, num_heads: int = 0) -> DeviceTimes:
    """A device's share of a model; with `num_heads` Medusa heads in the place of the adapter."""
    input_weights = model.num_input_layers * model.layer_params
    head_s = machine.read_s(model.head_params * _ITEM_BYTES)
    adapter_params = 4 * model.hidden_size**2
    """One attention."""
    adapter_s = machine.read_s(adapter_params * _ITEM_BYTES)
    step_s = machine.read_s(input_weights * _ITEM_BYTES) + adapter_s + head_s + _FORWARD_S
    call_s = 0.0
    if num_heads:
        medusa_weights = num_heads * (model.hidden_size**2 + model.head_params)
        call_s, step_s = machine.read_s(medusa_weights * _ITEM_BYTES), 0.0
    return DeviceTimes(
        input=_line(machine, input_weights),
        output=_line(machine, model.head_params),
        draft_call_s=call_s,
        draft_step_s=step_s,
        adapter_row_s=machine.multiply_s(2.0 * adapter_params),
    )


def whole_model_step(machine: Machine, model: LargeModel) -> LinearTime:
    """All layers and the head on one machine, over the rows of one sequence."""
    return _line(machine, model.num_layers * model.layer_params + model.head_params)


def _line(machine: Machine, num_weights: int) -> LinearTime:
    """Reading the weights, then what a row adds: the sum of both, not the longer one."""
    fixed_s = _FORWARD_S + machine.read_s(num_weights * _ITEM_BYTES)
    return LinearTime(fixed_s, machine.multiply_s(2.0 * num_weights))
