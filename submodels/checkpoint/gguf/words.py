"""How byte-level vocabularies cut text into words before they merge: by llama.cpp's names.

A file does not hold these expressions, only a name of the model whose tokenizer had them; they are
those of the models' own tokenizer.json. A name that is not here is refused, since another
expression would give other token ids without a word.
"""

from dataclasses import dataclass
from types import MappingProxyType

_CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LINES_AND_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"


def _words(num_digits: str) -> str:
    """Words with one sign before them, numbers in groups, signs."""
    return (
        rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{num_digits}"
        rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_LINES_AND_SPACES}"
    )


_GPT_4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]*[{_LOWER}]+{_CONTRACTION}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]+[{_LOWER}]*{_CONTRACTION}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_LINES_AND_SPACES}"
)
_SEED = (
    rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_LINES_AND_SPACES}"
)
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]*[{_LOWER}]+|[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]+[{_LOWER}]*"
    rf"|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_LINES_AND_SPACES}"
)


@dataclass(frozen=True, slots=True)
class TextSplitting:
    """What happens to text before tokens are merged."""

    expression: str | None = None
    """None: GPT-2's own, which the tokenizers library has built in."""
    single_digits: bool = False
    """Each digit is a word, before all else."""
    composed: bool = False
    """Characters and their accents are composed first (NFC)."""
    whole_words: bool = False
    """A word that is a token is that token, whatever the merges would make of it."""
    begins: bool = False
    """A text begins with the token for that, where the file does not say."""


_GPT2 = TextSplitting()
_DIGITS = TextSplitting(single_digits=True)
_QWEN2 = TextSplitting(_words(""))
_LLAMA3 = TextSplitting(_words("{1,3}"), whole_words=True, begins=True)

SPLITTINGS = MappingProxyType(
    {
        **dict.fromkeys(
            ("default", "gpt-2", "phi-2", "mpt", "olmo", "exaone4", "granite-docling"), _GPT2
        ),
        **dict.fromkeys(("smollm", "starcoder", "refact", "codeshell"), _DIGITS),
        "qwen2": TextSplitting(_words(""), composed=True),
        **dict.fromkeys(("deepseek-r1-qwen", "stablelm2", "hunyuan", "megrez"), _QWEN2),
        **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"), _LLAMA3),
        **dict.fromkeys(
            ("smaug-bpe", "dbrx", "glm4", "chatglm-bpe"), TextSplitting(_words("{1,3}"))
        ),
        **dict.fromkeys(("gpt-4o", "llama4", "kanana2"), TextSplitting(_GPT_4O)),
        "command-r": TextSplitting(single_digits=True, composed=True),
        "seed-coder": TextSplitting(_SEED),
        "tekken": TextSplitting(_TEKKEN, whole_words=True, begins=True),
    }
)
