"""What a device measures of itself, its link and its cloud, kept over all of its requests."""

from collections.abc import Hashable
from dataclasses import dataclass

from chunking.averages import Average, MovingAverage, RobustAverage
from chunking.coding import Coding
from chunking.estimates import Estimates
from chunking.line_estimator import LineEstimator
from chunking.link_estimator import LinkEstimator, Measured


@dataclass(frozen=True, slots=True)
class AnsweredFrame:
    """A reply as it came: how many rows went up, and what the cloud said of its work.

    `queue_s`, `compute_s` and `batch_tokens` are the reply's own fields.
    """

    num_rows: int
    num_reply_bytes: int
    queue_s: float
    compute_s: float
    batch_tokens: int


class StateMonitor:
    """Takes measurements, and gives `Estimates` at any moment. Clock readings are passed in.

    `is_robust` False smooths everything as the paper does. With `always_codes` rows that can be
    coded are, whatever that brings.
    """

    def __init__(self, is_robust: bool = True, always_codes: bool = False) -> None:
        self._is_robust = is_robust
        self._always_codes = always_codes
        self._coding = LineEstimator(self._average)
        self._coded_share = self._average()
        self.can_code = False
        """Whether both sides of the present connection speak a codec."""
        self.link = LinkEstimator(is_robust)
        self._cloud_step = LineEstimator(self._average)
        self._prefill = LineEstimator(self._average)
        self._draft_token_s = self._average()

    def estimates(self, token_bytes: int) -> Estimates:
        """What is known now, for states of so many bytes a token."""
        return Estimates(
            token_bytes=token_bytes,
            uplink_bytes_per_s=self.link.uplink_bytes_per_s,
            downlink_bytes_per_s=self.link.downlink_bytes_per_s,
            delay_s=self.link.delay_s,
            cloud_queue_s=self.link.cloud_queue_s,
            cloud_step=self._cloud_step.line,
            prefill=self._prefill.line,
            draft_token_s=self._draft_token_s.value,
            coding=self._known_coding(),
        )

    def on_reply(self, key: Hashable, answered: AnsweredFrame, now: float) -> None:
        """The reply to a frame that `link.on_sent` knows by the same key."""
        measured = Measured(answered.num_reply_bytes, answered.queue_s, answered.compute_s)
        self.link.on_reply(key, measured, now)
        # A frame longer than its last batch was split, and its time is that of several steps.
        if answered.num_rows <= answered.batch_tokens:
            self._cloud_step.add(answered.batch_tokens, answered.compute_s)

    def on_prefill(self, num_tokens: int, seconds: float) -> None:
        """The input submodel took so long for a chunk."""
        self._prefill.add(num_tokens, seconds)

    def on_coded(self, num_tokens: int, seconds: float, share: float) -> None:
        """Coding the rows of so many tokens took so long, and left this share of their bytes."""
        self._coding.add(num_tokens, seconds)
        self._coded_share.add(share)

    def on_draft(self, num_tokens: int, seconds: float) -> None:
        """Drafting so many tokens took so long."""
        if num_tokens > 0:
            self._draft_token_s.add(seconds / num_tokens)

    def _known_coding(self) -> Coding | None:
        line, share = self._coding.line, self._coded_share.value
        if not self.can_code or line is None or share is None:
            return None
        return Coding(line, share, self._always_codes)

    def _average(self) -> Average:
        return RobustAverage() if self._is_robust else MovingAverage()
