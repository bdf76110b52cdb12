"""Device, link and cloud under virtual time: what a real one would measure, for estimators."""

from collections.abc import Callable
from dataclasses import dataclass

from chunking.cost import LinearTime
from chunking.state_monitor import AnsweredFrame, StateMonitor

NO_TIME = LinearTime(0.0, 0.0)


@dataclass
class SimulatedLink:
    """Carries frames one at a time, runs them one at a time; `noise` stretches each duration.

    `uplink_bytes_per_s` may be changed between frames. Frames are of one session, in order.
    """

    uplink_bytes_per_s: float
    delay_s: float
    cloud: LinearTime
    token_bytes: int
    device: LinearTime = NO_TIME
    noise: Callable[[], float] = lambda: 1.0
    now: float = 0.0
    num_frames: int = 0
    sent_s: float = 0.0
    done_s: float = 0.0

    def open(self, monitor: StateMonitor) -> None:
        """A round trip of an empty message."""
        trip_s = self.delay_s * self.noise()
        monitor.link.on_round_trip(trip_s)
        self.now += trip_s

    def compute(self, num_tokens: int, monitor: StateMonitor) -> None:
        """The device's own part of a chunk."""
        seconds = self.device.of(num_tokens) * self.noise()
        monitor.on_prefill(num_tokens, seconds)
        self.now += seconds

    def send(self, num_tokens: int, monitor: StateMonitor) -> "SimulatedReply":
        """Hand a frame over now; its reply is known at once, and is to be taken when it comes."""
        self.num_frames += 1
        num_bytes = num_tokens * self.token_bytes
        monitor.link.on_sent(self.num_frames, num_bytes, self.now)
        transfer_s = num_bytes / self.uplink_bytes_per_s * self.noise()
        self.sent_s = max(self.now, self.sent_s) + transfer_s
        started_s = max(self.sent_s, self.done_s)
        compute_s = self.cloud.of(num_tokens) * self.noise()
        queue_s = started_s - self.sent_s
        self.done_s = started_s + compute_s
        answered = AnsweredFrame(num_tokens, 64, queue_s, compute_s, num_tokens)
        return SimulatedReply(self.num_frames, answered, self.done_s + self.delay_s)

    def take(self, reply: "SimulatedReply", monitor: StateMonitor) -> None:
        """Wait for a reply and measure it."""
        self.now = max(self.now, reply.comes_s)
        monitor.on_reply(reply.key, reply.answered, reply.comes_s)


@dataclass(frozen=True, slots=True)
class SimulatedReply:
    """A reply on its way."""

    key: int
    answered: AnsweredFrame
    comes_s: float
