"""One trace for each request: the client's or a random one, named by the logs of both sides."""

import logging
from dataclasses import replace

import pytest

from cloud_server.core.actions import Refusal
from device_runtime.api.request.traces import Trace, read_traceparent
from device_runtime.generation.request import CloudUnavailableError
from tests.support.api_server import CHAT, COMPLETIONS, USER, story_server
from tests.support.cloud_core import CONFIG, HELLO, Cloud, opening, states
from tests.support.fake_runtime import KEEP_SOME, PROMPT, bench, expected, request
from tests.support.memory_cloud import MemoryCloud
from tests.support.memory_link import MemoryNetwork
from wire.codec import decode
from wire.errors import FaultCode
from wire.messages import Ability, Fault, SessionId
from wire.messages import Trace as TraceMessage

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GIVEN = f"00-{TRACE_ID}-{SPAN_ID}-01"
FIRST, SECOND = b"1" * 16, b"2" * 16

virtual = pytest.mark.event_loop("virtual")


@pytest.mark.parametrize(
    ("value", "is_sampled"),
    [
        (GIVEN, True),
        (f" {GIVEN} ", True),
        (GIVEN.removesuffix("01") + "00", False),
        (f"cc-{TRACE_ID}-{SPAN_ID}-01-what-the-future-brings", True),
    ],
)
def test_a_header_as_the_recommendation_has_it_is_taken(value, is_sampled) -> None:
    trace = Trace(bytes.fromhex(TRACE_ID), bytes.fromhex(SPAN_ID), is_sampled)
    assert read_traceparent([value]) == trace


@pytest.mark.parametrize(
    "values",
    [
        [],
        [GIVEN, GIVEN],
        [""],
        [GIVEN.upper()],
        [f"{GIVEN}-more"],
        [f"ff-{TRACE_ID}-{SPAN_ID}-01"],
        [f"00-{'0' * 32}-{SPAN_ID}-01"],
        [f"00-{TRACE_ID}-{'0' * 16}-01"],
        [f"00-{TRACE_ID[:-1]}-{SPAN_ID}-01"],
        ["my own text, sixteen"],
    ],
)
def test_anything_else_is_as_if_it_were_not_there(values) -> None:
    assert read_traceparent(values) is None


@pytest.mark.parametrize(("path", "body"), [(CHAT, {"messages": USER}), (COMPLETIONS, {"n": 2})])
async def test_all_choices_of_a_request_are_of_its_clients_trace(path, body, caplog) -> None:
    caplog.set_level("INFO")
    headers = {"traceparent": GIVEN, "X-Request-ID": "mine"}
    async with story_server() as (client, generator):
        await client.post(path, {"prompt": "Once", **body, "max_tokens": 2}, headers=headers)
    assert {asked.trace_id.hex() for asked in generator.requests} == {TRACE_ID}
    [record] = [record for record in caplog.records if record.message == "request"]
    assert record.fields["trace_id"] == TRACE_ID
    assert record.fields["request_id"] == "mine"


async def test_without_one_each_request_gets_a_random_one_and_never_its_name(caplog) -> None:
    caplog.set_level("INFO")
    async with story_server() as (client, generator):
        for header in ("", GIVEN.replace("a", "A"), GIVEN):
            headers = {"traceparent": header, "X-Request-ID": TRACE_ID}
            await client.post(CHAT, {"messages": USER, "max_tokens": 2}, headers=headers)
    made = [asked.trace_id for asked in generator.requests]
    assert len({*made}) == 3
    assert all(len(trace_id) == 16 for trace_id in made)
    assert made[2].hex() == TRACE_ID not in {made[0].hex(), made[1].hex()}
    told = [each.fields["trace_id"] for each in caplog.records if each.message == "request"]
    assert told == [trace_id.hex() for trace_id in made]


def traces(network: MemoryNetwork) -> list[bytes]:
    """Those that went up, in their order."""
    messages = (decode(frame) for frame in network.up)
    return [each.trace_id for each in messages if isinstance(each, TraceMessage)]


@virtual
async def test_the_cloud_is_told_of_each_request_in_a_kept_session_too() -> None:
    cloud = MemoryCloud(takes_traces=True)
    async with bench(cloud, kept=KEEP_SOME) as it:
        first = request(PROMPT, 8, trace_id=FIRST)
        ids = await it.ids(first)
        again = request([*PROMPT, *ids], 8, trace_id=SECOND)
        assert await it.ids(again) == expected(again)
        assert traces(it.network) == [FIRST, SECOND]


@virtual
async def test_the_cloud_is_told_again_after_the_link_was_lost() -> None:
    cloud = MemoryCloud(takes_traces=True)
    async with bench(cloud) as it:
        wanted = request(PROMPT, 24, trace_id=FIRST)
        ids = []
        async for emission in it.runtime.generate(wanted, "test"):
            if not ids:
                it.network.cut()
            ids += [token.id for token in emission.tokens]
        assert ids == expected(wanted)
        assert traces(it.network) == [FIRST, FIRST]


@virtual
@pytest.mark.parametrize("takes_traces", [True, False])
async def test_a_cloud_of_earlier_days_is_told_nothing(takes_traces) -> None:
    async with bench(MemoryCloud(takes_traces=takes_traces)) as it:
        wanted = request(PROMPT, 8, trace_id=FIRST)
        assert await it.ids(wanted) == expected(wanted)
        assert traces(it.network) == [FIRST] * takes_traces


@virtual
async def test_both_logs_name_a_request_that_the_cloud_refuses(caplog) -> None:
    caplog.set_level("DEBUG")
    cloud = MemoryCloud(takes_traces=True)
    async with bench(cloud) as it:
        refusal = Refusal(FaultCode.BAD_FRAME, "not finite")
        cloud.steps.refuses = lambda item: refusal
        with pytest.raises(CloudUnavailableError):
            await it.ids(request(PROMPT, 8, trace_id=FIRST))
    told = {
        record.levelno: record.getMessage()
        for record in caplog.records
        if getattr(record, "fields", {}).get("trace_id") == FIRST.hex()
    }
    assert told[logging.INFO] == "connection 1 at a device, session 1: BAD_FRAME (not finite)"
    assert told[logging.DEBUG] == "connection 1, session 1"


TRACING = replace(CONFIG, takes_traces=True)
TRACING_HELLO = replace(HELLO, codecs=HELLO.codecs | 1 << Ability.TRACES)


def test_a_fault_is_of_the_request_named_last() -> None:
    cloud = Cloud(TRACING)
    device = cloud.connect(TRACING_HELLO)
    cloud.send(device, opening(1, 1, 16))
    for trace_id in (FIRST, SECOND):
        assert cloud.send(device, TraceMessage(SessionId(1), trace_id)) == []
    assert [each.trace_id for each in cloud.traced] == [FIRST, SECOND]
    cloud.send(device, states(1, 9, [b"row."]))
    assert [(sent.message.code, sent.trace_id) for sent in cloud.faulted] == [
        (FaultCode.POSITION_MISMATCH, SECOND)
    ]


def test_a_trace_of_a_session_that_is_over_changes_nothing() -> None:
    cloud = Cloud(TRACING)
    device = cloud.connect(TRACING_HELLO)
    assert cloud.send(device, TraceMessage(SessionId(7), FIRST)) == []
    assert cloud.core.figures().num_sessions == 0


def test_a_trace_that_was_not_agreed_ends_the_connection() -> None:
    cloud = Cloud(TRACING)
    device = cloud.connect(HELLO)
    [fault] = cloud.send_unchecked(device, TraceMessage(SessionId(1), FIRST))
    assert isinstance(fault, Fault)
    assert fault.code is FaultCode.BAD_FRAME
