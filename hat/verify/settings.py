"""What `hat verify` was asked to do."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Dtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class SampledCheck:
    """Short texts, so that every one of them has its exact probability.

    With two candidates at each of four tokens there are sixteen texts, and a run of some hundred
    draws has little noise. The temperature keeps the second candidate likely.
    """

    num_draws: int
    num_tokens: int = 4
    top_k: int = 2
    temperature: float = 2.0


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """The model's folder, its bundles, and how much to compare.

    `dtype` is the number format of both models, `wire_dtype` that of rows between the split one's
    sides. `drafter` None: the default.
    """

    model: Path
    bundle: Path
    prompts: Path | None
    num_prompts: int
    max_tokens: int
    dtype: Dtype
    wire_dtype: Dtype
    sampled: SampledCheck
    drafter: str | None = None

    @property
    def is_exact(self) -> bool:
        """Whether the two models are to say the same."""
        return (self.dtype, self.wire_dtype) == ("float32", "float32")
