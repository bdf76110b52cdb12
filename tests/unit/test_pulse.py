"""Whether a far end lives, by what comes from it and what it takes."""

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_server.config import CloudConfig
from process.sockets.pulse import LOOKS, Beat, Progress, Pulse

SILENCE_S = 10.0
TICK_S = SILENCE_S / LOOKS
CHUNK_BYTES = 4_000_000
THIN_BYTES_PER_S = 5e6 / 8


class Far:
    """A far end behind an uplink of some rate; it answers a ping `answer_s` after it has come."""

    def __init__(self, bytes_per_s: float, answer_s: float | None = 0.1) -> None:
        self.bytes_per_s = bytes_per_s
        self.answer_s = answer_s
        self.num_written = 0
        self.delivered = 0.0
        self.num_received = 0
        self.is_cut = False
        self._pings: list[list[float]] = []

    def write(self, num_bytes: int) -> None:
        self.num_written += num_bytes

    def ping(self, pulse: Pulse) -> None:
        self.write(14)
        pulse.pinged(self.num_written)
        self._pings.append([self.num_written, 0.0])

    def run(self, seconds: float) -> None:
        if self.is_cut:
            return
        self.delivered = min(self.num_written, self.delivered + seconds * self.bytes_per_s)
        for ping in list(self._pings):
            if self.delivered >= ping[0]:
                ping[1] += seconds
                if self.answer_s is not None and ping[1] >= self.answer_s:
                    self._pings.remove(ping)
                    self.num_received += 2

    @property
    def progress(self) -> Progress:
        return Progress(self.num_received, int(self.delivered), self.num_written)


def beats(far: Far, seconds: float, busy: bool = False, pulse: Pulse | None = None) -> float | None:
    """When the far end was found to be lost, if it was; a busy link always has a chunk to send."""
    pulse, now = pulse or Pulse(SILENCE_S, 0.0), 0.0
    while now < seconds:
        now += TICK_S
        if busy and far.num_written - far.delivered < 100_000:
            far.write(CHUNK_BYTES)
        far.run(TICK_S)
        match pulse.look(far.progress, now):
            case Beat.PING:
                far.ping(pulse)
            case Beat.LOST:
                return now
            case Beat.CALM:
                pass
    return None


@given(
    bytes_per_s=st.floats(THIN_BYTES_PER_S / 5, 1e9),
    answer_s=st.floats(0.0, 4.0),
    busy=st.booleans(),
)
def test_an_uplink_however_thin_and_full_is_no_dead_cloud(bytes_per_s, answer_s, busy):
    assert beats(Far(bytes_per_s, answer_s), 300.0, busy) is None


@given(bytes_per_s=st.floats(THIN_BYTES_PER_S / 5, 1e9), busy=st.booleans())
def test_a_hole_is_noticed_in_time(bytes_per_s, busy):
    far, pulse = Far(bytes_per_s), Pulse(SILENCE_S, 0.0)
    far.is_cut = True
    if busy:
        far.write(CHUNK_BYTES)
    lost_s = beats(far, 60.0, busy, pulse)
    assert lost_s is not None
    assert lost_s <= SILENCE_S


def test_a_frozen_process_whose_system_takes_bytes_is_noticed_in_time():
    lost_s = beats(Far(1e9, answer_s=None), 60.0)
    assert lost_s is not None
    assert lost_s <= SILENCE_S


@pytest.mark.parametrize("is_asked", [False, True])
def test_a_machine_that_slept_asks_before_it_believes(is_asked):
    pulse = Pulse(SILENCE_S, 0.0)
    if is_asked:
        assert pulse.look(Progress(0, 0, 0), TICK_S) is Beat.CALM
        assert pulse.look(Progress(0, 0, 0), 0.4 * SILENCE_S) is Beat.PING
        pulse.pinged(14)
    assert pulse.look(Progress(0, 0, 0), 75.0) is Beat.PING
    pulse.pinged(28)
    assert pulse.look(Progress(0, 28, 28), 75.0 + TICK_S) is Beat.CALM
    assert pulse.look(Progress(2, 28, 28), 75.0 + 2 * TICK_S) is Beat.CALM


def test_a_cloud_bears_a_device_whose_program_does_not_read_for_a_minute_and_a_half():
    defaults = {field.name: field.default for field in fields(CloudConfig)}
    silence_s = defaults["heartbeat_s"]
    pulse = Pulse(silence_s, 0.0)
    now, num_written = 0.0, 0
    while now < 90:
        now += silence_s / LOOKS
        match pulse.look(Progress(0, num_written, num_written), now):
            case Beat.PING:
                num_written += 14
                pulse.pinged(num_written)
            case beat:
                assert beat is Beat.CALM
