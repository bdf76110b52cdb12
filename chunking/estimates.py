"""What is known about device, link and cloud at one moment, as a value."""

from dataclasses import dataclass

from chunking.cost import LinearTime, PipelineTimes


@dataclass(frozen=True, slots=True)
class Estimates:
    """Measured so far; `None` where nothing was measured yet.

    `delay_s` is the round trip of an empty link, `cloud_queue_s` the wait before a step behind
    other devices' work. `cloud_step` is g, the seconds of a step over its tokens; `prefill` the
    device's input submodel. `token_bytes` are what one token's states take on the wire.
    """

    token_bytes: int = 0
    uplink_bytes_per_s: float | None = None
    downlink_bytes_per_s: float | None = None
    delay_s: float | None = None
    cloud_queue_s: float | None = None
    cloud_step: LinearTime | None = None
    prefill: LinearTime | None = None
    draft_token_s: float | None = None

    def times(self) -> PipelineTimes | None:
        """The cost model's view, once the stages that matter are known."""
        if self.uplink_bytes_per_s is None or self.cloud_step is None or self.prefill is None:
            return None
        delay_s = (self.delay_s or 0.0) + (self.cloud_queue_s or 0.0)
        uplink_token_s = self.token_bytes / self.uplink_bytes_per_s
        return PipelineTimes(self.prefill, uplink_token_s, self.cloud_step, delay_s)


UNKNOWN = Estimates()
