"""Performs a session's actions: engine, link, sampler and drafter at its service."""

from collections import deque
from collections.abc import AsyncGenerator, Callable
from functools import partial

import numpy as np

from device_runtime.drafting.protocol import Drafter
from device_runtime.engines.engine import DeviceEngine, Rows, TappedEngine
from device_runtime.generation.request import CloudUnavailableError, Emission, RankedToken, Token
from device_runtime.link.session import LinkSession
from device_runtime.runtime.outage import Outage
from device_runtime.runtime.place import Place
from device_runtime.runtime.recorder import Recorder
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
    Reopen,
    Score,
)
from device_runtime.session.session import Session
from wire.messages import Payload, Reply
from wire.numbers import RowRangeError, pack_rows, unpack_reply

_SCORED_AT_ONCE = 32
"""Rows of one call on the engine; a row's logits are a number for each token there is."""


class Driver:
    """One generation under way. Decides nothing; tells the recorder what it did."""

    def __init__(
        self,
        session: Session,
        place: Place,
        sampler: Sampler,
        drafter: Drafter,
        outage: Outage,
        recorder: Recorder,
    ) -> None:
        self.place = place
        """Where the generation has its caches."""
        self.session = session
        self._sampler = sampler
        self._drafter = drafter
        self._outage = outage
        self._recorder = recorder
        self._clock = recorder.clock
        self._workers = place.workers
        self._sequence = place.sequence
        self._sent: ComputeAndSend | None = None
        self._reply: Reply | None = None
        self._failure: CloudUnavailableError | None = None
        self._pending: deque[Action] = deque()

    async def begin(self) -> None:
        """Send the first chunk, and more of them as long as the cloud has not opened the session.

        What a new session holds is known before the cloud says so; waiting for it would cost every
        prompt a round trip. Source: rule W26 of docs/wire-protocol.md.

        Raises:
            CloudUnavailableError: the cloud does not open the session.
        """
        pending = self._pending
        pending.extend(self.session.start())
        pending.extend(await self._perform_or_recover(pending.popleft()))
        # The first chunk is on its way, so the engine's thread has time to index the prompt.
        prompt_ids = tuple(self.session.text)
        self._workers.run_later(lambda _: self._drafter.begin(prompt_ids))
        while isinstance(pending[0], ComputeAndSend) and not self._stream.is_opened:
            pending.extend(await self._perform_or_recover(pending.popleft()))
        if isinstance(pending[0], AwaitReply):
            started_s = self._clock()
            await self._work_until(lambda: self._stream.is_opened)
            self._recorder.waited(started_s)

    async def run(self) -> AsyncGenerator[Emission]:
        """Go on until there is nothing to do, handing out what is emitted on the way."""
        pending = self._pending
        while pending:
            action = pending.popleft()
            if isinstance(action, Emit):
                yield action.emission
            else:
                pending.extend(await self._perform_or_recover(action))
                self._tell_settled(pending[0] if pending else None)

    def _tell_settled(self, following: Action | None) -> None:
        """Whoever waits for the beginning of this prompt may copy as much of it as is cached.

        What a reply has just brought is not in the engine's caches before it was taken in there.
        """
        run = self.place.run
        is_taken_in = not isinstance(following, FeedOutput | Score | Choose | Reopen)
        if run is not None and is_taken_in:
            run.settle(self.session.num_settled_tokens)

    @property
    def _stream(self) -> LinkSession:
        """The session in the cloud, another one after each recovery."""
        return self.place.stream

    async def _perform_or_recover(self, action: Action) -> list[Action]:
        """Perform an action, or have the session say what to do without the cloud."""
        try:
            return await self._perform(action)
        except CloudUnavailableError as failure:
            if isinstance(action, Reopen) or not self._stream.is_opened:
                # The recovery failed, or there is nothing to recover yet.
                raise
            self._failure = failure
            if self.place.run is not None:
                self.place.run.stall()
            return self.session.on_lost()

    async def _reopen(self) -> list[Action]:
        assert self._failure is not None, "a failure comes before the recovery"
        started_s = self._clock()
        num_cached = await self._outage.over(self._failure, self.place.reopen)
        self._outage.reopened(num_cached)
        self._recorder.recovered(started_s, num_cached)
        return self.session.on_reopened(num_cached, self.place.max_frame_tokens)

    async def _perform(self, action: Action) -> list[Action]:
        match action:
            case ComputeAndSend():
                return await self._compute_and_send(action)
            case AwaitReply():
                return await self._await_reply()
            case FeedOutput():
                return await self._feed_output(action)
            case Score():
                return await self._score(action)
            case Choose():
                return await self._choose(action)
            case Draft():
                return await self._draft(action)
            case Reopen():
                return await self._reopen()
            case Emit():
                raise AssertionError("emissions are handed out by run")

    async def _compute_and_send(self, action: ComputeAndSend) -> list[Action]:
        started_s = self._clock()
        payload, engine_s = await self._workers.run(
            lambda engine: self._packed_rows(engine, action)
        )
        self._recorder.computed(action, started_s, engine_s)
        await self._stream.send(action, payload)
        self._recorder.sent(action)
        self._sent = action
        return self.session.on_sent(self._stream.num_waiting_replies)

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
        started_s, num_before = self._clock(), self._drafter.num_ahead_tokens
        await self._work_until(lambda: self._stream.num_waiting_replies > 0)
        self._recorder.drafted_ahead(started_s, self._drafter.num_ahead_tokens - num_before)
        reply = await self._stream.reply()
        self._outage.answered()
        self._recorder.answered(reply, started_s, self._stream.reply_came_s)
        self._reply = reply
        return self.session.on_reply(reply, self._stream.num_waiting_replies)

    async def _work_until(self, is_over: Callable[[], bool]) -> None:
        """Let the drafter work, piece by piece, until the wait is over or nothing is left to do."""
        assert self._sent is not None, "what is waited for was sent"
        while self._stream.is_live and not is_over():
            if not await self._drafter.work(self._workers, self._sequence, self._sent):
                return

    async def _feed_output(self, action: FeedOutput) -> list[Action]:
        started_s = self._clock()
        await self._workers.run(
            lambda engine: engine.logits(
                self._sequence, self._deep(engine, action.position), action.position, 0
            )
        )
        self._recorder.fed(started_s)
        return []

    async def _score(self, action: Score) -> list[Action]:
        """A few rows at a time: others have their turn between, and logits take much memory."""
        started_s = self._clock()
        num_rows = len(action.next_ids)
        deep = await self._workers.run(lambda engine: self._deep(engine, action.position, num_rows))
        scored: list[RankedToken] = []
        for start in range(0, num_rows, _SCORED_AT_ONCE):
            scored += await self._workers.run(partial(self._ranked, action, deep, start))
        self._recorder.fed(started_s)
        self.session.prompt_scores.take(action.position, scored)
        return []

    def _ranked(
        self, action: Score, deep: Rows, start: int, engine: DeviceEngine
    ) -> list[RankedToken]:
        """On the engine's thread: the tokens behind some of the rows."""
        rows = deep[start : start + _SCORED_AT_ONCE]
        logits = engine.logits(self._sequence, rows, action.position + start, len(rows))
        ids = action.next_ids[start : start + _SCORED_AT_ONCE]
        pairs = zip(ids, logits, strict=True)
        return [self._sampler.ranked(token_id, row) for token_id, row in pairs]

    async def _choose(self, action: Choose) -> list[Action]:
        started_s = self._clock()
        tokens = await self._workers.run(lambda engine: self._decide(engine, action))
        self._outage.advanced()
        num_waiting = self._stream.num_waiting_replies
        actions = self.session.on_chosen(tokens, self._clock(), num_waiting)
        self._recorder.chose(action, len(tokens), self.session.num_accepted, started_s)
        rounds = self.session.rounds
        self._recorder.pipelined(rounds.num_behind_rows, rounds.num_stale_rows)
        return actions

    def _decide(self, engine: DeviceEngine, action: Choose) -> list[Token]:
        """On the engine's thread: walk the draft along the target's choices, and remember them.

        Where the grammar leaves no choice, nobody looks at the model's.
        """
        num_rows = len(action.draft) + 1
        num_forced = 0 if self._sampler.wants_logprobs else self._sampler.num_forced(action.draft)
        deep = self._deep(engine, action.position)
        logits = engine.logits(self._sequence, deep, action.position, num_rows - num_forced)
        decided: list[Token] = []

        def choose(index: int) -> int:
            if index < num_forced:
                decided.append(self._sampler.commit(action.draft[index], None))
                return action.draft[index]
            row = logits[index - num_forced]
            token_id = self._sampler.choose(row)
            decided.append(self._sampler.commit(token_id, row))
            return token_id

        token_ids = walk(action.draft, choose, self.session.stop_token_ids)
        self._drafter.decided(token_ids, deep[len(deep) - num_rows + len(token_ids) - 1])
        return decided

    def _deep(self, engine: DeviceEngine, position: int, num_rows: int | None = None) -> Rows:
        """On the engine's thread: of the deep rows that came last those from `position` on.

        Rows of other depths that came with them are the adapter's. None: all `[T, H]` from there.
        """
        reply = self._reply
        assert reply is not None, "rows come before logits"
        start = position - (reply.cached_tokens - reply.num_rows)
        end = None if num_rows is None else start + num_rows
        rows = unpack_reply(reply, engine.hidden_size)[start:end].astype(np.float32)
        if rows.shape[1] > 1:
            assert isinstance(engine, TappedEngine), "it asked for them"
            engine.take_taps(self._sequence, rows[:, 1:], position)
        return np.ascontiguousarray(rows[:, 0])

    async def _draft(self, action: Draft) -> list[Action]:
        started_s = self._clock()
        text, undecided = self.session.text, action.undecided
        draft = await self._drafter.propose(
            self._workers,
            self._sequence,
            [*text, *undecided] if undecided else text,
            action.num_tokens,
            len(undecided),
        )
        self._recorder.drafted(draft, started_s)
        return self.session.on_draft(draft, started_s, self._stream.num_waiting_replies)
