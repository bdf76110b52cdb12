"""Small simulated settings."""

from dataclasses import dataclass, replace

from bench.link.spec import LinkSpec
from bench.records import LinkRecord, ModelRecord, WorkloadRecord
from bench.sim.arms import sim_arm
from bench.sim.cloud import CloudSpec, core_config
from bench.sim.scenario import DeviceSpec, Request, Scenario
from bench.sim.world.acceptance import AcceptanceTable
from bench.sim.world.times import DeviceTimes, Overheads
from chunking.cost import LinearTime
from cloud_server.core.actions import Step

DEVICE = DeviceTimes(
    input=LinearTime(0.001, 0.0001),
    output=LinearTime(0.001, 0.0),
    draft_call_s=0.0,
    draft_step_s=0.002,
    adapter_row_s=0.00001,
)
LINK = LinkSpec(1e6, 2e6, delay_s=0.01)
HALF_RIGHT = AcceptanceTable((0.8,), (0.6,), (0.6,))
ROW_BYTES = 512


@dataclass(frozen=True, slots=True)
class LinearStep:
    """A g of so much per step, per sequence in it, per row, and per cached position read."""

    fixed_s: float
    row_s: float
    item_s: float = 0.0
    context_token_s: float = 0.0

    def of(self, step: Step) -> float:
        num_rows = sum(item.num_rows for item in step.items)
        num_read = sum(item.position + item.num_rows for item in step.items)
        own_s = self.fixed_s + self.row_s * num_rows + self.item_s * len(step.items)
        return own_s + self.context_token_s * num_read


def cloud(num_stages: int = 1, capacity_tokens: int = 100_000) -> CloudSpec:
    """A small cloud."""
    return CloudSpec(
        LinearStep(0.005, 0.0001),
        core_config(capacity_tokens, 2048, ROW_BYTES),
        num_stages,
        Overheads(hand_over_s=0.0001),
    )


def scenario(
    arm: str = "hat",
    requests: tuple[tuple[float, int, int], ...] = ((0.0, 60, 12),),
    num_devices: int = 1,
    link: LinkSpec = LINK,
    seed: int = 0,
) -> Scenario:
    """Requests `(arrival, prompt tokens, output tokens)`, which go round the devices."""
    asked = tuple(
        Request(number, number % num_devices, *request) for number, request in enumerate(requests)
    )
    device = DeviceSpec(DEVICE, link, whole=LinearTime(0.05, 0.001))
    return Scenario(
        arm=sim_arm(arm),
        setting="test",
        model=_MODEL,
        link=LinkRecord(kind="simulated"),
        workload=workload_record(len(requests), num_devices),
        requests=asked,
        devices=(device,) * num_devices,
        cloud=cloud(),
        acceptance=HALF_RIGHT,
        seed=seed,
    )


def workload_record(num_requests: int, num_devices: int) -> WorkloadRecord:
    """The workload's record."""
    return WorkloadRecord(
        name="test",
        arrivals="poisson",
        num_devices=num_devices,
        num_requests=num_requests,
        max_output_tokens=12,
        temperature=0.0,
    )


def with_replicas(one: Scenario, num_replicas: int, num_stages: int) -> Scenario:
    """The same at several clouds of so many stages."""
    return replace(one, num_replicas=num_replicas, cloud=cloud(num_stages))


_MODEL = ModelRecord(
    name="made up",
    fingerprint="",
    num_layers=6,
    num_input_layers=1,
    num_output_layers=0,
    hidden_size=256,
    dtype="float16",
    has_real_weights=False,
)
