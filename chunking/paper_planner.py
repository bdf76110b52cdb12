"""The paper's rule: a chunk whose upload takes as long as the cloud's wait and compute."""

from dataclasses import dataclass

from chunking.estimates import Estimates
from chunking.planner import WAIT, Prefill


@dataclass(frozen=True, slots=True)
class PaperPlanner:
    """The smallest X of a grid with `X * A / beta >= waiting + g(X) / P`, clamped to the range.

    A are the bytes of a token's states, beta the uplink rate, waiting the cloud's queue, g the
    predicted step time and P the cloud's pipeline length. The left side grows with X from
    nothing and the right side from something, so where they cross, upload and compute take turns
    without a gap; on a link that is faster than the cloud they never do, and X is the largest.
    Until rate and step time were measured, chunks have `first_tokens`.

    Source: HAT (arXiv:2503.18989), the balance condition of prompt chunking.
    """

    min_tokens: int = 16
    max_tokens: int = 512
    grid_tokens: int = 8
    pipeline_length: int = 1
    first_tokens: int = 64

    def next_chunk_tokens(self, prefill: Prefill) -> int:
        """The balanced size, or what is left; `WAIT` while the uplink has enough to do."""
        num_tokens = min(self._balanced_tokens(prefill.estimates), prefill.num_remaining_tokens)
        return WAIT if prefill.can_wait_with(num_tokens) else num_tokens

    def _balanced_tokens(self, estimates: Estimates) -> int:
        step, bytes_per_s = estimates.cloud_step, estimates.uplink_bytes_per_s
        if step is None or bytes_per_s is None:
            return self.first_tokens
        waiting_s = estimates.cloud_queue_s or 0.0
        for num_tokens in range(self.min_tokens, self.max_tokens, self.grid_tokens):
            upload_s = num_tokens * estimates.sent_token_bytes / bytes_per_s
            if upload_s >= waiting_s + step.of(num_tokens) / self.pipeline_length:
                return num_tokens
        return self.max_tokens
