"""What is known about device, link and cloud at one moment, as a value."""

from dataclasses import dataclass

from chunking.coding import Coding
from chunking.cost import LinearTime, PipelineTimes


@dataclass(frozen=True, slots=True)
class Estimates:
    """Measured so far; `None` where nothing was measured yet.

    `delay_s` is the round trip of an empty link, `cloud_queue_s` the wait before a step behind
    other devices' work. `cloud_step` is g, the seconds of a step over its tokens; `prefill` the
    device's input submodel. `token_bytes` are what one token's states take on the wire as they are,
    and `coding` is what there is to make them shorter, once it was used.
    """

    token_bytes: int = 0
    uplink_bytes_per_s: float | None = None
    downlink_bytes_per_s: float | None = None
    delay_s: float | None = None
    cloud_queue_s: float | None = None
    cloud_step: LinearTime | None = None
    prefill: LinearTime | None = None
    draft_token_s: float | None = None
    coding: Coding | None = None

    def times(self) -> PipelineTimes | None:
        """The cost model's view, once the stages that matter are known; coded where that pays."""
        plain = self._plain_times()
        if plain is None or self.coding is None or not self.coding.suits_prompts(plain):
            return plain
        return self.coding.applied(plain)

    @property
    def sent_token_bytes(self) -> float:
        """What one token of a prompt takes on the wire, coded or not."""
        return self.token_bytes * (self.coding.share if self.coding and self.codes(1, False) else 1)

    def codes(self, num_tokens: int, is_verify: bool) -> bool:
        """Whether a frame should be coded: a verification of so many tokens, or one of a prompt.

        What is not known yet is found out by coding.
        """
        plain = self._plain_times()
        if plain is None or self.coding is None:
            return True
        if not is_verify:
            return self.coding.suits_prompts(plain)
        reply_token_s = plain.uplink_token_s
        if self.downlink_bytes_per_s is not None:
            reply_token_s = self.token_bytes / self.downlink_bytes_per_s
        return self.coding.suits_verification(num_tokens, plain, reply_token_s)

    def _plain_times(self) -> PipelineTimes | None:
        if self.uplink_bytes_per_s is None or self.cloud_step is None or self.prefill is None:
            return None
        delay_s = (self.delay_s or 0.0) + (self.cloud_queue_s or 0.0)
        uplink_token_s = self.token_bytes / self.uplink_bytes_per_s
        return PipelineTimes(self.prefill, uplink_token_s, self.cloud_step, delay_s)


UNKNOWN = Estimates()
