"""All choices of a job, generated side by side; their pieces in the order they are decided."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Self

from device_runtime.api.answer.shape import Counts
from device_runtime.api.answer.told_prompt import PromptScores, prompt_scores
from device_runtime.api.answer.transcript import Piece, Transcript, read_with
from device_runtime.api.figures import HatFigures, figures_of
from device_runtime.api.job.plan import Choice, Job
from device_runtime.api.metrics import GenerationTimer
from device_runtime.api.request.traces import Trace
from device_runtime.api.service import Service
from device_runtime.api.spans import NO_SPANS, GenerationSpan
from device_runtime.generation.parts import Thought
from device_runtime.generation.request import RankedToken
from device_runtime.generation.stats import GenerationStats

# A slow reader lets its generations run this many pieces ahead and then holds them.
_QUEUED_PIECES_PER_CHOICE = 4


class StillSilentError(Exception):
    """No choice has grown for a while."""


class Answers:
    """A context in which the choices are generated. Leaving it, in whatever way, ends them.

    One task per choice owns the generation and closes it; they meet in one bounded queue. Of many
    choices the later ones begin as earlier ones end.
    """

    def __init__(self, service: Service, job: Job) -> None:
        self._service = service
        self._job = job
        self._num_running = len(job.choices)
        num_side_by_side = min(len(job.choices), service.max_side_by_side)
        self._places = asyncio.Semaphore(num_side_by_side)
        self._queue: asyncio.Queue[Piece | Exception] = asyncio.Queue(
            _QUEUED_PIECES_PER_CHOICE * num_side_by_side
        )
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._told_all: set[int] = set()
        self._stats: dict[int, GenerationStats] = {}
        self._num_tokens: dict[int, int] = {}
        self._num_thought: dict[int, int] = {}
        """Up to the last piece with thoughts in it."""
        self._is_left = False
        self._is_failed = False

    async def __aenter__(self) -> Self:
        for choice in self._job.choices:
            self._tasks[choice.index] = asyncio.create_task(self._produce(choice))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_left = True
        for index, task in self._tasks.items():
            # One that has put its last piece is only closing its generation, undisturbed.
            if index not in self._told_all:
                task.cancel()
        # Unlike gather, wait leaves them to finish closing when this task is cancelled again.
        await asyncio.wait(self._tasks.values())

    async def next_piece(self, within_s: float | None = None) -> Piece | None:
        """The next piece of any choice, or None when all have ended. May be cancelled.

        Raises:
            StillSilentError: nothing came in `within_s`; ask again.
            CloudUnavailableError, OverloadedError: a generation failed, so the answer did.
            Exception: a bug.
        """
        if not self._num_running:
            return None
        try:
            async with asyncio.timeout(within_s):
                item = await self._queue.get()
        except TimeoutError:
            raise StillSilentError from None
        if isinstance(item, Exception):
            raise item
        self._num_running -= item.finish_reason is not None
        self._num_tokens[item.index] = item.num_tokens
        if any(isinstance(part, Thought) for part in item.parts):
            self._num_thought[item.index] = item.num_tokens
        return item

    def counts(self) -> Counts:
        """Tokens of all prompts, and of all choices as far as their pieces were taken.

        Of a prompt so much was in the caches already as its first choice found there.
        """
        firsts = (choice.index for choice in self._job.choices if choice.is_first)
        num_cached = sum(
            self._stats[index].num_reused_tokens for index in firsts if index in self._stats
        )
        num_thought = sum(self._num_thought.values()) if self._job.tells_thoughts else None
        num_generated = sum(self._num_tokens.values())
        return Counts(self._job.num_prompt_tokens, num_generated, num_cached, num_thought)

    async def figures(self) -> HatFigures:
        """What all choices took together, once the last piece of each has been taken."""
        assert not self._num_running, "figures are complete at the end"
        await asyncio.wait(self._tasks.values())
        return figures_of(list(self._stats.values()))

    async def _produce(self, choice: Choice) -> None:
        num_prompt_tokens = len(choice.generation.prompt_ids)
        timer = GenerationTimer(self._service.metrics, num_prompt_tokens, self._job.arrived_s)
        span = self._span(choice)
        reason = "error"
        try:
            async with self._places:
                if not self._is_failed:
                    reason = await self._generate(choice, timer, span)
        except asyncio.CancelledError:
            if not self._is_left:
                # Not our cancellation: without this the reader would wait for ever.
                await self._queue.put(RuntimeError("the generation was cancelled from within"))
                return
            # Where one choice failed its request has, and no client has left.
            reason = "error" if self._is_failed else "abort"
            raise
        except Exception as error:  # a task's error reaches the reader through the queue
            self._is_failed = True
            await self._queue.put(error)
        finally:
            stats = self._stats.get(choice.index) or GenerationStats()
            timer.ended(reason, stats)
            span.ended(reason, stats)

    def _span(self, choice: Choice) -> GenerationSpan:
        spans = NO_SPANS if self._job.trace is None else self._service.spans
        trace = self._job.trace or Trace(b"")
        return spans.begin(trace, self._job.arrived_s, choice.index)

    async def _generate(self, choice: Choice, timer: GenerationTimer, span: GenerationSpan) -> str:
        """Put the pieces of one choice into the queue; how it ended."""
        transcript = Transcript(choice, self._service.tokenizer, self._job.shows_marks)
        reader = self._job.make_reader(choice.index)
        request_id = self._job.request_id
        if len(self._job.choices) > 1:
            request_id = f"{request_id}-{choice.index}"
        generation = self._service.generator.generate(choice.generation, request_id)
        self._stats[choice.index] = generation.stats
        async with aclosing(generation):
            async for emission in generation:
                if emission.prompt is not None:
                    transcript.prompt = await self._told(choice, emission.prompt)
                told = emission
                if choice.is_prompt_only:
                    told = replace(emission, tokens=(), finish_reason="length")
                piece = transcript.push(told)
                timer.emitted(len(told.tokens))
                span.emitted(told)
                if piece is not None:
                    await self._queue.put(read_with(reader, piece))
                    if piece.finish_reason is not None:
                        self._told_all.add(choice.index)
                        return piece.finish_reason
        raise RuntimeError("the generation ended without a finish reason")

    async def _told(self, choice: Choice, ranked: Sequence[RankedToken]) -> PromptScores:
        """What an answer says of its prompt, which takes a while to be put together."""
        tokenizer, ids = self._service.tokenizer, choice.generation.prompt_ids
        make = partial(prompt_scores, tokenizer, ids, ranked)
        return await self._service.text_work.tokenize(len(ids), make)
