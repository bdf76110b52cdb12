"""Shapes of real models. Imports nothing large: the command line reads it for its help."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A Llama's sizes."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    intermediate_size: int
    max_context_tokens: int

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads


SHAPES: Mapping[str, ModelShape] = MappingProxyType(
    {
        "tiny": ModelShape(32, 3, 4, 2, 64, 512),
        # As stories110M of karpathy/llama2.c.
        "110m": ModelShape(768, 12, 12, 12, 2048, 4096),
        # As TinyLlama-1.1B (arXiv:2401.02385), with a longer context.
        "1.1b": ModelShape(2048, 22, 32, 4, 5632, 4096),
    }
)
"""Layers as in the models named. All have GPT-2's vocabulary, whose tokenizer comes with hat, and a
head of its own: with the embedding as head a random model says its last token again and again."""
