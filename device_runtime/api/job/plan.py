"""One plan for a request: from its fields to what is generated, and how the answer is sent.

Both kinds of request are planned here, in the order in which their faults are named: the model, the
stream's options, the prompts, and then what depends on the prompts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from msgspec.structs import replace as replace_fields

from device_runtime.api.errors import TooLongError, invalid
from device_runtime.api.job.prompts import (
    EncodedChat,
    check_ids,
    encode_chat,
    encode_prompts,
    opening_of,
    split_prompts,
    text_of,
)
from device_runtime.api.job.readers import reader_of
from device_runtime.api.job.rules import Rules, rules_of
from device_runtime.api.request.body import (
    ROUNDS,
    TIMELINE,
    ChatRequest,
    CommonFields,
    CompletionRequest,
)
from device_runtime.api.request.sampling import sampling_params, seed_of_choice
from device_runtime.api.request.tool_fields import offer_of, plain_tools
from device_runtime.api.request.traces import Trace
from device_runtime.api.service import ModelCard, Service
from device_runtime.calling.tools import Offer
from device_runtime.generation.grammar import Grammar
from device_runtime.generation.parts import PlainReader, Reader
from device_runtime.generation.request import GenerationRequest, SamplingParams
from device_runtime.text.stop_strings import StopStrings

MAX_CHOICES = 128
"""Sequences of one request. The device generates only so many of them at once as it can."""

MAX_STOP_CHARACTERS = 32_768
"""Characters of all stop strings of a request: what is prepared for them grows with this."""

NO_STOPS = StopStrings(())

RequestT = TypeVar("RequestT", ChatRequest, CompletionRequest)


@dataclass(frozen=True, slots=True)
class Choice:
    """One sequence to generate. `echo` is text of the prompt that goes before the answer.

    `is_first` of several of one prompt, which counts once. `wants_rounds`: its pieces say what the
    rounds behind them decided.
    """

    index: int
    generation: GenerationRequest
    stops: StopStrings = NO_STOPS
    echo: str = ""
    is_first: bool = True
    wants_rounds: bool = False
    shows_special: bool = False
    """Whether tokens of control are text, by their names."""
    includes_stop: bool = False
    """Whether the stop string or token that ends the answer is part of it."""
    tells_ids: bool = False
    """Whether its pieces have the ids of its tokens."""
    scores_echo: bool = False
    """Whether the prompt's tokens are among those with log probabilities, and the last one is."""
    is_prompt_only: bool = False
    """Whether nothing of what is generated is told: the prompt is all that is asked about."""


def _plain_reader(_index: int) -> Reader:
    return PlainReader()


@dataclass(frozen=True, slots=True)
class Job:
    """All choices of a request; `num_prompt_tokens` counts each prompt once.

    An answer that is not streamed is one JSON document. `arrived_s` is on the metrics' clock.
    `wants_figures`: the answer says what it took.
    """

    request_id: str
    arrived_s: float
    choices: tuple[Choice, ...]
    num_prompt_tokens: int
    is_streamed: bool = False
    wants_figures: bool = False
    make_reader: Callable[[int], Reader] = _plain_reader
    """For each choice, by its index, what finds out what its text is made of."""
    tells_thoughts: bool = False
    """Whether the model may have thought, so that tokens of thoughts are counted."""
    trace: Trace | None = None
    """What it is known by in the logs of both sides."""
    shows_marks: bool = False
    """Whether that reads the names of tokens of control too."""


async def plan_chat(
    service: Service,
    request: ChatRequest,
    request_id: str,
    arrived_s: float,
    *,
    cuts_length: bool = False,
) -> Job:
    """What a conversation asks for.

    `cuts_length`: an answer may be shorter than asked for where the context has no room, as APIs
    have it whose clients always ask for some number.

    Raises:
        ApiError: 400 or 404, naming the first field at fault.
        OverloadedError: too many texts wait already.
    """
    service.model.check(request.model)
    check_stream(request)
    offer = offer_of(request)
    if request.top_logprobs and not request.logprobs:
        raise invalid("top_logprobs", "top_logprobs: only allowed when logprobs is true")
    chat = await encoded_chat(service, request, offer)
    check_ids(chat.ids, service.generator.vocab_size, "messages")
    rules = await rules_of(service, request, offer, chat)
    if cuts_length:
        request = _cut(request, service.generator.max_context_tokens - len(chat.ids))
    choices = _choices(service, request, [chat.ids], [""], rules)
    is_streamed, wants_figures = bool(request.stream), bool(request.include_hat_stats)
    return Job(
        request_id,
        arrived_s,
        choices,
        len(chat.ids),
        is_streamed,
        wants_figures,
        make_reader=partial(reader_of, service, offer, chat, request_id),
        tells_thoughts=service.thought_marks is not None,
        shows_marks=offer is not None or service.thought_marks is not None,
    )


async def encoded_chat(service: Service, request: ChatRequest, offer: Offer | None) -> EncodedChat:
    """The prompt of a conversation with the tools it offers.

    Raises:
        ApiError: 400, naming the message at fault.
        OverloadedError: too many texts wait already.
    """
    return await encode_chat(
        service,
        request.messages,
        opening=opening_of(request),
        add_special_tokens=request.add_special_tokens,
        variables=request.template_variables,
        tools=() if offer is None else plain_tools(request),
    )


async def plan_completion(
    service: Service,
    request: CompletionRequest,
    request_id: str,
    arrived_s: float,
    *,
    cuts_length: bool = False,
) -> Job:
    """What texts to be continued ask for; `cuts_length` as in a conversation.

    Raises:
        ApiError: 400 or 404, naming the first field at fault.
        OverloadedError: too many texts wait already.
    """
    service.model.check(request.model)
    check_stream(request)
    if request.max_tokens == 0 and not request.echo:
        raise invalid("max_tokens", "max_tokens: expected at least 1, and 0 only with echo, got 0")
    prompts = split_prompts(request.prompt)
    _check_num_choices(len(prompts), request.n or 1)
    encoded = await encode_prompts(service, prompts, request.add_special_tokens is not False)
    echoes = [""] * len(prompts)
    if request.echo:
        pairs = zip(prompts, encoded, strict=True)
        echoes = [await text_of(service, prompt, ids) for prompt, ids in pairs]
    rules = await rules_of(service, request, None, None)
    if cuts_length:
        request = _cut(request, service.generator.max_context_tokens - max(map(len, encoded)))
    choices = _choices(service, request, encoded, echoes, rules)
    num_prompt_tokens = sum(map(len, encoded))
    is_streamed, wants_figures = bool(request.stream), bool(request.include_hat_stats)
    return Job(request_id, arrived_s, choices, num_prompt_tokens, is_streamed, wants_figures)


def _cut(request: RequestT, room: int) -> RequestT:
    """The same, asking for no more tokens than there is room for; no room at all is an error."""
    if request.asked_tokens is None or not 0 < room < request.asked_tokens:
        return request
    if isinstance(request, ChatRequest):
        return replace_fields(request, max_tokens=room, max_completion_tokens=None)
    return replace_fields(request, max_tokens=room)


def _choices(
    service: Service,
    request: ChatRequest | CompletionRequest,
    prompts: Sequence[Sequence[int]],
    echoes: Sequence[str],
    rules: Rules,
) -> tuple[Choice, ...]:
    """The choices of a request: `n` for each prompt, numbered through, as OpenAI's API does."""
    num_each = request.n or 1
    _check_num_choices(len(prompts), num_each)
    stops = StopStrings(stop_strings(request))
    sampling = sampling_params(request, service.generator.vocab_size, service.sampling)
    sampling = replace(sampling, bad_words=rules.bad_words)
    if request.prompt_logprobs is not None and request.stream:
        raise invalid("prompt_logprobs", "prompt_logprobs: not together with stream")
    choices: list[Choice] = []
    for prompt_ids, echo in zip(prompts, echoes, strict=True):
        first = _generation(service, request, prompt_ids, sampling, rules.grammar)
        for number in range(num_each):
            generation = first if number == 0 else _other(first, request.seed, number)
            # The queue has a place for the request or has none; what it asks for comes in turn.
            generation = replace(generation, is_let_in=len(choices) > 0)
            choices.append(_choice(request, len(choices), generation, stops, echo, number == 0))
    return tuple(choices)


def _choice(
    request: ChatRequest | CompletionRequest,
    index: int,
    generation: GenerationRequest,
    stops: StopStrings,
    echo: str,
    is_first: bool,
) -> Choice:
    """One choice, told as the request wants it."""
    return Choice(
        index,
        generation,
        stops,
        echo,
        is_first,
        wants_rounds=request.include_hat_stats == ROUNDS,
        shows_special=request.skip_special_tokens is False,
        includes_stop=bool(request.include_stop_str_in_output),
        tells_ids=bool(request.return_token_ids),
        scores_echo=request.is_echo_scored,
        is_prompt_only=request.asked_tokens == 0,
    )


def _generation(
    service: Service,
    request: ChatRequest | CompletionRequest,
    prompt_ids: Sequence[int],
    sampling: SamplingParams,
    grammar: Grammar | None,
) -> GenerationRequest:
    """The first choice of a prompt."""
    max_tokens = _max_new_tokens(request, len(prompt_ids), service.generator.max_context_tokens)
    return GenerationRequest(
        prompt_ids=prompt_ids,
        max_tokens=max_tokens,
        sampling=sampling,
        stop_token_ids=_stop_token_ids(
            request, service.model, service.generator.vocab_size, grammar is not None
        ),
        min_tokens=_min_new_tokens(request, max_tokens),
        num_logprobs=request.num_logprobs,
        num_prompt_logprobs=request.num_prompt_logprobs,
        wants_timeline=request.include_hat_stats in (TIMELINE, ROUNDS),
        is_remembered=request.store is not False,
        grammar=grammar,
    )


def _other(first: GenerationRequest, seed: int | None, number: int) -> GenerationRequest:
    """What another choice of the same prompt does differently."""
    if seed is not None:
        seed = seed_of_choice(seed, number)
    return replace(first, sampling=replace(first.sampling, seed=seed))


def check_stream(request: CommonFields) -> None:
    """Options of a stream are for streams.

    Raises:
        ApiError: 400.
    """
    if request.stream_options is not None and not request.stream:
        raise invalid("stream_options", "stream_options: only allowed when stream is true")


def stop_strings(request: CommonFields) -> tuple[str, ...]:
    """The stop strings, without duplicates.

    Raises:
        ApiError: 400, more text than can be looked for.
    """
    given = request.stop or ()
    stops = (given,) if isinstance(given, str) else tuple(dict.fromkeys(given))
    num_characters = sum(map(len, stops))
    if num_characters > MAX_STOP_CHARACTERS:
        came = f"expected at most {MAX_STOP_CHARACTERS} characters in all, got {num_characters}"
        raise invalid("stop", f"stop: {came}")
    return stops


def _stop_token_ids(
    request: CommonFields, model: ModelCard, vocab_size: int, has_grammar: bool
) -> frozenset[int]:
    """The request's stop tokens and, unless it ignores them, the model's ends of text.

    Raises:
        ApiError: 400, a token id outside the vocabulary.
    """
    ids = request.stop_token_ids or []
    if ids:
        check_ids(ids, vocab_size, "stop_token_ids")
    # Behind what a grammar allows there is nothing but an end.
    goes_on = request.ignore_eos and not has_grammar
    return frozenset(ids) | (frozenset() if goes_on else set(model.eos_token_ids))


def _max_new_tokens(
    request: ChatRequest | CompletionRequest, num_prompt_tokens: int, max_context_tokens: int
) -> int:
    """How many tokens may be generated; a default, not a wish, is cut to what the context holds.

    Raises:
        ApiError: 400 `context_length_exceeded`: the prompt leaves no room, or not as much as
            was asked for. Nothing is ever cut silently.
    """
    # To hear of a prompt alone takes one token, which nobody is told.
    asked = 1 if request.asked_tokens == 0 else request.asked_tokens
    room = max_context_tokens - num_prompt_tokens
    limit = f"This model's maximum context length is {max_context_tokens} tokens."
    if room < 1:
        raise TooLongError(
            request.prompt_field,
            f"{limit} However, your prompt resulted in {num_prompt_tokens} tokens and one more "
            "is needed for the completion. Please reduce the length of the prompt.",
            num_prompt_tokens,
            max_context_tokens,
        )
    if asked is not None and asked > room:
        raise TooLongError(
            request.prompt_field,
            f"{limit} However, you requested {num_prompt_tokens + asked} tokens "
            f"({num_prompt_tokens} in the prompt, {asked} in the completion). "
            "Please reduce the length of the prompt or completion.",
            num_prompt_tokens + asked,
            max_context_tokens,
        )
    return asked or min(room, request.default_tokens or room)


def _min_new_tokens(request: CommonFields, num_new_tokens: int) -> int:
    """How many tokens must be generated before a stop.

    Raises:
        ApiError: 400, more than may be generated.
    """
    minimum = request.min_tokens or 0
    if minimum > num_new_tokens:
        came = f"expected at most {num_new_tokens}, the tokens that may be generated, got {minimum}"
        raise invalid("min_tokens", f"min_tokens: {came}")
    return minimum


def _check_num_choices(num_prompts: int, num_each: int) -> None:
    """A request may not ask for more sequences than one answer may hold.

    Raises:
        ApiError: 400.
    """
    if num_prompts * num_each > MAX_CHOICES:
        raise invalid(
            "n" if num_prompts == 1 else "prompt",
            f"expected at most {MAX_CHOICES} choices in all, "
            f"got {num_prompts} prompts with {num_each} each",
        )
