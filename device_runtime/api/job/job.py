"""A request that has been checked: what to generate, and how the answer is to be sent."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from device_runtime.api.errors import invalid
from device_runtime.api.job.parameters import (
    check_num_choices,
    max_new_tokens,
    min_new_tokens,
    sampling_params,
    seed_of_choice,
    stop_strings,
    stop_token_ids,
)
from device_runtime.api.request.body import TIMELINE, CommonFields
from device_runtime.api.service import Service
from device_runtime.generation.request import GenerationRequest, SamplingParams
from device_runtime.text.stop_strings import StopStrings

NO_STOPS = StopStrings(())


@dataclass(frozen=True, slots=True)
class Choice:
    """One sequence to generate. `echo` is text of the prompt that goes before the answer.

    `is_first` of several of one prompt, which counts once.
    """

    index: int
    generation: GenerationRequest
    stops: StopStrings = NO_STOPS
    echo: str = ""
    is_first: bool = True


@dataclass(frozen=True, slots=True)
class StreamMode:
    """What a stream says about usage: a last chunk with it, or every chunk with it."""

    include_usage: bool = False
    continuous_usage: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """All choices of a request; `num_prompt_tokens` counts each prompt once.

    `stream` None: the answer is one JSON document. `arrived_s` is the time on the metrics' clock.
    `wants_figures`: the answer says what it took.
    """

    request_id: str
    arrived_s: float
    choices: tuple[Choice, ...]
    num_prompt_tokens: int
    stream: StreamMode | None = None
    wants_figures: bool = False


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt as token ids, and its text where the answer repeats it."""

    ids: Sequence[int]
    echo: str = ""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the two kinds of request call by different names.

    `max_tokens` is what the client asked for, `default_max_tokens` what it gets otherwise (None:
    the rest of the context). `prompt_field` is where the prompt came in.
    """

    prompt_field: str
    max_tokens: int | None
    default_max_tokens: int | None
    num_logprobs: int | None


def make_choices(
    service: Service, request: CommonFields, prompts: Sequence[EncodedPrompt], wishes: Wishes
) -> tuple[Choice, ...]:
    """The choices of a request: `n` for each prompt, numbered through, as OpenAI's API does.

    Raises:
        ApiError: 400, a value that does not fit the model or the prompt.
    """
    num_each = request.n or 1
    check_num_choices(len(prompts), num_each)
    stops = StopStrings(stop_strings(request))
    sampling = sampling_params(request, service.generator.vocab_size, service.sampling)
    choices: list[Choice] = []
    for prompt in prompts:
        first = _generation(service, request, prompt, wishes, sampling)
        for number in range(num_each):
            generation = first if number == 0 else _other(first, request.seed, number)
            # The queue has a place for the request or has none; what it asks for comes in turn.
            generation = replace(generation, is_let_in=len(choices) > 0)
            choices.append(Choice(len(choices), generation, stops, prompt.echo, number == 0))
    return tuple(choices)


def _other(first: GenerationRequest, seed: int | None, number: int) -> GenerationRequest:
    """What another choice of the same prompt does differently."""
    if seed is not None:
        seed = seed_of_choice(seed, number)
    return replace(first, sampling=replace(first.sampling, seed=seed))


def stream_mode(request: CommonFields) -> StreamMode | None:
    """How to stream, or None for one document.

    Raises:
        ApiError: 400, options of a stream without a stream.
    """
    options = request.stream_options
    if not request.stream:
        if options is not None:
            raise invalid("stream_options", "stream_options: only allowed when stream is true")
        return None
    if options is None:
        return StreamMode()
    return StreamMode(bool(options.include_usage), bool(options.continuous_usage_stats))


def _generation(
    service: Service,
    request: CommonFields,
    prompt: EncodedPrompt,
    wishes: Wishes,
    sampling: SamplingParams,
) -> GenerationRequest:
    """The first choice of a prompt."""
    vocab_size = service.generator.vocab_size
    max_tokens = max_new_tokens(
        wishes.max_tokens,
        wishes.default_max_tokens,
        len(prompt.ids),
        service.generator.max_context_tokens,
        wishes.prompt_field,
    )
    return GenerationRequest(
        prompt_ids=prompt.ids,
        max_tokens=max_tokens,
        sampling=sampling,
        stop_token_ids=stop_token_ids(request, service.model, vocab_size),
        min_tokens=min_new_tokens(request, max_tokens),
        num_logprobs=wishes.num_logprobs,
        wants_timeline=request.include_hat_stats == TIMELINE,
    )
