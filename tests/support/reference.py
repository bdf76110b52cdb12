"""What the unsplit model says, by `transformers` itself, in float32."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, PreTrainedModel

TIE_MARGIN = 1e-4
"""Below this distance of the reference's own top two logits a first difference is a tie."""

PROMPTS = Path(__file__).parent.parent / "data" / "tinystories_prompts.jsonl"
STORIES = Path(__file__).parents[2] / "models" / "stories260k"


@dataclass(frozen=True, slots=True)
class Greedy:
    """The ids `generate` chose after a prompt, and how clear each choice was in logits."""

    ids: tuple[int, ...]
    margins: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """The first position where two continuations part, and the reference's margin there."""

    index: int
    margin: float

    @property
    def is_tie(self) -> bool:
        """Whether the reference itself could not tell the two tokens apart."""
        return self.margin < TIE_MARGIN


def load_reference(model: Path) -> PreTrainedModel:
    """The unsplit model in float32, ready to generate."""
    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()


def greedy(
    model: PreTrainedModel, prompt_ids: Sequence[int], max_tokens: int, *, ignore_eos: bool = False
) -> Greedy:
    """The unsplit model's greedy continuation; a stop token that ended it is included.

    With a sliding window of one key, transformers' cache keeps every key instead of none and
    `generate` contradicts the model's own forward pass; there it runs without a cache.
    """
    stop = {"eos_token_id": None} if ignore_eos else {}
    use_cache = getattr(model.config, "sliding_window", None) != 1
    with torch.inference_mode():
        out = model.generate(
            torch.tensor([list(prompt_ids)]),
            attention_mask=torch.ones(1, len(prompt_ids), dtype=torch.long),
            do_sample=False,
            max_new_tokens=max_tokens,
            use_cache=use_cache,
            return_dict_in_generate=True,
            output_logits=True,
            pad_token_id=0,
            **stop,
        )
    top = torch.stack(out.logits)[:, 0].topk(2, dim=-1).values
    ids = out.sequences[0, len(prompt_ids) :].tolist()
    return Greedy(tuple(ids), tuple((top[:, 0] - top[:, 1]).tolist()))


def first_difference(reference: Greedy, ids: Sequence[int]) -> Difference | None:
    """Where `ids` first differ from the reference, or None when they are the same."""
    if tuple(ids) == reference.ids:
        return None
    for index, (expected, came) in enumerate(zip(reference.ids, ids, strict=False)):
        if expected != came:
            return Difference(index, reference.margins[index])
    return Difference(min(len(ids), len(reference.ids)), float("inf"))


def story_prompts(count: int | None = None, model: Path = STORIES) -> list[list[int]]:
    """The 200 story beginnings as token ids of a model."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    lines = PROMPTS.read_text().splitlines()[:count]
    return [tokenizer.encode(json.loads(line)["turns"][0]).ids for line in lines]
