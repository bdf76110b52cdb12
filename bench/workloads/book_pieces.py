"""Pieces of books that are exactly so many tokens long, for sweeps over prompt length."""

import random
from functools import cache
from typing import TYPE_CHECKING

from bench.workloads.data_files import WorkloadError, book_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# More than any stretch of these books has; vocabularies of 100,000 tokens have less than 5 in
# the mean. A piece begins where as much text as this is left.
_MAX_CHARS_PER_TOKEN = 12
# How far from the last token's end a text of exactly N tokens is looked for.
_MAX_SHIFT_CHARS = 8


def book_pieces(
    num_tokens: int, num: int, seed: int, tokenizer: "Tokenizer"
) -> list[tuple[int, str]]:
    """`num` pieces with the place in the books where each begins, all at different paragraphs.

    Raises:
        WorkloadError: the books have fewer of this length.
    """
    if num_tokens < 1:
        raise WorkloadError(f"expected prompts of 1 token or more, got {num_tokens}")
    last = len(book_text()) - num_tokens * _MAX_CHARS_PER_TOKEN
    starts = [start for start in _paragraph_starts() if start <= last]
    pieces: list[tuple[int, str]] = []
    for start in random.Random(f"books/{num_tokens}/{seed}").sample(starts, len(starts)):
        if len(pieces) == num:
            break
        text = cut_to_tokens(book_text()[start:], num_tokens, tokenizer)
        if text is not None:
            pieces.append((start, text))
    if len(pieces) < num:
        raise WorkloadError(
            f"expected at most {len(pieces)} prompts of {num_tokens} tokens from the books, "
            f"got {num}"
        )
    return pieces


def cut_to_tokens(text: str, num_tokens: int, tokenizer: "Tokenizer") -> str | None:
    """The beginning of `text` that is `num_tokens` tokens by itself, if there is one.

    Counted with the special tokens that the tokenizer adds. A cut inside a word may change how
    the word is split, so the end of the wanted token is only where the search begins.
    """
    encoding = tokenizer.encode(text[: num_tokens * _MAX_CHARS_PER_TOKEN])
    if len(encoding.ids) <= num_tokens:
        return None
    end = encoding.offsets[num_tokens - 1][1]
    for shift in range(_MAX_SHIFT_CHARS + 1):
        for place in (end - shift, end + shift):
            if place > 0 and len(tokenizer.encode(text[:place]).ids) == num_tokens:
                return text[:place]
    return None


@cache
def _paragraph_starts() -> tuple[int, ...]:
    starts, place = [0], 0
    while (place := book_text().find("\n\n", place)) >= 0:
        place += 2
        starts.append(place)
    return tuple(starts)
