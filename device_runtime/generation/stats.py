"""What one generation did, in numbers; no text, no token ids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from chunking.chooser import ChunkChoice
from device_runtime.generation.timeline import Timeline


@dataclass(slots=True)
class DraftCounts:
    """Tokens that one drafter drafted for verification, and those that became text."""

    drafted: int = 0
    accepted: int = 0


@dataclass(slots=True)
class GenerationStats:
    """Filled while the generation runs, complete when its iterator has ended.

    The times from `queue_s` to `draft_s` add up to about `total_s`; the rest is the reader's own.
    """

    num_reused_tokens: int = 0
    """Tokens of the prompt that were in the caches already."""
    num_output_tokens: int = 0
    num_chunks: int = 0
    """Frames that the prompt went up in, those of a replay included."""
    num_rounds: int = 0
    """Verifications, those of empty drafts included."""
    num_recoveries: int = 0
    is_alone: bool = False
    """The draft model alone has answered, without the cloud."""
    num_behind_rows: int = 0
    """Rows sent behind a draft that was not decided yet."""
    num_stale_rows: int = 0
    """As many of these as turned out to be of no use."""
    drafted_by_position: list[int] = field(default_factory=list)
    """Index i: in how many rounds an (i + 1)-th token was drafted."""
    accepted_by_position: list[int] = field(default_factory=list)
    """Index i: in how many of these it was kept."""
    drafted_by: Mapping[str, DraftCounts] = field(default_factory=dict)
    """By drafter; rounds that were sent behind others or interrupted are left out."""
    chunks: Sequence[ChunkChoice] = ()
    """The sizes that the prompt was cut into, each with what was known at that moment."""
    bytes_up: int = 0
    bytes_down: int = 0
    saved_up: int = 0
    saved_down: int = 0
    """Bytes that coded rows took less than RAW ones."""
    lossy_up: int = 0
    lossy_down: int = 0
    """Rows that a lossy codec rounded."""
    queue_s: float = 0.0
    """Waiting for a turn."""
    open_s: float = 0.0
    """Opening the session, as far as chunks are not worked on or under way meanwhile."""
    input_s: float = 0.0
    """Input submodel."""
    send_s: float = 0.0
    """Handing rows to the link."""
    wait_s: float = 0.0
    """Waiting for replies."""
    recovery_s: float = 0.0
    """Getting a lost cloud back."""
    output_s: float = 0.0
    """Output submodel and choice of tokens."""
    draft_s: float = 0.0
    cloud_queue_s: float = 0.0
    """The cloud's own measure, like `cloud_compute_s`: within `wait_s`, for overlapping chunks
    partly before it."""
    cloud_compute_s: float = 0.0
    link_delay_s: float | None = None
    """The least time from sending a draft to its reply that the cloud did not spend on it."""
    first_token_s: float | None = None
    """From the call."""
    total_s: float = 0.0
    timeline: Timeline = field(default_factory=Timeline)
    """Kept for requests that ask for it."""

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
