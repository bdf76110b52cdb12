"""A generator that says what a test scripts: ids, log probabilities, failures, waits."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field

from chunking.estimates import Estimates
from device_runtime.generation.request import Emission, GenerationRequest, RankedToken, Token
from device_runtime.generation.stats import GenerationStats
from device_runtime.generation.timeline import Timeline
from device_runtime.link.link import LinkStatus

Answer = Callable[[GenerationRequest], Sequence[int]]


def logprob_of(place: int) -> float:
    """The log probability of the token at this place of an answer."""
    return -0.25 * (place + 1)


@dataclass
class FakeGenerator:
    """Answers from a script, and remembers what it was asked and how it was left.

    `answer` gives the ids for a request; they repeat when more are asked for. A round decides
    `tokens_per_round`, of which all but the last were among `num_drafted` drafted ones. Before the
    token at place p it waits for `gates[p]` and then raises `errors[p]`.
    """

    answer: Answer
    vocab_size: int = 512
    max_context_tokens: int = 512
    tokens_per_round: int = 1
    num_drafted: int = 0
    errors: dict[int, BaseException] = field(default_factory=dict)
    gates: dict[int, asyncio.Event] = field(default_factory=dict)
    not_ready: str | None = None
    requests: list[GenerationRequest] = field(default_factory=list)
    request_ids: list[str] = field(default_factory=list)
    num_open: int = 0
    num_closed: int = 0
    started: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def num_running(self) -> int:
        """As metrics call it."""
        return self.num_open

    num_waiting = 0
    status: LinkStatus = LinkStatus(True)  # noqa: RUF009
    num_connections = 1
    num_lanes = 3

    @property
    def monitor(self) -> "FakeGenerator":
        """What knows the link."""
        return self

    def estimates(self, token_bytes: int) -> Estimates:
        """As scripted."""
        return Estimates(token_bytes, uplink_bytes_per_s=1e6, delay_s=0.02)

    def generate(self, request: GenerationRequest, request_id: str) -> "FakeGeneration":
        """The scripted answer."""
        stats = scripted_stats(scripted_timeline() if request.wants_timeline else Timeline())
        return FakeGeneration(self._emissions(request, request_id), stats)

    async def _emissions(
        self, request: GenerationRequest, request_id: str
    ) -> AsyncGenerator[Emission, None]:
        """The answer in rounds."""
        self.requests.append(request)
        self.request_ids.append(request_id)
        self.num_open += 1
        self.started.set()
        try:
            async for emission in self._rounds(request):
                yield emission
        finally:
            self.num_open -= 1
            self.num_closed += 1
            self.closed.set()

    async def until_open(self, count: int) -> None:
        """Wait until so many generations are in progress."""
        while self.num_open < count:
            self.started.clear()
            await self.started.wait()

    async def until_all_closed(self) -> None:
        """Wait until no generation is in progress."""
        while self.num_open:
            self.closed.clear()
            await self.closed.wait()

    def ready(self) -> str | None:
        """As scripted."""
        return self.not_ready

    @property
    def answers_alone(self) -> bool:
        """It has no draft model."""
        return False

    async def _rounds(self, request: GenerationRequest) -> AsyncGenerator[Emission, None]:
        ids = self.answer(request)
        tokens: list[Token] = []
        for place in range(request.max_tokens):
            await self._meet(place)
            token = self._token(ids[place % len(ids)], place, request)
            tokens.append(token)
            is_stop = token.id in request.stop_token_ids and place >= request.min_tokens
            is_last = place + 1 == request.max_tokens
            if is_stop or is_last or len(tokens) == self.tokens_per_round:
                reason = "stop" if is_stop else "length" if is_last else None
                num_accepted = min(self.num_drafted, len(tokens) - 1)
                prompt = self._prompt(request) if place < self.tokens_per_round else None
                yield Emission(tuple(tokens), reason, self.num_drafted, num_accepted, prompt)
                tokens = []
            if is_stop:
                return

    async def _meet(self, place: int) -> None:
        if place in self.gates:
            await self.gates[place].wait()
        if place in self.errors:
            raise self.errors[place]

    def _prompt(self, request: GenerationRequest) -> tuple[RankedToken, ...] | None:
        """The token at place p of a prompt is -p likely, and p others are likelier."""
        num_top = request.num_prompt_logprobs
        if num_top is None:
            return None
        return tuple(
            RankedToken(
                Token(id_, -float(place), tuple((n, -n / 8) for n in range(num_top))), place
            )
            for place, id_ in enumerate(request.prompt_ids[1:], 1)
        )

    def _token(self, token_id: int, place: int, request: GenerationRequest) -> Token:
        if request.num_logprobs is None:
            return Token(token_id)
        logprob = logprob_of(place)
        top = tuple(
            ((token_id + rank) % self.vocab_size, logprob - rank)
            for rank in range(request.num_logprobs)
        )
        return Token(token_id, logprob, top)


def scripted_timeline() -> Timeline:
    """The prompt and two rounds, half a second each."""
    timeline = Timeline(0.0)
    for number, what in enumerate(("prefill", "verify", "verify")):
        begun_s = 0.5 * number
        timeline.worked("draft", begun_s, begun_s + 0.1, 4)
        timeline.sent((1, number), what, 5, begun_s + 0.1)
        timeline.answered((1, number), 0.0, 0.25, begun_s + 0.4)
        timeline.worked("verify", begun_s + 0.4, begun_s + 0.5, 4)
    return timeline


def scripted_stats(timeline: Timeline) -> GenerationStats:
    """Two rounds, in which five of eight drafted tokens were accepted."""
    return GenerationStats(
        num_rounds=2,
        num_chunks=1,
        drafted_by_position=[2, 2, 2, 2],
        accepted_by_position=[2, 2, 1, 0],
        bytes_up=3000,
        bytes_down=2000,
        queue_s=0.25,
        wait_s=1.0,
        cloud_queue_s=0.125,
        cloud_compute_s=0.5,
        output_s=0.0625,
        link_delay_s=0.03125,
        first_token_s=0.5,
        total_s=2.0,
        timeline=timeline,
    )


@dataclass
class FakeGeneration:
    """A running generation, and figures that never change."""

    emissions: AsyncGenerator[Emission, None]
    stats: GenerationStats

    def __aiter__(self) -> "FakeGeneration":
        return self

    async def __anext__(self) -> Emission:
        return await anext(self.emissions)

    async def aclose(self) -> None:
        """End it."""
        await self.emissions.aclose()


def always(ids: Sequence[int]) -> Answer:
    """The same ids for every request."""
    return lambda request: ids
