"""Performs a session's actions: engine, link, sampler and drafter at its service."""

from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass

import numpy as np

from chunking.state_monitor import StateMonitor
from device_runtime.drafting.choice import Drafting
from device_runtime.engines.engine import DeviceEngine, Rows
from device_runtime.engines.workers import Workers
from device_runtime.generation.request import CloudUnavailableError, GenerationRequest
from device_runtime.generation.stats import GenerationStats
from device_runtime.generation.timeline import Work
from device_runtime.generation.tokens import Emission, Token
from device_runtime.link.session import LinkSession, OutgoingRows
from device_runtime.runtime.outage import Outage
from device_runtime.runtime.places import Place
from device_runtime.sampling.sampler import Sampler
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
from wire.messages import Payload, Reply
from wire.numbers import RowRangeError, pack_rows, unpack_rows

# About as long as a draft: a reply that comes meanwhile hardly waits.
_ROWS_PER_PREPARATION = 32


@dataclass(frozen=True, slots=True)
class Parts:
    """What one generation is made of. `clock` is monotonic, in seconds."""

    request: GenerationRequest
    session: Session
    place: Place
    sampler: Sampler
    drafting: Drafting
    outage: Outage
    monitor: StateMonitor
    stats: GenerationStats
    clock: Callable[[], float]


class Driver:
    """Decides nothing; measures what it does."""

    def __init__(self, parts: Parts, engine: Workers) -> None:
        self._parts = parts
        self._engine = engine
        self._session = parts.session
        self._sequence = parts.place.sequence
        self._stats = parts.stats
        self._clock = parts.clock
        self._reply: Reply | None = None
        self._failure: CloudUnavailableError | None = None
        self._most_cached_tokens = 0
        self._num_valid_tokens = 0
        self._sent = (0, 0)
        self._sent_s = 0.0
        self._verifying: ComputeAndSend | None = None
        self._is_ahead = False
        self._decided_s: float | None = None
        self._pending: deque[Action] = deque()

    @property
    def place(self) -> Place:
        """Where the generation has its caches."""
        return self._parts.place

    @property
    def valid_text(self) -> Sequence[int]:
        """The tokens that both caches hold, once the session has finished."""
        return self._session.text[: self._num_valid_tokens]

    @property
    def next_epoch(self) -> int:
        """The first epoch that a session continuing this one may use."""
        return self._session.epoch + 1

    async def begin(self) -> None:
        """Send the first chunk, and more of them as long as the cloud has not opened the session.

        What a new session holds is known before the cloud says so; waiting for it would cost every
        prompt a round trip. Source: rule W26 of docs/wire-protocol.md.

        Raises:
            CloudUnavailableError: the cloud does not open the session.
        """
        pending = self._pending
        pending.extend(self._session.start())
        pending.extend(await self._perform_or_recover(pending.popleft()))
        # The first chunk is on its way, so the engine's thread has time to index the prompt.
        self._engine.run_later(self._index_prompt)
        while isinstance(pending[0], ComputeAndSend) and not self._stream.is_opened:
            pending.extend(await self._perform_or_recover(pending.popleft()))
        if isinstance(pending[0], AwaitReply):
            started_s = self._clock()
            await self._catch_up(lambda: self._stream.is_opened)
            self._stats.wait_s += self._clock() - started_s

    async def run(self) -> AsyncGenerator[Emission]:
        """Go on until there is nothing to do, handing out what is emitted on the way."""
        pending = self._pending
        while pending:
            action = pending.popleft()
            if isinstance(action, Emit):
                yield action.emission
            else:
                pending.extend(await self._perform_or_recover(action))

    @property
    def _stream(self) -> LinkSession:
        """The session in the cloud, another one after each recovery."""
        return self._parts.place.stream

    def _index_prompt(self, engine: DeviceEngine) -> None:
        self._parts.drafting.drafter.extend(self._parts.request.prompt_ids)

    async def _perform_or_recover(self, action: Action) -> list[Action]:
        """Perform an action, or have the session say what to do without the cloud."""
        if isinstance(action, Reopen):
            return await self._reopen()
        try:
            return await self._perform(action)
        except CloudUnavailableError as failure:
            if not self._stream.is_opened:
                # There is nothing to recover yet: whoever asked for the session hears why.
                raise
            self._failure = failure
            return self._session.on_lost()

    async def _reopen(self) -> list[Action]:
        assert self._failure is not None, "a failure comes before the recovery"
        started_s = self._clock()
        reopened = await self._parts.outage.over(self._failure, self._parts.place.reopen)
        if reopened.num_cached_tokens > self._most_cached_tokens:
            # A long replay over a bad link gets there in the end.
            self._most_cached_tokens = reopened.num_cached_tokens
            self._parts.outage.advanced()
        self._stats.num_recoveries += 1
        self._stats.recovery_s += self._clock() - started_s
        return self._session.on_reopened(reopened.num_cached_tokens, reopened.max_frame_tokens)

    async def _perform(self, action: Action) -> list[Action]:
        match action:
            case ComputeAndSend():
                return await self._compute_and_send(action)
            case AwaitReply():
                return await self._await_reply()
            case FeedOutput():
                await self._feed_output(action)
            case Choose():
                return await self._choose(action)
            case Draft():
                return await self._draft(action)
            case Finish():
                self._num_valid_tokens = action.num_valid_tokens
            case Emit():
                raise AssertionError("emissions are handed out by run")
            case Reopen():
                raise AssertionError("recoveries are not recovered from")
        return []

    async def _compute_and_send(self, action: ComputeAndSend) -> list[Action]:
        started_s = self._clock()
        payload, prefill_s = await self._engine.run(lambda eng: self._packed_rows(eng, action))
        computed_s = self._clock()
        num_rows = len(action.token_ids)
        self._verifying = action if action.is_verify else None
        self._parts.monitor.on_prefill(num_rows, prefill_s)
        place = (action.epoch, action.position, num_rows, action.want)
        rows = OutgoingRows(*place, payload, action.is_verify)
        await self._stream.send(rows)
        self._stats.input_s += computed_s - started_s
        self._sent, self._sent_s = (action.epoch, action.position), self._clock()
        work: Work = "verify" if action.is_verify else "prefill"
        self._stats.timeline.worked(work, started_s, computed_s, num_rows)
        self._stats.timeline.sent(self._sent, work, num_rows, self._sent_s)
        self._stats.send_s += self._sent_s - computed_s
        self._stats.num_chunks += not action.is_verify
        return self._session.on_sent(self._stream.num_waiting_replies)

    def _packed_rows(self, engine: DeviceEngine, action: ComputeAndSend) -> tuple[Payload, float]:
        """On the engine's thread: shallow rows in the wire's number format, and the seconds."""
        started_s = self._clock()
        rows = engine.input_rows(self._sequence, action.token_ids, action.position)
        try:
            payload = pack_rows(rows, self._stream.dtype)
        except RowRangeError as error:
            advice = "start the cloud with another --wire-dtype"
            raise CloudUnavailableError(f"what the input layers made: {error}; {advice}") from error
        return payload, self._clock() - started_s

    async def _await_reply(self) -> list[Action]:
        started_s = self._clock()
        await self._use_the_wait()
        reply = await self._stream.reply()
        self._parts.outage.answered()
        now = self._clock()
        self._stats.wait_s += now - started_s
        self._stats.cloud_queue_s += reply.queue_s
        self._stats.cloud_compute_s += reply.compute_s
        frame, came_s = (reply.epoch, reply.position), self._stream.reply_came_s
        self._stats.timeline.answered(frame, reply.queue_s, reply.compute_s, came_s)
        if self._stats.num_output_tokens > 0 and frame == self._sent:
            # Chunks overlap; of a draft the reply is awaited from the moment it is sent.
            self._stats.add_link_delay(now - self._sent_s - reply.queue_s - reply.compute_s)
        self._reply = reply
        facts = ReplyFacts(reply.epoch, reply.position, reply.num_rows, reply.cached_tokens)
        return self._session.on_reply(facts, self._stream.num_waiting_replies)

    async def _use_the_wait(self) -> None:
        """Until the reply comes, bring the adapter up to what was sent, then draft on behind it."""
        is_left = await self._catch_up(self._has_reply)
        adapter = self._parts.drafting.adapter
        if adapter is None or is_left or not self._is_ahead or self._verifying is None:
            return
        started_s, num_before = self._clock(), adapter.num_ahead_tokens
        adapter.begin_ahead(self._verifying.token_ids, self._verifying.position)
        await self._work_until(
            self._has_reply, lambda engine: adapter.work_ahead(engine, self._sequence)
        )
        num_tokens = adapter.num_ahead_tokens - num_before
        self._stats.timeline.worked("ahead", started_s, self._clock(), num_tokens)

    async def _catch_up(self, is_over: Callable[[], bool]) -> bool:
        """Bring the adapter up to what was sent; whether some was left when the wait was over."""
        if self._parts.drafting.adapter is None:
            return False
        return await self._work_until(
            is_over, lambda engine: engine.prepare_draft(self._sequence, _ROWS_PER_PREPARATION)
        )

    async def _work_until(
        self, is_over: Callable[[], bool], work: Callable[[DeviceEngine], bool]
    ) -> bool:
        """Do work piece by piece; whether some was left when the wait was over."""
        while self._stream.is_live and not is_over():
            if not await self._engine.run(work):
                return False
        return True

    def _has_reply(self) -> bool:
        return self._stream.num_waiting_replies > 0

    async def _feed_output(self, action: FeedOutput) -> None:
        started_s = self._clock()
        place = (action.position, 0)
        await self._engine.run(
            lambda engine: engine.logits(self._sequence, self._deep(engine), *place)
        )
        self._stats.output_s += self._clock() - started_s

    async def _choose(self, action: Choose) -> list[Action]:
        started_s = self._clock()
        tokens = await self._engine.run(lambda engine: self._decide(engine, action))
        now = self._clock()
        self._stats.output_s += now - started_s
        self._stats.timeline.worked("verify", started_s, now, len(tokens))
        self._parts.outage.advanced()
        self._most_cached_tokens = 0
        self._learn_ahead(len(tokens), now)
        actions = self._session.on_chosen(tokens, now)
        if self._stats.num_output_tokens > 0:
            # The first token comes from the prompt, all others from a verification.
            self._stats.add_round(len(action.draft), self._session.num_accepted)
        self._stats.num_output_tokens += len(tokens)
        return actions

    def _learn_ahead(self, num_tokens: int, now: float) -> None:
        """Tell the switch what the round brought, and ask it about the next."""
        drafting, switch = self._parts.drafting, self._parts.drafting.ahead
        if drafting.adapter is None or switch is None:
            return
        if self._decided_s is not None:
            switch.on_round(self._is_ahead, num_tokens, now - self._decided_s)
        self._decided_s = now
        self._is_ahead = switch.is_on()
        self._stats.num_ahead_tokens = drafting.adapter.num_ahead_tokens
        self._stats.num_ahead_kept_tokens = drafting.adapter.num_kept_tokens

    def _decide(self, engine: DeviceEngine, action: Choose) -> list[Token]:
        """On the engine's thread: walk the draft along the target's choices, and remember them."""
        num_rows = len(action.draft) + 1
        deep = self._deep(engine)
        logits = engine.logits(self._sequence, deep, action.position, num_rows)
        decided: list[Token] = []

        def choose(index: int) -> int:
            token_id = self._parts.sampler.choose(logits[index])
            decided.append(self._parts.sampler.commit(token_id, logits[index]))
            return token_id

        token_ids = walk(action.draft, choose, self._parts.request.stop_token_ids)
        self._parts.drafting.drafter.extend(token_ids)
        if (adapter := self._parts.drafting.adapter) is not None:
            adapter.decided(token_ids)
        if (medusa := self._parts.drafting.medusa) is not None:
            medusa.decided(deep[len(deep) - num_rows + len(token_ids) - 1])
        return decided

    def _deep(self, engine: DeviceEngine) -> Rows:
        """On the engine's thread: the deep rows `[T, H]` that came last."""
        reply = self._reply
        assert reply is not None, "rows come before logits"
        shape = (reply.num_rows, engine.hidden_size)
        deep = unpack_rows(reply.payload, *shape, reply.dtype)
        return deep.astype(np.float32)

    async def _draft(self, action: Draft) -> list[Action]:
        started_s = self._clock()
        draft = await self._proposal(action.num_tokens) if action.num_tokens else ()
        drafted_s = self._clock() - started_s
        self._parts.monitor.on_draft(len(draft), drafted_s)
        self._stats.draft_s += drafted_s
        if draft:
            self._stats.timeline.worked("draft", started_s, started_s + drafted_s, len(draft))
        return self._session.on_draft(draft, started_s)

    async def _proposal(self, num_tokens: int) -> tuple[int, ...]:
        drafting, text = self._parts.drafting, self._session.text
        if (medusa := drafting.medusa) is not None:
            return await self._engine.run(lambda _: medusa.propose(num_tokens))
        if (adapter := drafting.adapter) is None:
            return drafting.drafter.propose(num_tokens)
        return await self._engine.run(
            lambda engine: adapter.propose(engine, self._sequence, text, num_tokens)
        )
