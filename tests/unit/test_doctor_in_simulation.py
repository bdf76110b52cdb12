"""`hat doctor`'s frames in a simulated world, where nothing else disturbs what they measure.

The world has a device, a link by TCP segments and a cloud with known times. What the doctor finds
out with its frames, and foretells from that, is held against what answers take in that world.
"""

import asyncio
from dataclasses import replace
from statistics import median

import msgspec
import pytest

from bench.link.spec import parse_link_spec
from bench.measures import tbt_s, ttft_s
from bench.records import LinkRecord
from bench.sim.cloud import CloudSpec, Replica, core_config
from bench.sim.device import Device
from bench.sim.run import simulate
from bench.sim.scenario import DeviceSpec, Request
from bench.sim.world.coding import EXACT_BF16
from bench.sim.world.link import MSS_BYTES, PACKET_OVERHEAD_BYTES
from hat.doctor.cloud import CloudFindings, context_of, link_findings, steps_of
from hat.doctor.foretell import Choice, Surroundings
from hat.doctor.probe import Frames, measure
from process.virtual_loop import run_virtual
from tests.support.bench_sim_scenarios import DEVICE, LinearStep, scenario
from wire.limits import ITEM_BYTES
from wire.numbers import pack_rows

ROW_BYTES, CONTEXT_TOKENS = 1152, 8192
SIZES = (100, 1000)
LINKS = (
    "up=5mbit,down=20mbit,rtt=20ms",
    "up=20mbit,down=50mbit,rtt=40ms",
    "up=100mbit,down=100mbit,rtt=10ms",
)
CLOUDS = {
    "a processor": LinearStep(0.03, 0.003, context_token_s=1e-5),
    "a GPU": LinearStep(0.008, 0.00002),
}


def world_of(link, step_time, arm="hat-no-speculation"):
    spec = parse_link_spec(link)
    return replace(
        scenario(arm),
        link=LinkRecord(kind="netem"),
        devices=(DeviceSpec(DEVICE, spec),),
        cloud=CloudSpec(step_time, core_config(1 << 18, CONTEXT_TOKENS, ROW_BYTES)),
    )


def examined(world):
    """What the doctor's frames say of a simulated link and cloud."""

    async def run():
        device = Device(world, 0, [Replica(replace(world.cloud, codec=world.codec))])
        await device.link.connected()
        session = device.link.open(2048)
        await session.opened()
        rows = device.engine.input_rows(device.engine.open(), [1] * 512, 0)
        packed = pack_rows(rows, session.dtype)
        clock = asyncio.get_running_loop().time
        measured = await measure(Frames(session, packed, len(rows), clock), 2048)
        coding = device.link.monitor.estimates(0).coding
        session.close()
        await device.runtime.close()
        row_bytes = ITEM_BYTES[session.dtype] * rows.shape[1]
        return measured, device.link.limits, row_bytes, coding

    return run_virtual(run)


def surroundings_of(world):
    measured, limits, row_bytes, coding = examined(world)
    context = context_of(measured, most_share=1.0)
    cloud = CloudFindings(
        url="ws://cloud",
        steps=steps_of(measured, context),
        context=context,
        queue_s=0.0,
        row_format="FP16",
        row_bytes=row_bytes,
        max_context_tokens=limits.max_context_tokens,
        max_frame_tokens=512,
    )
    link = replace(link_findings(measured, None), coding=coding)
    return Surroundings(link, cloud, CONTEXT_TOKENS)


def answers_in(world):
    """The typical times to the first token, and of a token behind it."""
    sizes = [(size, 2) for size in SIZES * 4]
    requests = tuple(Request(n, 0, 0.0, *each) for n, each in enumerate([*sizes, (100, 64)]))
    workload = msgspec.structs.replace(world.workload, arrivals="closed")
    records = simulate(replace(world, requests=requests, workload=workload)).requests
    gaps_s = tbt_s(records[-1])
    # The first of each size finds a planner that knows little.
    first_s = [ttft_s(record) for record in records[len(SIZES) : -1]]
    typical_s = [median(first_s[place :: len(SIZES)]) for place in range(len(SIZES))]
    return typical_s, sum(gaps_s) / len(gaps_s)


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("codec", [None, EXACT_BF16])
def test_what_is_foretold_from_some_frames_comes_within_a_tenth(link, cloud, codec):
    # A buffer that holds a flight: what lost segments cost is not foretold.
    world = replace(world_of(f"{link},queue=500kb", CLOUDS[cloud]), codec=codec)
    here = surroundings_of(world)
    outlook = here.outlook(Choice(DEVICE.input, DEVICE.output), SIZES)
    prompts_s, token_s = answers_in(world)
    told = [prompt.ttft_s for prompt in outlook.prompts]
    assert told == pytest.approx(prompts_s, rel=0.1)
    assert outlook.speed.token_s == pytest.approx(token_s, rel=0.1)


@pytest.mark.parametrize("link", LINKS)
def test_the_link_is_found_as_it_is(link):
    spec = parse_link_spec(link)
    found = surroundings_of(world_of(link, CLOUDS["a GPU"])).link
    # Rates of links count the headers of packets as well.
    rows_share = MSS_BYTES / (MSS_BYTES + PACKET_OVERHEAD_BYTES)
    assert found.up_bytes_per_s == pytest.approx(spec.uplink_bytes_per_s * rows_share, rel=0.1)
    assert found.down_bytes_per_s == pytest.approx(spec.downlink_bytes_per_s * rows_share, rel=0.3)
    assert found.delay_s == pytest.approx(spec.rtt_s, abs=0.002)


@pytest.mark.parametrize("link", LINKS)
def test_coded_rows_make_no_link_faster_than_it_is(link):
    world = world_of(f"{link},queue=500kb", CLOUDS["a GPU"])
    found = surroundings_of(replace(world, codec=EXACT_BF16)).link
    rows_share = MSS_BYTES / (MSS_BYTES + PACKET_OVERHEAD_BYTES)
    up_bytes_per_s = parse_link_spec(link).uplink_bytes_per_s * rows_share
    assert found.up_bytes_per_s == pytest.approx(up_bytes_per_s, rel=0.1)
    assert found.coding.share == pytest.approx(EXACT_BF16.share, rel=0.01)
