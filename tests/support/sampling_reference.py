"""Sampling as one would write it on a blackboard: loops over Python floats, one rule a line."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from device_runtime.generation.request import GenerationRequest


def processed(
    logits: Sequence[float], request: GenerationRequest, output: Sequence[int]
) -> list[float]:
    """Logits after bias, penalties, bans and the mask of stop tokens."""
    params = request.sampling
    values = [float(value) for value in logits]
    for token, addend in params.logit_bias.items():
        values[token] += addend
    for token in range(len(values)):
        times = list(output).count(token)
        if times or token in request.prompt_ids:
            factor = params.repetition_penalty
            values[token] = values[token] / factor if values[token] > 0 else values[token] * factor
        if times:
            values[token] -= params.frequency_penalty * times + params.presence_penalty
    for forbidden in _forbidden(request, list(output)):
        left = [-math.inf if t in forbidden else value for t, value in enumerate(values)]
        if max(left) > -math.inf or not _has_bans(request):
            values = left
    return values


def _has_bans(request: GenerationRequest) -> bool:
    return request.sampling.allowed_token_ids is not None or len(request.sampling.bad_words) > 0


def _forbidden(request: GenerationRequest, output: list[int]) -> Iterator[set[int]]:
    """What is forbidden, each kind unless nothing would be left."""
    allowed = request.sampling.allowed_token_ids
    if allowed is not None:
        yield set(range(1000)) - {*allowed}
    ends = set()
    for word in request.sampling.bad_words:
        for cut in range(len(output) + 1):
            if output[cut:] == list(word[:-1]):
                ends.add(word[-1])
    yield ends
    yield set(request.stop_token_ids) if len(output) < request.min_tokens else set()


def distribution(
    logits: Sequence[float], request: GenerationRequest, output: Sequence[int]
) -> list[float]:
    """The probability of every token as the next one, temperature above 0."""
    params = request.sampling
    values = [value / params.temperature for value in processed(logits, request, output)]
    weights = [math.exp(value - max(values)) for value in values]
    weights = [weight if weight >= params.min_p else 0.0 for weight in weights]
    if params.top_k > 0:
        kth = sorted(weights, reverse=True)[: params.top_k][-1]
        weights = [weight if weight >= kth else 0.0 for weight in weights]
    kept, mass = set(), 0.0
    for token in sorted(range(len(weights)), key=lambda token: (-weights[token], token)):
        if mass >= params.top_p * sum(weights) and kept:
            break
        kept.add(token)
        mass += weights[token]
    weights = [weight if token in kept else 0.0 for token, weight in enumerate(weights)]
    return [weight / sum(weights) for weight in weights]


def nucleus_margin(
    logits: Sequence[float], request: GenerationRequest, output: Sequence[int]
) -> float:
    """How far `top_p` is from the nearest mass at which the nucleus would be another one."""
    without = distribution(logits, _without_top_p(request), output)
    margins, mass = [1.0], 0.0
    for weight in sorted(without, reverse=True):
        mass += weight
        margins.append(abs(mass - request.sampling.top_p))
    return min(margins) if request.sampling.top_p < 1.0 else 1.0


def _without_top_p(request: GenerationRequest) -> GenerationRequest:
    return replace(request, sampling=replace(request.sampling, top_p=1.0))
