"""Scenarios of large models on computed machines: what the paper's and others share."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from bench.link.spec import LinkSpec
from bench.records import LinkRecord, ModelRecord, WorkloadRecord
from bench.sim.cloud import CloudSpec, core_config
from bench.sim.scenario import DeviceSpec, Request
from bench.sim.settings.hardware import (
    LargeModel,
    Machine,
    RooflineStep,
    device_times,
    whole_model_step,
)
from bench.sim.world.times import Overheads
from bench.workloads.arrivals import arrivals
from bench.workloads.lengths import lengths

MEDUSA_HEADS = 4
TREE_NODES = 63
"""Of the tree that Medusa publishes for Vicuna-7B (`mc_sim_7b_63`)."""

_HAND_OVER_S = 5e-4
"""Between two stages of a pipeline in one server. Assumed."""

_KV_SHARE = 0.85
"""Of the memory that the weights leave."""


@dataclass(frozen=True, slots=True)
class Load:
    """Which requests come when, at how many devices."""

    lengths: str
    arrivals: str
    requests_per_s: float
    num_requests: int
    num_devices: int
    output_tokens: int
    max_prompt_tokens: int
    seed: int

    def requests(self) -> tuple[Request, ...]:
        """Every device has its turn; each prompt is cut to what the context holds."""
        moments = arrivals(self.arrivals, self.num_requests, self.requests_per_s, self.seed)
        sizes = lengths(self.lengths, self.num_requests, self.seed, self.output_tokens)
        return tuple(
            Request(
                number,
                number % self.num_devices,
                arrival_s,
                min(size.prompt_tokens, self.max_prompt_tokens),
                min(size.output_tokens, self.output_tokens),
            )
            for number, (arrival_s, size) in enumerate(zip(moments, sizes, strict=True))
        )

    def record(self) -> WorkloadRecord:
        """For results."""
        return WorkloadRecord(
            name=self.lengths,
            arrivals=self.arrivals,
            num_devices=self.num_devices,
            num_requests=self.num_requests,
            max_output_tokens=self.output_tokens,
            temperature=0.0,
            requests_per_s=self.requests_per_s,
        )


@dataclass(frozen=True, slots=True)
class LinkRange:
    """Rates drawn evenly per device, in bytes per second."""

    up: tuple[float, float]
    down: tuple[float, float]
    delay_s: float
    jitter_s: float

    def draw(self, draws: Random) -> LinkSpec:
        """One device's link."""
        return LinkSpec(
            draws.uniform(*self.up), draws.uniform(*self.down), self.delay_s, self.jitter_s
        )

    def record(self) -> LinkRecord:
        """The middle of the range."""
        return LinkRecord(
            kind="simulated",
            uplink_bytes_per_s=sum(self.up) / 2,
            downlink_bytes_per_s=sum(self.down) / 2,
            delay_s=self.delay_s,
            jitter_s=self.jitter_s,
        )


def devices(
    model: LargeModel,
    machines: Sequence[Machine],
    links: LinkRange,
    modes: tuple[float, ...],
    seed: int,
    num_heads: int = 0,
) -> tuple[DeviceSpec, ...]:
    """One device per machine, each with a link of its own."""
    draws = Random(f"{seed}/links")
    return tuple(
        DeviceSpec(
            times=device_times(machine, model, num_heads),
            link=links.draw(draws),
            modes=modes,
            whole=whole_model_step(machine, model),
        )
        for machine in machines
    )


def cloud(
    model: LargeModel,
    machine: Machine,
    memory_bytes: float,
    num_stages: int,
    max_context_tokens: int,
    max_sockets: int = 256,
) -> CloudSpec:
    """A pipeline of like machines that holds the middle layers."""
    num_layers = model.num_middle_layers
    free_bytes = num_stages * memory_bytes - 2 * num_layers * model.layer_params
    capacity_tokens = int(free_bytes * _KV_SHARE / model.kv_bytes(num_layers))
    core = core_config(
        capacity_tokens,
        max_context_tokens,
        model.row_bytes,
        max_sessions=max_sockets,
        max_connections=max_sockets,
        steps_in_flight=num_stages,
    )
    step_time = RooflineStep(machine, model, num_layers, num_stages)
    overheads = Overheads(hand_over_s=_HAND_OVER_S)
    return CloudSpec(step_time, core, model.row_bytes, num_stages, overheads)


def model_record(model: LargeModel) -> ModelRecord:
    """For results; nothing of it was loaded."""
    return ModelRecord(
        name=model.name,
        fingerprint="",
        num_layers=model.num_layers,
        num_input_layers=model.num_input_layers,
        num_output_layers=0,
        hidden_size=model.hidden_size,
        dtype="float16",
        has_real_weights=False,
    )
