"""From a request's fields to how a sequence is generated; what depends on model or prompt."""

import hashlib
from collections.abc import Iterable

from device_runtime.api.errors import ApiError, invalid
from device_runtime.api.request.body import CommonFields
from device_runtime.api.request.logit_bias import logit_biases
from device_runtime.api.request.sampling_defaults import SamplingDefaults
from device_runtime.api.service import ModelCard
from device_runtime.generation.request import SamplingParams

MAX_CHOICES = 128
"""Sequences of one request. The device generates only so many of them at once as it can."""

MAX_STOP_CHARACTERS = 32_768
"""Characters of all stop strings of a request: what is prepared for them grows with this."""


def check_model(name: str | None, model: ModelCard) -> None:
    """A request may leave the model out; another model than the one served is not found.

    Raises:
        ApiError: 404 `model_not_found`.
    """
    if name is not None and name not in model.names:
        names = ", ".join(map(repr, model.names))
        message = f"the model {name[:200]!r} does not exist; this server has {names}"
        raise ApiError(404, message, code="model_not_found", param="model")


def sampling_params(
    request: CommonFields, vocab_size: int, defaults: SamplingDefaults
) -> SamplingParams:
    """How a prompt's first choice is sampled; fields left out have the server's defaults.

    Raises:
        ApiError: 400, a wrong key or value of `logit_bias`.
    """
    return SamplingParams(
        temperature=_or(request.temperature, defaults.temperature),
        top_p=_or(request.top_p, defaults.top_p),
        top_k=defaults.top_k if request.top_k is None else max(request.top_k, 0),
        min_p=_or(request.min_p, defaults.min_p),
        seed=None if request.seed is None else seed_of_choice(request.seed, 0),
        presence_penalty=_or(request.presence_penalty, 0.0),
        frequency_penalty=_or(request.frequency_penalty, 0.0),
        repetition_penalty=_or(request.repetition_penalty, defaults.repetition_penalty),
        logit_bias=logit_biases(request.logit_bias or {}, vocab_size),
    )


def seed_of_choice(seed: int, number: int) -> int:
    """The seed of one of several choices, in [0, 2**64).

    The first choice has the request's own, so that it does not depend on `n`; the others have
    hashes of it. A negative seed is taken modulo 2**64.
    """
    if number == 0:
        return seed % 2**64
    digest = hashlib.blake2b(b"%d/%d" % (seed, number), digest_size=8).digest()
    return int.from_bytes(digest, "little")


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


def stop_token_ids(request: CommonFields, model: ModelCard, vocab_size: int) -> frozenset[int]:
    """The request's stop tokens and, unless it ignores them, the model's ends of text.

    Raises:
        ApiError: 400, a token id outside the vocabulary.
    """
    ids = request.stop_token_ids or []
    _check_token_ids(ids, vocab_size, "stop_token_ids")
    return frozenset(ids) | (frozenset() if request.ignore_eos else set(model.eos_token_ids))


def max_new_tokens(
    asked: int | None,
    default: int | None,
    num_prompt_tokens: int,
    max_context_tokens: int,
    param: str,
) -> int:
    """How many tokens may be generated; a default, not a wish, is cut to what the context holds.

    `param` names the field the prompt came in, for the error.

    Raises:
        ApiError: 400 `context_length_exceeded`: the prompt leaves no room, or not as much as
            was asked for. Nothing is ever cut silently.
    """
    room = max_context_tokens - num_prompt_tokens
    limit = f"This model's maximum context length is {max_context_tokens} tokens."
    if room < 1:
        raise _too_long(
            param,
            f"{limit} However, your prompt resulted in {num_prompt_tokens} tokens and one more "
            "is needed for the completion. Please reduce the length of the prompt.",
        )
    if asked is not None and asked > room:
        raise _too_long(
            param,
            f"{limit} However, you requested {num_prompt_tokens + asked} tokens "
            f"({num_prompt_tokens} in the prompt, {asked} in the completion). "
            "Please reduce the length of the prompt or completion.",
        )
    return asked or min(room, default or room)


def min_new_tokens(request: CommonFields, num_new_tokens: int) -> int:
    """How many tokens must be generated before a stop.

    Raises:
        ApiError: 400, more than may be generated.
    """
    minimum = request.min_tokens or 0
    if minimum > num_new_tokens:
        came = f"expected at most {num_new_tokens}, the tokens that may be generated, got {minimum}"
        raise invalid("min_tokens", f"min_tokens: {came}")
    return minimum


def check_num_choices(num_prompts: int, num_each: int) -> None:
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


def _too_long(param: str, message: str) -> ApiError:
    return invalid(param, message, code="context_length_exceeded")


def _check_token_ids(ids: Iterable[int], vocab_size: int, param: str) -> None:
    for token_id in ids:
        if token_id >= vocab_size:
            raise invalid(param, f"{param}: expected token ids below {vocab_size}, got {token_id}")


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
