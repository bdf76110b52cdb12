"""One generation under virtual time: performs a production session's actions as `Driver` does.

The methods are those of `device_runtime.runtime.driver`, with waits in the place of awaits; what is
measured, and when, is the same.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from bench.sim.acceptance import Text
from bench.sim.device import Device, Place
from bench.sim.device_engine import SimEngine
from bench.sim.device_link import Rows, SimStream
from bench.sim.kernel import Process
from bench.sim.timeline import Timeline
from device_runtime.drafting.choice import Drafting
from device_runtime.generation.request import CloudUnavailableError
from device_runtime.generation.stats import GenerationStats
from device_runtime.generation.tokens import Emission, Token
from device_runtime.runtime.outage import MAX_RECOVERIES
from device_runtime.session.acceptance import walk
from device_runtime.session.actions import (
    Action,
    AwaitReply,
    Choose,
    ComputeAndSend,
    Draft,
    Emit,
    FeedOutput,
    Finish,
    Reopen,
)
from device_runtime.session.session import ReplyFacts, Session
from wire.messages import Reply

_ROWS_PER_PREPARATION = 32


@dataclass(frozen=True, slots=True)
class Parts:
    """What one generation is made of; `emit` is told of tokens as they are decided."""

    device: Device
    session: Session
    place: Place
    text: Text
    drafting: Drafting
    stats: GenerationStats
    timeline: Timeline
    emit: Callable[[Emission], None]


class SimDriver:
    """Decides nothing."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._device = parts.device
        self._session = parts.session
        self._stats = parts.stats
        self._sequence = parts.place.sequence
        self._reply: Reply | None = None
        self._failure: CloudUnavailableError | None = None
        self._sent = (0, 0)
        self._sent_s = 0.0
        self._verifying: ComputeAndSend | None = None
        self._is_ahead = False
        self._decided_s: float | None = None
        self._num_recoveries = 0
        self._pending: deque[Action] = deque()
        self.num_valid_tokens = 0

    @property
    def place(self) -> Place:
        """Where the generation has its caches."""
        return self._parts.place

    @property
    def next_epoch(self) -> int:
        """The first epoch that a session continuing this one may use."""
        return self._session.epoch + 1

    @property
    def _now(self) -> float:
        return self._device.kernel.now

    @property
    def _stream(self) -> SimStream:
        return self._parts.place.stream

    def begin(self) -> Process[None]:
        """Send the first chunk, and more of them as long as the cloud has not opened the session.

        Raises:
            CloudUnavailableError: the cloud does not open the session.
        """
        pending = self._pending
        pending.extend(self._session.start())
        pending.extend((yield from self._perform_or_recover(pending.popleft())))
        while isinstance(pending[0], ComputeAndSend) and not self._stream.is_opened:
            pending.extend((yield from self._perform_or_recover(pending.popleft())))
        if isinstance(pending[0], AwaitReply):
            started_s = self._now
            yield from self._catch_up(lambda: self._stream.is_opened)
            self._stats.wait_s += self._now - started_s

    def run(self) -> Process[None]:
        """Go on until there is nothing to do.

        Raises:
            CloudUnavailableError: the cloud ended the session for good.
        """
        pending = self._pending
        while pending:
            action = pending.popleft()
            if isinstance(action, Emit):
                self._parts.emit(action.emission)
                if self._device.overheads.emission_s:
                    # The driver goes on once the HTTP face has written the piece.
                    yield self._device.overheads.emission_s
            elif isinstance(action, Reopen):
                pending.extend((yield from self._reopen()))
            else:
                pending.extend((yield from self._perform_or_recover(action)))

    def _perform_or_recover(self, action: Action) -> Process[list[Action]]:
        try:
            return (yield from self._perform(action))
        except CloudUnavailableError as failure:
            if not self._stream.is_opened:
                raise
            self._failure = failure
            return self._session.on_lost()

    def _reopen(self) -> Process[list[Action]]:
        """As `Outage.over`: the same session, opened again by its key, within the patience."""
        device, place = self._device, self._parts.place
        started_s = self._now
        until_s = started_s + device.config.reconnect_timeout_s
        failure = self._failure
        assert failure is not None, "a failure comes before the recovery"
        self._num_recoveries += 1
        num_refusals = 0
        while True:
            pause_s = device.pause_s(failure, num_refusals)
            is_late = pause_s is None or self._now + pause_s >= until_s
            if is_late or self._num_recoveries > MAX_RECOVERIES:
                raise failure
            if pause_s:
                yield pause_s
            device.link.close(place.stream)
            stream = place.stream = device.link.open(self._stream.request.max_tokens, place.stream)
            try:
                yield from stream.until(lambda: place.stream.num_cached_tokens is not None)
                break
            except CloudUnavailableError as refusal:
                failure = refusal
                num_refusals += 1
        self._stats.num_recoveries += 1
        self._stats.recovery_s += self._now - started_s
        limits = device.link.limits
        assert limits is not None
        assert stream.num_cached_tokens is not None
        return self._session.on_reopened(stream.num_cached_tokens, limits.max_frame_tokens)

    def _perform(self, action: Action) -> Process[list[Action]]:
        match action:
            case ComputeAndSend():
                return (yield from self._compute_and_send(action))
            case AwaitReply():
                return (yield from self._await_reply())
            case Choose():
                return (yield from self._choose(action))
            case Draft():
                return (yield from self._draft(action))
            case Finish():
                self.num_valid_tokens = action.num_valid_tokens
            case FeedOutput():
                # Only where every row comes back, which these devices have no layers for.
                pass
            case _:
                raise AssertionError("performed by run")
        return []

    def _compute_and_send(self, action: ComputeAndSend) -> Process[list[Action]]:
        started_s = self._now
        num_rows = len(action.token_ids)
        what = "verify" if action.is_verify else "prefill"

        def run(engine: SimEngine) -> float:
            engine.input_rows(self._sequence, num_rows, action.position)
            return self._now

        begun_s = yield from self._device.run(run)
        computed_s = self._now
        self._parts.timeline.add("device", what, begun_s, computed_s, num_rows)
        self._verifying = action if action.is_verify else None
        self._device.link.monitor.on_prefill(num_rows, computed_s - begun_s)
        place = (action.epoch, action.position, num_rows, action.want)
        yield from self._device.link.send(self._stream, Rows(*place, action.is_verify))
        self._stats.input_s += computed_s - started_s
        self._sent, self._sent_s = (action.epoch, action.position), self._now
        self._parts.timeline.sent(self._sent, self._now, what, num_rows)
        self._stats.send_s += self._sent_s - computed_s
        self._stats.num_chunks += not action.is_verify
        return self._session.on_sent(len(self._stream.replies))

    def _await_reply(self) -> Process[list[Action]]:
        started_s = self._now
        yield from self._use_the_wait()
        stream = self._stream
        yield from stream.until(lambda: bool(stream.replies))
        reply = stream.replies.popleft()
        now = self._now
        self._stats.wait_s += now - started_s
        self._stats.cloud_queue_s += reply.queue_s
        self._stats.cloud_compute_s += reply.compute_s
        key = (reply.epoch, reply.position)
        self._parts.timeline.answered(key, now, reply.queue_s, reply.compute_s)
        if self._stats.num_output_tokens > 0 and key == self._sent:
            self._stats.add_link_delay(now - self._sent_s - reply.queue_s - reply.compute_s)
        self._reply = reply
        facts = ReplyFacts(reply.epoch, reply.position, reply.num_rows, reply.cached_tokens)
        return self._session.on_reply(facts, len(stream.replies))

    def _use_the_wait(self) -> Process[None]:
        adapter, sequence = self._parts.drafting.adapter, self._sequence
        is_left = yield from self._catch_up(self._has_reply)
        if adapter is None or is_left or not self._is_ahead or self._verifying is None:
            return
        adapter.begin_ahead(self._verifying.token_ids, self._verifying.position)
        begun_s = self._now
        yield from self._work_until(
            self._has_reply,
            lambda engine: adapter.work_ahead(engine, sequence),  # type: ignore[arg-type]
        )
        if self._now > begun_s:
            self._parts.timeline.add("device", "ahead", begun_s, self._now, 0)

    def _catch_up(self, is_over: Callable[[], bool]) -> Process[bool]:
        """Bring the adapter up to what was sent; whether some was left when the wait was over."""
        if self._parts.drafting.adapter is None:
            return False
        sequence = self._sequence
        return (
            yield from self._work_until(
                is_over, lambda engine: engine.prepare_draft(sequence, _ROWS_PER_PREPARATION)
            )
        )

    def _work_until(
        self, is_over: Callable[[], bool], work: Callable[[SimEngine], bool]
    ) -> Process[bool]:
        """Do work piece by piece; whether some was left when the wait was over."""
        while self._stream.is_live and not is_over():
            if not (yield from self._device.run(work)):
                return False
        return True

    def _has_reply(self) -> bool:
        return bool(self._stream.replies)

    def _choose(self, action: Choose) -> Process[list[Action]]:
        started_s = self._now
        tokens = yield from self._device.run(lambda engine: self._decide(engine, action))
        now = self._now
        self._parts.timeline.add("device", "verify", started_s, now, len(action.draft) + 1)
        self._stats.output_s += now - started_s
        self._num_recoveries = 0
        self._learn_ahead(len(tokens), now)
        actions = self._session.on_chosen(tokens, now)
        if self._stats.num_output_tokens > 0:
            self._stats.add_round(len(action.draft), self._session.num_accepted)
        self._stats.num_output_tokens += len(tokens)
        return actions

    def _learn_ahead(self, num_tokens: int, now: float) -> None:
        drafting, switch = self._parts.drafting, self._parts.drafting.ahead
        if drafting.adapter is None or switch is None:
            return
        if self._decided_s is not None:
            switch.on_round(self._is_ahead, num_tokens, now - self._decided_s)
        self._decided_s = now
        self._is_ahead = switch.is_on()
        self._stats.num_ahead_tokens = drafting.adapter.num_ahead_tokens
        self._stats.num_ahead_kept_tokens = drafting.adapter.num_kept_tokens

    def _decide(self, engine: SimEngine, action: Choose) -> list[Token]:
        """The walk along the target's choices, which are the text's own."""
        engine.logits(len(action.draft) + 1)
        num_text = len(self._session.text)
        truth = self._parts.text.truth
        token_ids = walk(action.draft, lambda index: truth(num_text + index), frozenset())
        engine.decided(self._sequence, num_text + len(token_ids))
        if (adapter := self._parts.drafting.adapter) is not None:
            adapter.decided(token_ids)
        return [Token(token_id) for token_id in token_ids]

    def _draft(self, action: Draft) -> Process[list[Action]]:
        started_s = self._now
        draft: tuple[int, ...] = ()
        if action.num_tokens:
            draft = yield from self._proposal(action.num_tokens)
        drafted_s = self._now - started_s
        if drafted_s:
            self._parts.timeline.add("device", "draft", started_s, self._now, len(draft))
        self._device.link.monitor.on_draft(len(draft), drafted_s)
        self._stats.draft_s += drafted_s
        return self._session.on_draft(draft, started_s)

    def _proposal(self, num_tokens: int) -> Process[tuple[int, ...]]:
        drafting, text = self._parts.drafting, self._session.text
        if (adapter := drafting.adapter) is None:
            return drafting.drafter.propose(num_tokens)
        sequence = self._sequence
        return (
            yield from self._device.run(
                lambda engine: adapter.propose(engine, sequence, text, num_tokens)  # type: ignore[arg-type]
            )
        )
