"""What the HTTP face asks of the runtime: token ids in, token ids out, as they are decided."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from device_runtime.generation.grammar import Grammar
from device_runtime.generation.stats import GenerationStats

FinishReason = Literal["stop", "length"]

Origin = Literal["prompt", "accepted", "recovered", "bonus", "draft"]
"""Where text came from: the prompt, a kept guess, the model's own token after a wrong guess, its
own after none was wrong, or the draft model alone, with no model to judge it."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen. `temperature` 0 is greedy.

    `top_k` 0 and `top_p` 1.0 and `min_p` 0.0 switch these filters off. Presence and frequency
    penalties count generated tokens, the repetition penalty also the prompt's (as vLLM does).
    `seed` None draws one. `logit_bias` maps token id to an addend. Of `allowed_token_ids` alone the
    output is made (None: of any), and none of the rows of tokens in `bad_words` is in it.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    allowed_token_ids: Sequence[int] | None = None
    bad_words: Sequence[Sequence[int]] = ()


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One sequence to generate. Generation ends at a stop token or after `max_tokens` tokens.

    `num_logprobs` None asks for no log probabilities; 0 for the chosen token's alone; n for the
    n most likely beside it. `num_prompt_logprobs` asks the same of the prompt's tokens, all of
    which then go up: nothing that is cached is used. Stop tokens cannot be chosen before
    `min_tokens` tokens. The timeline of its work is kept if it `wants_timeline`. Drafts for later
    requests may be made of its text if it `is_remembered`. One that `is_let_in` waits for its turn
    however many wait already: it belongs to a request whose first choice was admitted. With a
    `grammar` the output follows it; where it allows nothing but an end, `min_tokens` forbids none.
    """

    prompt_ids: Sequence[int]
    max_tokens: int
    sampling: SamplingParams
    stop_token_ids: frozenset[int] = frozenset()
    min_tokens: int = 0
    num_logprobs: int | None = None
    num_prompt_logprobs: int | None = None
    wants_timeline: bool = False
    is_let_in: bool = False
    is_remembered: bool = True
    grammar: Grammar | None = None
    trace_id: bytes = b""
    """16 bytes that name the request in the logs of both sides; empty: it has no such name."""


@dataclass(frozen=True, slots=True)
class Token:
    """A decided token. `logprob` and `top` are of the model's own distribution, unmodified."""

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class RankedToken:
    """A token of a prompt. `rank`: so many tokens are as likely in its place, or more."""

    token: Token
    rank: int


@dataclass(frozen=True, slots=True)
class Emission:
    """The tokens decided in one round. The last one of a request carries a finish reason.

    A stop token that ended the generation is included as the last token.
    """

    tokens: tuple[Token, ...]
    finish_reason: FinishReason | None = None
    num_drafted: int = 0
    """Tokens that were drafted for the round."""
    num_accepted: int = 0
    """So many of them lead `tokens`."""
    prompt: tuple[RankedToken, ...] | None = None
    """All tokens of the prompt but the first, in the first emission, if they were asked for."""
    is_alone: bool = False
    """They are the draft model's, without the cloud; of one request all emissions are, or none."""

    def origin(self, index: int) -> Origin:
        """How the token at this place of the round came about."""
        if self.is_alone:
            return "draft"
        if index < self.num_accepted:
            return "accepted"
        return "recovered" if self.num_accepted < self.num_drafted else "bonus"


class CloudUnavailableError(Exception):
    """The cloud cannot serve now: unreachable, refusing, or lost on the way.

    `retry_after_s` is a hint for the client; `reason` is safe to show. `is_quota`: what this
    device's name may have there is used up, or without `may_retry` less than what was asked for.
    """

    is_quota: bool = False
    may_retry: bool = True

    def __init__(self, reason: str, retry_after_s: float = 1.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s


class OverloadedError(Exception):
    """The device's own queue is full; try again after `retry_after_s`."""

    def __init__(self, reason: str, retry_after_s: float = 1.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s


class Emissions(Protocol):
    """A running generation, an async iterator; whoever reads it closes it."""

    def __aiter__(self) -> AsyncIterator[Emission]:
        """Itself."""
        ...

    async def __anext__(self) -> Emission:
        """What the next round decided."""
        ...

    @property
    def stats(self) -> GenerationStats:
        """What it did so far; complete once it has ended."""
        ...

    async def aclose(self) -> None:
        """End it and free its session on both sides; repeats are harmless."""
        ...


class Generator(Protocol):
    """The runtime as the HTTP face sees it."""

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""
        ...

    @property
    def max_context_tokens(self) -> int:
        """The most tokens of prompt and output together; may change when the cloud does."""
        ...

    @property
    def answers_alone(self) -> bool:
        """Whether the draft model answers now, since there is no cloud."""
        ...

    def generate(self, request: GenerationRequest, request_id: str) -> Emissions:
        """Generate until a stop token, `max_tokens`, or the iterator is closed.

        Closing the iterator (or cancelling the task that reads it) ends the generation and frees
        the session on both sides.

        Raises:
            CloudUnavailableError: before or in the middle of the stream.
            OverloadedError: before the first emission.
        """
        ...

    def ready(self) -> str | None:
        """None when requests can be served now, else the reason why not."""
        ...
