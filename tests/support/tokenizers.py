"""Tokenizers for tests: the shipped model's, and a byte-level one trained on a few lines."""

from functools import cache
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from device_runtime.text.tokenizer import Tokenizer, load_tokenizer

MODEL_FOLDER = Path(__file__).parents[2] / "models" / "stories260k"
_LINES = ["the quick brown fox", "Größe, 你好 and 👩‍👩‍👧", "Once upon a time, there was"]


@cache
def story_tokenizer() -> Tokenizer:
    """Sentencepiece-like: byte fallback, and a space stripped from the beginning."""
    return load_tokenizer(MODEL_FOLDER)


@cache
def byte_level_backend() -> tokenizers.Tokenizer:
    """As GPT-2 and Llama 3 have it, with two special tokens, an added one and a beginning."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        show_progress=False,
        special_tokens=["<|begin|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator(_LINES, trainer)
    backend.add_tokens(["<tool 🛠>"])
    backend.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", 0)]
    )
    return backend


@cache
def byte_level_tokenizer() -> Tokenizer:
    """The byte-level tokenizer, loaded."""
    return Tokenizer(byte_level_backend())
