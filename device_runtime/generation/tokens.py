"""Decided tokens and how a generation ended."""

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Token:
    """A decided token. `logprob` and `top` are of the model's own distribution, unmodified."""

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Emission:
    """The tokens decided in one round. The last one of a request carries a finish reason.

    A stop token that ended the generation is included as the last token.
    """

    tokens: tuple[Token, ...]
    finish_reason: FinishReason | None = None
