"""What the split model says: a cloud and a device in this process, joined by a real socket."""

import asyncio
import random
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import aiohttp

from cloud_server.config import CloudConfig
from cloud_server.server import serve_cloud
from device_runtime.config import DeviceConfig
from device_runtime.generation.request import (
    CloudUnavailableError,
    GenerationRequest,
    SamplingParams,
)
from device_runtime.runtime.runtime import Runtime
from device_runtime.server import DeviceServer, serve_device
from hat.errors import CommandError
from hat.verify.compare import Continuation, Text
from hat.verify.conversations import Question, ToldAnswer, told_answer
from hat.verify.reference import Advance
from hat.verify.settings import DRAWN_TEMPERATURE, DRAWN_TOKENS, DRAWN_TOP_K, VerifyOptions
from process.world import World

AT_ONCE = 8
_CONNECT_S = 30.0
_GREEDY = SamplingParams(temperature=0.0)
_DRAWN = SamplingParams(temperature=DRAWN_TEMPERATURE, top_k=DRAWN_TOP_K)


@dataclass(frozen=True, slots=True)
class Questions:
    """Ids of the prompts to continue greedily, and of the one to draw from; whole questions."""

    prompts: Sequence[Sequence[int]]
    sampled_prompt: Sequence[int]
    stop_ids: frozenset[int]
    texts: Sequence[Question] = ()
    """What is asked over HTTP, as a client asks."""


@dataclass(frozen=True, slots=True)
class SplitAnswers:
    """Greedy continuations in the prompts' order, and how often each short text was drawn."""

    continuations: list[Continuation]
    draws: Counter[Text]
    told: list[ToldAnswer]
    """Answers over HTTP, in the questions' order."""


async def ask_split_model(
    options: VerifyOptions, questions: Questions, advance: Advance
) -> SplitAnswers:
    """Run both sides and ask them everything, several requests at a time.

    Raises:
        UserError: a side cannot start, or the cloud is lost.
    """
    greedy = [
        GenerationRequest(ids, options.max_tokens, _GREEDY, questions.stop_ids, num_logprobs=0)
        for ids in questions.prompts
    ]
    drawn = [
        GenerationRequest(questions.sampled_prompt, DRAWN_TOKENS, replace(_DRAWN, seed=seed))
        for seed in range(options.num_draws)
    ]
    try:
        async with _both_sides(options) as device:
            continuations = await _all(device.runtime, greedy, advance)
            texts = await _all(device.runtime, drawn, advance)
            told = [await _told(device, each, options.max_tokens) for each in questions.texts]
    except CloudUnavailableError as error:
        raise CommandError(f"the split model did not answer: {error.reason}") from error
    return SplitAnswers(continuations, Counter(text.ids for text in texts), told)


@asynccontextmanager
async def _both_sides(options: VerifyOptions) -> AsyncIterator[DeviceServer]:
    secret = secrets.token_urlsafe(32)
    cloud_config = CloudConfig(
        options.bundle,
        port=0,
        dtype=options.dtype,
        wire_dtype=options.wire_dtype,
        secret=secret,
    )
    drafter: Any = options.drafter
    world = World(time.monotonic, time.time, random.SystemRandom())
    async with serve_cloud(cloud_config, world.clock) as cloud:
        config = DeviceConfig(
            options.bundle,
            port=0,
            cloud=cloud.url,
            drafter=drafter,
            secret=secret,
            engine=options.engine,
        )
        async with serve_device(config, world) as device:
            try:
                async with asyncio.timeout(_CONNECT_S):
                    await device.link.connected()
            except TimeoutError:
                reason = device.runtime.ready() or "no answer"
                raise CommandError(f"the two sides did not meet: {reason}") from None
            yield device


async def _told(device: DeviceServer, question: Question, max_tokens: int) -> ToldAnswer:
    route, body = question.body(max_tokens)
    url = f"{device.url}/v1/{route}"
    async with aiohttp.ClientSession() as http, http.post(url, json=body) as response:
        if response.status != 200:
            raise CommandError(f"{question.name}: the endpoint says {await response.text()}")
        return told_answer(await response.json())


async def _all(
    runtime: Runtime, requests: Iterable[GenerationRequest], advance: Advance
) -> list[Continuation]:
    """The answers in order; the first failure ends the others."""
    places = asyncio.Semaphore(AT_ONCE)

    async def ask(request: GenerationRequest) -> Continuation:
        ids: list[int] = []
        logprobs: list[float] = []
        async with places, aclosing(runtime.generate(request, "verify")) as emissions:
            async for emission in emissions:
                ids.extend(token.id for token in emission.tokens)
                logprobs.extend(token.logprob or 0.0 for token in emission.tokens)
        advance()
        return Continuation(tuple(ids), tuple(logprobs))

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask(request)) for request in requests]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
