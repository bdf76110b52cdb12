"""Device, link and cloud under virtual time: what a real one would measure, for estimators."""

from collections.abc import Callable
from dataclasses import dataclass

from chunking.chooser import ChunkChooser
from chunking.cost import LinearTime
from chunking.planner import WAIT, Planner, Prefill
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


def send_prompt(
    link: SimulatedLink,
    monitor: StateMonitor,
    planner: Planner,
    num_tokens: int,
    change: tuple[int, float] | None = None,
) -> tuple[list[int], float]:
    """What a session does, in virtual time: the chunks, and the seconds to the last reply.

    After `change[0]` tokens the uplink has the rate `change[1]`.
    """
    came_s = [0.0]
    chooser = ChunkChooser(
        planner,
        lambda: monitor.estimates(link.token_bytes),
        lambda: link.now,
        lambda: came_s[0],
        max_frame_tokens=4096,
    )

    def take_oldest() -> None:
        came_s[0] = waiting[0].comes_s
        link.take(waiting.pop(0), monitor)

    begun_s, left, waiting = link.now, num_tokens, []
    while left:
        if waiting and waiting[0].comes_s <= link.now:
            take_oldest()
            continue
        chunk = chooser.next_chunk_tokens(Prefill(num_tokens, left, len(waiting)))
        if chunk == WAIT:
            take_oldest()
            continue
        link.compute(chunk, monitor)
        if change is not None and num_tokens - left >= change[0]:
            link.uplink_bytes_per_s = change[1]
        waiting.append(link.send(chunk, monitor))
        left -= chunk
    for reply in waiting:
        link.take(reply, monitor)
    return [choice.num_tokens for choice in chooser.choices], link.now - begun_s
