"""What one generation did, told once: to its figures, its timeline, and the link's monitor."""

from collections.abc import Mapping, Sequence

from chunking.chooser import ChunkChoice
from chunking.state_monitor import StateMonitor
from device_runtime.generation.stats import DraftCounts, GenerationStats
from device_runtime.generation.timeline import Timeline, Work
from device_runtime.runtime.place import Place
from device_runtime.session.actions import Choose, ComputeAndSend
from process.world import Clock
from wire.messages import Reply


class Recorder:
    """Each method takes what has just ended; `started_s` is when it began, by the same clock."""

    def __init__(
        self, stats: GenerationStats, monitor: StateMonitor, clock: Clock, wants_timeline: bool
    ) -> None:
        self._stats = stats
        self._monitor = monitor
        self.clock = clock
        """Monotonic, in seconds."""
        self._called_s = clock()
        if wants_timeline:
            stats.timeline = Timeline(self._called_s)
        self._timeline = stats.timeline
        self._computed_s = 0.0
        self._sent = (0, 0)
        self._sent_s = 0.0

    def queued(self) -> None:
        """The generation has got its turn."""
        self._stats.queue_s = self.clock() - self._called_s

    def opened(self, started_s: float) -> None:
        """There is a place; what was worked on and waited for meanwhile counts as that."""
        work_s = self._stats.input_s + self._stats.send_s + self._stats.wait_s
        self._stats.open_s = self.clock() - started_s - work_s

    def placed(self, num_reused_tokens: int, chunks: Sequence[ChunkChoice]) -> None:
        """A place was found that holds so much of the prompt; `chunks` grows with its chunks."""
        self._stats.num_reused_tokens = num_reused_tokens
        self._stats.chunks = chunks
        # What went up to a place that was refused is no part of the answer.
        self._stats.num_chunks = 0

    def drafts(self, drafted_by: Mapping[str, DraftCounts]) -> None:
        """These drafters draft, and count what comes of it."""
        self._stats.drafted_by = drafted_by

    def computed(self, action: ComputeAndSend, started_s: float, engine_s: float) -> None:
        """Shallow rows were made; the engine took `engine_s` of that."""
        now, num_rows = self.clock(), len(action.token_ids)
        self._stats.input_s += now - started_s
        self._monitor.on_prefill(num_rows, engine_s)
        self._timeline.worked(_work(action), started_s, now, num_rows)
        self._computed_s = now

    def sent(self, action: ComputeAndSend) -> None:
        """The rows computed last were handed to the link."""
        now = self.clock()
        self._sent, self._sent_s = (action.epoch, action.position), now
        self._stats.send_s += now - self._computed_s
        self._stats.num_chunks += not action.is_verify
        self._timeline.sent(self._sent, _work(action), len(action.token_ids), now)

    def waited(self, started_s: float) -> None:
        """The cloud was waited for."""
        self._stats.wait_s += self.clock() - started_s

    def answered(self, reply: Reply, started_s: float, came_s: float) -> None:
        """A reply was waited for and came at `came_s`."""
        now, stats, frame = self.clock(), self._stats, (reply.epoch, reply.position)
        stats.wait_s += now - started_s
        stats.cloud_queue_s += reply.queue_s
        stats.cloud_compute_s += reply.compute_s
        self._timeline.answered(frame, reply.queue_s, reply.compute_s, came_s)
        if stats.num_output_tokens > 0 and frame == self._sent:
            # Chunks overlap; of a draft the reply is awaited from the moment it is sent.
            stats.add_link_delay(now - self._sent_s - reply.queue_s - reply.compute_s)

    def drafted_ahead(self, started_s: float, num_tokens: int) -> None:
        """While a reply was waited for, so many tokens were drafted behind what was sent."""
        if num_tokens > 0:
            self._timeline.worked("ahead", started_s, self.clock(), num_tokens)

    def fed(self, started_s: float) -> None:
        """Deep rows went through the output layers."""
        self._stats.output_s += self.clock() - started_s

    def chose(self, action: Choose, num_tokens: int, num_accepted: int, started_s: float) -> None:
        """A round has decided so many tokens, of which so many were drafted."""
        now, stats = self.clock(), self._stats
        stats.output_s += now - started_s
        self._timeline.worked("verify", started_s, now, num_tokens)
        if stats.num_output_tokens > 0:
            # The first token comes from the prompt, all others from a verification.
            stats.add_round(len(action.draft), num_accepted)
        stats.num_output_tokens += num_tokens

    def pipelined(self, num_behind_rows: int, num_stale_rows: int) -> None:
        """So many rows were sent behind undecided drafts so far, and so many of them in vain."""
        self._stats.num_behind_rows = num_behind_rows
        self._stats.num_stale_rows = num_stale_rows

    def drafted(self, draft: Sequence[int], started_s: float) -> None:
        """A draft, perhaps an empty one, was made."""
        now = self.clock()
        self._monitor.on_draft(len(draft), now - started_s)
        self._stats.draft_s += now - started_s
        if draft:
            self._timeline.worked("draft", started_s, now, len(draft))

    def read_alone(self, started_s: float, num_tokens: int) -> None:
        """There is no cloud, and the draft model has read so many tokens of the prompt."""
        now = self.clock()
        self._stats.is_alone = True
        self._stats.input_s += now - started_s
        self._timeline.worked("prefill", started_s, now, num_tokens)

    def drafted_alone(self, started_s: float) -> None:
        """It has said one token."""
        now = self.clock()
        self._stats.draft_s += now - started_s
        self._stats.num_output_tokens += 1
        self._timeline.worked("draft", started_s, now, 1)

    def recovered(self, started_s: float, num_cached_tokens: int) -> None:
        """A lost cloud is back, and holds so much of the text; the rest goes up again."""
        stats = self._stats
        stats.num_recoveries += 1
        if stats.num_output_tokens == 0:
            # Before the first token what was reused may turn out to be gone.
            stats.num_reused_tokens = min(stats.num_reused_tokens, num_cached_tokens)
        self._stats.recovery_s += self.clock() - started_s

    def emitted(self) -> None:
        """Tokens are handed out."""
        if self._stats.first_token_s is None:
            self._stats.first_token_s = self.clock() - self._called_s

    def carried(self, place: Place) -> None:
        """All is sent and received."""
        carried, stats = place.carried, self._stats
        stats.bytes_up, stats.bytes_down = carried.up, carried.down
        stats.saved_up, stats.saved_down = carried.saved_up, carried.saved_down
        stats.lossy_up, stats.lossy_down = carried.lossy_up, carried.lossy_down

    def ended(self) -> None:
        """The generation is over."""
        self._stats.total_s = self.clock() - self._called_s


def _work(action: ComputeAndSend) -> Work:
    return "verify" if action.is_verify else "prefill"
