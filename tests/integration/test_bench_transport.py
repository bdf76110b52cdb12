"""First chunks and uploads over a real link between namespaces, which takes root."""

from statistics import median

import pytest

from bench.link.opening import reason_against
from bench.link.shaped_link import LinkError, LinkKind
from bench.link.spec import parse_link_spec
from bench.transport.beside import contest
from bench.transport.first_chunk import ARMS, NEW, Question, measure
from bench.transport.places import Arm, running, sockets_arm
from bench.transport.sender import SocketsWay
from bench.transport.uploader import Work
from bench.transport.verifying import table, verifying

_REASON = reason_against(LinkKind.TAP)
pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(_REASON is not None, reason=f"no TAP links here: {_REASON}"),
]

_SPEC = parse_link_spec("up=20mbit,down=20mbit,rtt=60ms")


def test_a_message_takes_at_least_its_time_on_the_link_and_a_pause_is_seen() -> None:
    said: list[str] = []
    question = Question(sizes=(100_000,), pauses_s=(1.0,), num_tries=2)
    arms = [ARMS["one"], ARMS["four"], ARMS["setting"]]
    result = measure([_SPEC], arms, question, said.append)
    found = {(chunk.arm, chunk.pause_s): min(chunk.seconds) for chunk in result.chunks}
    assert len(found) == len(arms) * 3
    assert all(seconds >= 0.030 + 100_000 / 2.5e6 for seconds in found.values())
    # A new connection needs three windows (14, 29 and 57 kB) and so two more round trips.
    assert found["one", NEW] >= 0.030 + 0.120
    assert found["four", NEW] < found["one", NEW]
    assert found["one", 1.0] > found["setting", 1.0]
    assert len(said) == len(arms) * 6


def test_the_devices_own_link_is_as_fast_after_a_pause_as_before() -> None:
    question = Question(sizes=(100_000,), pauses_s=(1.0,), num_tries=2)
    arms = [ARMS["device-one"], ARMS["device-auto"]]
    result = measure([_SPEC], arms, question, lambda line: None)
    found = {(chunk.arm, chunk.pause_s): min(chunk.seconds) for chunk in result.chunks}
    assert all(seconds >= 0.030 + 100_000 / 2.5e6 for seconds in found.values())
    # One connection waits for two more round trips.
    assert found["device-one", 1.0] >= 0.030 + 0.120
    assert found["device-auto", 1.0] < found["device-one", 1.0]


def test_verifications_are_answered_beside_an_upload_sooner_over_two_connections() -> None:
    result = verifying([_SPEC], 1.5, 1, lambda line: None)
    middle_s = {each.arm: median(each.seconds) for each in result.verified}
    assert all(seconds >= _SPEC.rtt_s for each in result.verified for seconds in each.seconds)
    assert middle_s["two"] < middle_s["one"]
    assert len(list(table(result))) == 2 + len(middle_s)


def test_a_way_that_the_kernel_refuses_ends_with_an_error() -> None:
    arm = sockets_arm("nonsense", SocketsWay(congestion="nonsense"))
    with pytest.raises(LinkError, match="the device's program ended"):
        measure([_SPEC], [arm], Question((1000,), (), 1), print)


def test_a_cloud_program_that_does_not_start_is_an_error() -> None:
    from bench.link.opening import open_link

    arm = Arm("nothing", ("bench.transport.sender", "{}"), cloud="bench.transport.nowhere")
    with (
        open_link(_SPEC, kind=LinkKind.TAP) as link,
        pytest.raises(LinkError, match="the cloud's program did not start"),
        running(arm, link),
    ):
        pass


def test_uploads_leave_room_for_each_other_and_urgent_messages_are_answered() -> None:
    result = contest([_SPEC], ["reno"], Work(seconds=1.5), 1)
    by_arm = {each.arm: each.tries[0] for each in result.beside}
    assert list(by_arm) == ["reno, no upload", "reno, 1", "reno, 2"]
    for arm, found in by_arm.items():
        assert found.num_unanswered == 0
        assert min(found.urgent_s) >= _SPEC.rtt_s
        assert (found.bulk_bytes_per_s > 0) == (arm != "reno, no upload")
        assert found.bulk_bytes_per_s <= 2.5e6
    ((first, second),) = result.shared[0].tries
    assert first.bulk_bytes_per_s + second.bulk_bytes_per_s <= 2.5e6
