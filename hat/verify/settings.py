"""What `hat verify` was asked to do."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Dtype = Literal["float32", "bfloat16"]

DRAWN_TOKENS = 4
DRAWN_TOP_K = 2
DRAWN_TEMPERATURE = 2.0
"""Texts are drawn so short that each of them has its exact probability: with two candidates at
each of four tokens there are sixteen, and a run of some hundred draws has little noise. The
temperature keeps the second candidate likely."""


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """Two models, and how much of them to compare."""

    model: Path
    """The unsplit model's folder or GGUF file."""
    bundle: Path
    """The folder with both bundles of the split one."""
    prompts: Path | None
    num_prompts: int
    max_tokens: int
    dtype: Dtype
    """Of both models."""
    wire_dtype: Dtype
    """Of rows between the split model's sides."""
    num_draws: int
    drafter: str
    engine: Literal["onnx", "torch"] = "onnx"
    """What runs the device's layers."""
    bundle_key: str | None = None
    """The public key that must have signed both bundles."""

    @property
    def is_exact(self) -> bool:
        """Whether the two models are to say the same."""
        return (self.dtype, self.wire_dtype) == ("float32", "float32")
