"""Lines of many languages, and what tokenizers make of them."""

import random
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoTokenizer

DATA = Path(__file__).parents[1] / "data"
NUM_LINES = 2000


@cache
def lines() -> tuple[str, ...]:
    """Lines of many languages, whole and mixed, with what is special to tokenizers in between."""
    chance = random.Random(11)
    known = (DATA / "many_languages.txt").read_text().splitlines()
    words = [word for line in known for word in line.split(" ")]
    between = (" ", " ", " ", "  ", "\n", "\t", "", ", ", "<|user|>", "<think>", "'s ", " \n\n ")
    mixed = [
        "".join(chance.choice(words) + chance.choice(between) for _ in range(chance.randint(1, 14)))
        for _ in range(NUM_LINES - len(known))
    ]
    return (*known, *mixed)


def ids_of(tokenizer: Tokenizer) -> list[list[int]]:
    return [encoding.ids for encoding in tokenizer.encode_batch(list(lines()))]


def theirs(path: Path, *, digits_apart: bool = False) -> list[list[int]]:
    """transformers' reading of a file, which forgets where a model's numbers come apart."""
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    if digits_apart:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
        )
    ids: list[list[int]] = tokenizer(list(lines()))["input_ids"]
    return ids
