"""What passes on a socket reaches the monitor with its own numbers, and nothing else does."""

from typing import Any, cast

import pytest

from chunking.state_monitor import AnsweredFrame, StateMonitor
from device_runtime.link.meter import LinkMeter
from tests.support.cloud_core import opening, shallow_rows, states
from wire.messages import Close, Codec, Dtype, Opened, Reply, SessionId


class Recorder:
    """Stands for the monitor and for its link."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.link = self

    def on_sent(self, key: object, num_bytes: int, now: float) -> None:
        self.told.append(("sent", key, num_bytes, now))

    def on_round_trip(self, seconds: float) -> None:
        self.told.append(("trip", seconds))

    def on_lost(self) -> None:
        self.told.append(("lost",))

    def on_reply(self, key: object, answered: AnsweredFrame, now: float) -> None:
        self.told.append(("reply", key, answered, now))


class Bench:
    """A meter under a clock that the test moves."""

    def __init__(self) -> None:
        self.now = 10.0
        self.monitor = Recorder()
        self.meter = LinkMeter(cast(StateMonitor, self.monitor), lambda: self.now)


def reply(session: int, epoch: int, position: int, num_rows: int, cached_tokens: int) -> Reply:
    place = (SessionId(session), epoch, position, num_rows, Dtype.FP32, Codec.RAW)
    return Reply(*place, cached_tokens, 0.25, 0.5, 7, b"")


def test_a_frame_and_its_reply_have_one_key_which_no_other_frame_has() -> None:
    bench = Bench()
    for session, epoch, position in ((1, 0, 0), (1, 0, 3), (1, 1, 3), (2, 0, 0)):
        bench.meter.on_write(states(session, position, shallow_rows(1, 2, 3), epoch=epoch), 64)
    keys = [key for _, key, _, _ in bench.monitor.told]
    assert len(set(keys)) == 4
    bench.meter.on_read(reply(1, 1, 3, 1, 6), 80)
    assert bench.monitor.told[-1][1] == keys[2]


def test_the_rows_of_an_answered_frame_are_those_that_went_up() -> None:
    bench = Bench()
    bench.now = 12.0
    bench.meter.on_read(reply(1, 0, position=20, num_rows=1, cached_tokens=60), 80)
    ((_, _, answered, now),) = bench.monitor.told
    assert answered == AnsweredFrame(
        num_rows=40, num_reply_bytes=80, queue_s=0.25, compute_s=0.5, batch_tokens=7
    )
    assert now == 12.0


def test_a_round_trip_is_measured_from_an_open_to_its_answer_and_once() -> None:
    bench = Bench()
    bench.meter.on_write(opening(1, key=1), 40)
    bench.now += 0.125
    bench.meter.on_write(opening(2, key=2), 40)
    bench.now += 0.125
    for session in (1, 1, 2, 3):
        bench.meter.on_read(Opened(SessionId(session), 0), 20)
    assert bench.monitor.told == [("trip", 0.25), ("trip", 0.125)]


def test_what_was_asked_on_a_lost_socket_measures_nothing_on_the_next() -> None:
    bench = Bench()
    bench.meter.on_write(opening(1, key=1), 40)
    bench.meter.on_lost()
    bench.now += 60.0
    bench.meter.on_read(Opened(SessionId(1), 0), 20)
    assert bench.monitor.told == [("lost",)]


@pytest.mark.parametrize(("session", "is_known"), [(1, False), (2, True), (65, True)])
def test_only_the_latest_opens_are_remembered(session: int, is_known: bool) -> None:
    bench = Bench()
    for number in range(1, 66):
        bench.meter.on_write(opening(number, key=1), 40)
    bench.meter.on_read(Opened(SessionId(session), 0), 20)
    assert bool(bench.monitor.told) is is_known


def test_other_messages_are_not_measured() -> None:
    bench = Bench()
    bench.meter.on_write(Close(SessionId(1)), 20)
    bench.meter.on_read(Close(SessionId(1)), 20)
    assert bench.monitor.told == []
