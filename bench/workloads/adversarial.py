"""Texts that nothing on a device can foresee: drafts of them are refused, or should not be made."""

import base64
import random
import re
from collections.abc import Iterator
from functools import cache

from bench.workloads.data_files import book_text, prompt_rows

RANDOM_WORDS, OTHER_LANGUAGE, BASE64 = "random words", "another language", "base64"
KINDS = (RANDOM_WORDS, OTHER_LANGUAGE, BASE64)

_NUM_WORDS = 40
_NUM_BYTES = 60
_NUM_FIRSTS = 1 << 16


def adversarial_texts(seed: int) -> Iterator[tuple[int, str, str]]:
    """Number, kind and text without end, the kinds in turn; the seed says where they begin.

    The same number is the same text, and a text to go on with: words of the books in random order,
    a German sentence, or random bytes in base64.
    """
    number = len(KINDS) * random.Random(f"adversarial/{seed}").randrange(_NUM_FIRSTS)
    while True:
        kind = KINDS[number % len(KINDS)]
        yield number, kind, _text(kind, number)
        number += 1


def _text(kind: str, number: int) -> str:
    source = random.Random(f"{kind}/{number}")
    if kind == RANDOM_WORDS:
        return " ".join(source.choice(_words()) for _ in range(_NUM_WORDS))
    if kind == BASE64:
        return base64.b64encode(source.randbytes(_NUM_BYTES)).decode()
    sentences = _german()
    return sentences[number // len(KINDS) % len(sentences)]


@cache
def _words() -> tuple[str, ...]:
    return tuple(sorted(set(re.findall(r"[a-z]{3,}", book_text()))))


@cache
def _german() -> tuple[str, ...]:
    """What Spec-Bench would have translated into English."""
    rows = [row for row in prompt_rows("spec_bench") if row.category == "translation"]
    return tuple(row.text.removeprefix("Translate German to English: ") for row in rows)
