"""What one generation did, in numbers; no text, no token ids."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from chunking.chooser import ChunkChoice
from device_runtime.generation.timeline import Timeline
from device_runtime.generation.tokens import FinishReason


@dataclass(slots=True)
class GenerationStats:
    """Filled while the generation runs, complete when its iterator has ended.

    Times in seconds add up to about `total_s`: waiting for a turn (`queue_s`), opening the session
    (`open_s`, as far as chunks are not worked on or under way meanwhile), input submodel
    (`input_s`), handing rows to the link (`send_s`), waiting for replies (`wait_s`), getting a
    lost cloud back (`recovery_s`), output submodel and choice (`output_s`), drafting (`draft_s`);
    the rest is the reader's own time.
    `cloud_queue_s` and `cloud_compute_s` are the cloud's own measures and lie within `wait_s`, for
    overlapping chunks partly before it. `link_delay_s` is the least time from sending a draft to
    its reply that the cloud did not spend on it, None before the first. `first_token_s` counts
    from the call.

    `chunks` are the sizes that the prompt was cut into, each with what was known of link, cloud
    and device at that moment.

    `num_ahead_tokens` were drafted while a verification was under way, and of these
    `num_ahead_kept_tokens` were sent with the draft after it.

    Index i of the position lists is the (i + 1)-th drafted token of a round. `timeline` is kept
    for requests that ask for it.
    """

    num_prompt_tokens: int = 0
    num_reused_tokens: int = 0
    num_output_tokens: int = 0
    num_chunks: int = 0
    num_rounds: int = 0
    num_recoveries: int = 0
    num_ahead_tokens: int = 0
    num_ahead_kept_tokens: int = 0
    drafted_by_position: list[int] = field(default_factory=list)
    accepted_by_position: list[int] = field(default_factory=list)
    chunks: Sequence[ChunkChoice] = ()
    bytes_up: int = 0
    bytes_down: int = 0
    queue_s: float = 0.0
    open_s: float = 0.0
    input_s: float = 0.0
    send_s: float = 0.0
    wait_s: float = 0.0
    recovery_s: float = 0.0
    output_s: float = 0.0
    draft_s: float = 0.0
    cloud_queue_s: float = 0.0
    cloud_compute_s: float = 0.0
    link_delay_s: float | None = None
    first_token_s: float | None = None
    total_s: float = 0.0
    finish_reason: FinishReason | None = None
    timeline: Timeline = field(default_factory=Timeline)

    @property
    def num_drafted_tokens(self) -> int:
        """Drafted tokens that were sent for verification."""
        return sum(self.drafted_by_position)

    @property
    def num_accepted_tokens(self) -> int:
        """Drafted tokens that became part of the text."""
        return sum(self.accepted_by_position)

    def add_link_delay(self, delay_s: float) -> None:
        """Take in how long the link took for a draft and its reply."""
        delay_s = max(0.0, delay_s)
        known = self.link_delay_s
        self.link_delay_s = delay_s if known is None else min(known, delay_s)

    def add_round(self, num_drafted: int, num_accepted: int) -> None:
        """Count a verification."""
        self.num_rounds += 1
        missing = num_drafted - len(self.drafted_by_position)
        self.drafted_by_position.extend([0] * missing)
        self.accepted_by_position.extend([0] * missing)
        for index in range(num_drafted):
            self.drafted_by_position[index] += 1
            self.accepted_by_position[index] += index < num_accepted
