"""Large models on computed machines: what the paper's setting and the one at scale share."""

from dataclasses import dataclass
from random import Random

from bench.link.spec import LinkSpec
from bench.records import LinkRecord, ModelRecord, WorkloadRecord
from bench.sim.arms import SimArm
from bench.sim.cloud import CloudSpec, core_config
from bench.sim.scenario import DeviceSpec, Request, Scenario
from bench.sim.settings.hardware import (
    LargeModel,
    Machine,
    RooflineStep,
    device_times,
    whole_model_step,
)
from bench.sim.world.acceptance import AcceptanceTable
from bench.sim.world.times import Overheads
from bench.workloads.arrivals import arrivals
from bench.workloads.lengths import lengths

CONTEXT_TOKENS = 2048

_UP_BYTES_PER_S, _DOWN_BYTES_PER_S = (5e6, 10e6), (10e6, 15e6)
"""The paper's Wi-Fi; each device draws rates of its own."""

_HAND_OVER_S = 5e-4
"""Between two stages of a pipeline in one server. Assumed."""

_KV_SHARE = 0.85
"""Of the memory that the weights leave."""

_LEAST_SOCKETS = 256
"""As `hat cloud` has it by default, connections and sessions."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """A device per machine, each with a link of its own, and the servers of one cloud.

    Servers are a pipeline, one stage each. `modes` as in `DeviceSpec`; `num_heads` are Medusa's.
    """

    model: LargeModel
    machines: tuple[Machine, ...]
    delay_s: float
    jitter_s: float
    server: Machine
    num_servers: int = 1
    modes: tuple[float, ...] = (1.0,)
    num_heads: int = 0

    def scenario(
        self,
        arm: SimArm,
        setting: str,
        workload: WorkloadRecord,
        acceptance: AcceptanceTable,
        seed: int,
    ) -> Scenario:
        """One arm under one load."""
        return Scenario(
            arm=arm,
            setting=setting,
            model=model_record(self.model),
            link=LinkRecord(
                kind="simulated",
                uplink_bytes_per_s=sum(_UP_BYTES_PER_S) / 2,
                downlink_bytes_per_s=sum(_DOWN_BYTES_PER_S) / 2,
                delay_s=self.delay_s,
                jitter_s=self.jitter_s,
            ),
            workload=workload,
            requests=requests_of(workload, seed),
            devices=self._devices(seed),
            cloud=self._cloud(has_whole_model=arm.where == "cloud"),
            acceptance=acceptance,
            seed=seed,
        )

    def _devices(self, seed: int) -> tuple[DeviceSpec, ...]:
        draws = Random(f"{seed}/links")
        return tuple(
            DeviceSpec(
                times=device_times(machine, self.model, self.num_heads),
                link=LinkSpec(
                    draws.uniform(*_UP_BYTES_PER_S),
                    draws.uniform(*_DOWN_BYTES_PER_S),
                    self.delay_s,
                    self.jitter_s,
                ),
                modes=self.modes,
                whole=whole_model_step(machine, self.model),
            )
            for machine in self.machines
        )

    def _cloud(self, has_whole_model: bool) -> CloudSpec:
        """A pipeline that holds the middle layers, or all of them and the head."""
        model = self.model
        num_layers = model.num_layers if has_whole_model else model.num_middle_layers
        num_weights = num_layers * model.layer_params
        num_weights += model.head_params if has_whole_model else 0
        memory_bytes = self.num_servers * self.server.memory_bytes
        free_bytes = memory_bytes - 2 * num_weights
        num_sockets = max(len(self.machines), _LEAST_SOCKETS)
        core = core_config(
            int(free_bytes * _KV_SHARE / model.kv_bytes(num_layers)),
            CONTEXT_TOKENS,
            model.row_bytes,
            max_sessions=num_sockets,
            max_connections=num_sockets,
            steps_in_flight=self.num_servers,
        )
        step_time = RooflineStep(
            self.server, model, num_layers, self.num_servers, has_head=has_whole_model
        )
        return CloudSpec(step_time, core, self.num_servers, Overheads(hand_over_s=_HAND_OVER_S))


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


def requests_of(workload: WorkloadRecord, seed: int) -> tuple[Request, ...]:
    """Every device has its turn; prompts and answers are cut to what the context holds."""
    num_requests, rate = workload.num_requests, workload.requests_per_s
    output_tokens = workload.max_output_tokens
    max_prompt_tokens = CONTEXT_TOKENS - output_tokens
    moments = arrivals(workload.arrivals, num_requests, rate, seed)
    sizes = lengths(workload.name, num_requests, seed, output_tokens)
    return tuple(
        Request(
            number,
            number % workload.num_devices,
            arrival_s,
            min(size.prompt_tokens, max_prompt_tokens),
            min(size.output_tokens, output_tokens),
        )
        for number, (arrival_s, size) in enumerate(zip(moments, sizes, strict=True))
    )
