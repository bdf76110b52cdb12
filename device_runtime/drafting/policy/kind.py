"""Kinds of sampling, which are learnt of apart: a drafter fares differently under each."""

from bisect import bisect_left
from dataclasses import dataclass

from device_runtime.generation.request import SamplingParams

_TEMPERATURES = (0.0, 0.5, 0.85, 1.15)
"""Greedy; then up to each of these, and above."""


@dataclass(frozen=True, slots=True)
class SamplingKind:
    """A band of temperatures, and whether tokens that occurred before are penalised.

    Guesses repeat what was said, so under penalties they are right far more rarely.
    """

    band: int = 0
    is_penalised: bool = False


def sampling_kind(params: SamplingParams) -> SamplingKind:
    """The kind that a request is of."""
    is_penalised = (
        params.repetition_penalty != 1.0
        or params.presence_penalty != 0.0
        or params.frequency_penalty != 0.0
    )
    return SamplingKind(bisect_left(_TEMPERATURES, params.temperature), is_penalised)
