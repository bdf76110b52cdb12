"""Seeded random checkpoints of every family, with a byte-level tokenizer, for tests and benches.

They say nothing sensible, but every tensor matters: biases are not zero, norm weights are not
one, so that a part left out or misplaced shows.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from submodels.manifest import DtypeName
from submodels.plan.families import FAMILIES

NUM_BYTE_TOKENS = 256
BOS_TOKEN, EOS_TOKEN = "<s>", "</s>"
BOS_TOKEN_ID, EOS_TOKEN_ID = NUM_BYTE_TOKENS, NUM_BYTE_TOKENS + 1
MIN_VOCAB_SIZE = NUM_BYTE_TOKENS + 2


@dataclass(frozen=True, slots=True)
class RandomModel:
    """What to make. `extra` goes into the configuration as it is: rope, biases, windows.

    The vocabulary is a little larger than the tokenizer's, as in most real models.
    `max_shard_bytes` None writes one file.
    """

    family: str = "llama"
    num_layers: int = 5
    hidden_size: int = 64
    intermediate_size: int = 96
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int | None = None
    vocab_size: int = MIN_VOCAB_SIZE + 3
    max_context_tokens: int = 512
    tied: bool = False
    dtype: DtypeName = "float32"
    seed: int = 0
    max_shard_bytes: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


def make_random_model(model: RandomModel, folder: Path) -> None:
    """Write a checkpoint that transformers and `hat split` read, with its tokenizer.

    Raises:
        ValueError: a vocabulary too small for all bytes and two special tokens.
    """
    if model.vocab_size < MIN_VOCAB_SIZE:
        raise ValueError(f"expected a vocabulary of {MIN_VOCAB_SIZE} or more: {model.vocab_size}")
    import transformers

    family = FAMILIES[model.family]
    config = getattr(transformers, family.config_class)(**_settings(model))
    network = getattr(transformers, family.architecture)(config)
    save_random(network, model, folder)


def save_random(network: Any, model: RandomModel, folder: Path) -> None:
    """Write a network of transformers with seeded weights, and a tokenizer beside it."""
    _randomize(network, model.seed)
    network = network.to(getattr(torch, model.dtype))
    shard_bytes = model.max_shard_bytes or 1 << 62
    network.save_pretrained(folder, max_shard_size=shard_bytes)
    _write_tokenizer(folder, model.max_context_tokens)


def _settings(model: RandomModel) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "num_hidden_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.intermediate_size,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_key_value_heads,
        "vocab_size": model.vocab_size,
        "max_position_embeddings": model.max_context_tokens,
        "tie_word_embeddings": model.tied,
        "bos_token_id": BOS_TOKEN_ID,
        "eos_token_id": EOS_TOKEN_ID,
        "pad_token_id": None,
        "head_dim": model.head_dim or model.hidden_size // model.num_attention_heads,
    }
    if model.family == "mistral":
        settings["sliding_window"] = None
    return settings | dict(model.extra)


def _randomize(network: torch.nn.Module, seed: int) -> None:
    """Scales that keep rows near unit size, and logits apart enough that argmax is no coin toss."""
    generator = torch.Generator().manual_seed(seed)
    scales = MappingProxyType({"lm_head": 3.0, "embed_tokens": 3.0})
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                is_norm = "norm" in name
                parameter.copy_(1 + 0.3 * noise if is_norm else 0.3 * noise)
            else:
                gain = next((g for part, g in scales.items() if part in name), 1.0)
                parameter.copy_(noise * gain * parameter.shape[-1] ** -0.5)
        for name, buffer in network.named_buffers():
            if name.endswith("layer_scalar"):
                buffer.copy_(1 + 0.3 * torch.randn(buffer.shape, generator=generator))


def _write_tokenizer(folder: Path, max_context_tokens: int) -> None:
    """One token per byte, then the two special tokens; what was encoded decodes to itself."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({text: index for index, text in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(text, special=True) for text in (BOS_TOKEN, EOS_TOKEN)]
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS_TOKEN,
        "eos_token": EOS_TOKEN,
        "model_max_length": max_context_tokens,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
