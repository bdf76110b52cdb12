"""What a cut costs: time to first token of a chunk sequence, and a bound no cut can beat.

A prompt passes three stages: the device computes a chunk's shallow states, the uplink carries
them, the cloud runs the middle layers. Each stage takes chunks one at a time and in order (a
three-stage flow shop), so all three work at once on different chunks.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LinearTime:
    """A stage that takes `fixed_s + num_tokens * token_s` for a chunk."""

    fixed_s: float
    token_s: float

    def of(self, num_tokens: float) -> float:
        """Seconds for so many tokens."""
        return self.fixed_s + num_tokens * self.token_s


@dataclass(frozen=True, slots=True)
class PipelineTimes:
    """The three stages, and what is paid once: the round trip of an empty link and the queue."""

    device: LinearTime
    uplink_token_s: float
    cloud: LinearTime
    delay_s: float


@dataclass(frozen=True, slots=True)
class Backlog:
    """How long each stage is still busy with chunks that were sent before."""

    device_s: float = 0.0
    uplink_s: float = 0.0
    cloud_s: float = 0.0

    def after(self, num_tokens: int, times: PipelineTimes) -> "Backlog":
        """The same, seen from now, once a chunk of so many tokens has joined behind them."""
        device_s = self.device_s + times.device.of(num_tokens)
        uplink_s = max(device_s, self.uplink_s) + num_tokens * times.uplink_token_s
        cloud_s = max(uplink_s, self.cloud_s) + times.cloud.of(num_tokens)
        return Backlog(device_s, uplink_s, cloud_s)


IDLE = Backlog()


def ttft_s(chunks: Iterable[int], times: PipelineTimes, backlog: Backlog = IDLE) -> float:
    """Seconds from now until the last chunk's answer is back on the device."""
    computed_s, sent_s, done_s = backlog.device_s, backlog.uplink_s, backlog.cloud_s
    device_fixed_s, device_token_s = times.device.fixed_s, times.device.token_s
    cloud_fixed_s, cloud_token_s = times.cloud.fixed_s, times.cloud.token_s
    for num_tokens in chunks:
        computed_s += device_fixed_s + num_tokens * device_token_s
        sent_s = max(computed_s, sent_s) + num_tokens * times.uplink_token_s
        done_s = max(sent_s, done_s) + cloud_fixed_s + num_tokens * cloud_token_s
    return done_s + times.delay_s


def ttft_bound_s(num_tokens: int, times: PipelineTimes, backlog: Backlog = IDLE) -> float:
    """No cut into whole tokens has a smaller `ttft_s`.

    One stage has to take every token; before it, at least one token passes the stages in front,
    and after it at least one token passes those behind. The largest of the three sums bounds.
    """
    device, uplink_s, cloud = times.device, times.uplink_token_s, times.cloud
    first_computed_s = backlog.device_s + device.of(1)
    first_sent_s = max(first_computed_s, backlog.uplink_s) + uplink_s
    device_bound_s = backlog.device_s + device.of(num_tokens) + uplink_s + cloud.of(1)
    uplink_bound_s = max(first_computed_s, backlog.uplink_s) + uplink_s * num_tokens + cloud.of(1)
    cloud_bound_s = max(first_sent_s, backlog.cloud_s) + cloud.of(num_tokens)
    return max(device_bound_s, uplink_bound_s, cloud_bound_s) + times.delay_s
