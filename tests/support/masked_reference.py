"""The unsplit model held to a schema: transformers' logits under the grammar library's own masks.

Nothing here comes from the device but the noise, which is how a seed is defined.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from llguidance import LLMatcher
from llguidance.hf import from_tokenizer
from llguidance.numpy import (
    allocate_token_bitmask,
    apply_token_bitmask_inplace,
    fill_next_token_bitmask,
)
from numpy.typing import NDArray
from transformers import AutoTokenizer, GenerationConfig, LogitsProcessor, LogitsProcessorList

from device_runtime.sampling.noise import PositionNoise
from tests.support.reference import load_reference

_OPTIONS = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    # Whether only one fits is for the validator to say.
    "coerce_one_of": True,
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What is generated."""

    prompt_ids: tuple[int, ...]
    schema: Mapping[str, Any]
    max_tokens: int
    temperature: float
    seed: int
    bias: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Chosen:
    """A token, and how much better than the next best it was, in logits."""

    token_id: int
    margin: float


class MaskedReference:
    """One model, in float32, with its tokenizer as transformers reads it."""

    def __init__(self, folder: Path) -> None:
        self._model = load_reference(folder)
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._vocab_size = int(self._model.config.vocab_size)
        said = self._model.generation_config.eos_token_id
        ends = {self._tokenizer.eos_token_id, *(said if isinstance(said, list) else [said])}
        self._ends = sorted(ends - {None})
        self._masks = from_tokenizer(
            self._tokenizer, n_vocab=self._vocab_size, eos_token=self._ends
        )

    def text(self, ids: list[int]) -> str:
        """Tokens as text, without those of control."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def chosen(self, asked: Asked) -> list[Chosen]:
        """The tokens that the model chooses, an end included."""
        schema = json.dumps({**asked.schema, "x-guidance": _OPTIONS})
        matcher = LLMatcher(self._masks, LLMatcher.grammar_from_json_schema(schema), log_level=0)
        assert not matcher.is_error(), matcher.get_error()
        held = _Held(asked, matcher, self._vocab_size)
        prompt = torch.tensor([asked.prompt_ids])
        with torch.inference_mode():
            self._model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                generation_config=GenerationConfig(
                    do_sample=False,
                    max_new_tokens=asked.max_tokens,
                    eos_token_id=self._ends,
                    pad_token_id=self._ends[0],
                ),
                logits_processor=LogitsProcessorList([held]),
            )
        return held.chosen


class _Held(LogitsProcessor):
    """Chooses from logits after bias and mask, and leaves `generate` nothing else to take."""

    def __init__(self, asked: Asked, matcher: LLMatcher, vocab_size: int) -> None:
        self._asked = asked
        self._matcher = matcher
        self._bits = allocate_token_bitmask(1, vocab_size)
        self.chosen: list[Chosen] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self.chosen:
            assert int(input_ids[0, -1]) == self.chosen[-1].token_id
            assert self._matcher.consume_token(self.chosen[-1].token_id)
        logits = scores[0].numpy().copy()
        for token, addend in self._asked.bias.items():
            logits[token] += addend
        fill_next_token_bitmask(self._matcher, self._bits)
        apply_token_bitmask_inplace(logits, self._bits)
        self.chosen.append(_choice(logits, self._asked, input_ids.shape[1]))
        only = torch.full_like(scores, -float("inf"))
        only[0, self.chosen[-1].token_id] = 0.0
        return only


def _choice(logits: NDArray[np.float32], asked: Asked, position: int) -> Chosen:
    scores = logits.astype(np.float64)
    if asked.temperature > 0:
        draws = PositionNoise(asked.seed)(position, np.arange(len(scores)))
        scores = scores / asked.temperature - np.log(draws)
    second, first = np.partition(scores, -2)[-2:]
    return Chosen(int(scores.argmax()), float(first - second))
