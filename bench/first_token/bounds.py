"""What no way of sending a prompt can beat, from what was measured of its three stages."""

from collections.abc import Mapping
from dataclasses import dataclass

from bench.link.rates import Rate
from bench.link.spec import FRAME_BYTES
from chunking.ramp import SEGMENT_BYTES

FRAME_SHARE = FRAME_BYTES / SEGMENT_BYTES
"""Bytes of Ethernet frames for one byte that TCP carries: what shaped rates count."""

_ALONE = 0.7
"""A stage that takes less of the longest one's time hides behind it; cut into steps and chunks, the
others take longer than in one go."""


@dataclass(frozen=True, slots=True)
class Stages:
    """A prompt's three stages by themselves: seconds for all of it, but for the link."""

    device_s: float
    """Input layers over the whole prompt in one go."""
    cloud_s: float
    """Middle layers over the whole prompt in one step."""
    least_step_s: float
    """The shortest that was seen, of any arm: after the last byte there is at least one more."""
    rtt_s: float


@dataclass(frozen=True, slots=True)
class Bound:
    """The least time to a first token, and what each stage alone takes of it."""

    seconds: float
    stage_s: Mapping[str, float]

    @property
    def stage(self) -> str:
        """The stage that sets it; two of them where the second takes most of the first's time."""
        first, second, _ = sorted(self.stage_s, key=lambda name: -self.stage_s[name])
        is_alone = self.stage_s[second] < _ALONE * self.stage_s[first]
        return first if is_alone else f"{first}, {second}"


def bound(stages: Stages, upload_s: float) -> Bound:
    """The longest stage, the round trip, and behind an upload one step of the cloud.

    Args:
        stages: As measured without cutting.
        upload_s: For the bytes that were sent, at the link's rate, without its delay.
    """
    found = {
        "link": upload_s + stages.least_step_s,
        "device": stages.device_s + stages.least_step_s,
        "cloud": stages.cloud_s,
    }
    return Bound(stages.rtt_s + max(found.values()), found)


def oracle_upload_s(rate: Rate, begun_s: float, num_bytes: int) -> float:
    """How long an upload takes for who knows a recorded link, sending from `begun_s` on.

    Args:
        rate: Of Ethernet frames, as the link was opened with.
        begun_s: Since the link was opened.
        num_bytes: That TCP carries.
    """
    return rate.sent_at(begun_s, round(num_bytes * FRAME_SHARE)) - begun_s
