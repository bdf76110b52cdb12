"""The texts of an audit: what users say, and what an attacker learns from."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from adapters.data.corpus import CorpusError, stories
from hat.text_lines import json_line, text_lines
from process.errors import reading_reason

Tokens = tuple[int, ...]

_FIELDS = ("text", "prompt")
_SHORTEST = 8
"""A document of fewer tokens is left out."""


@dataclass(frozen=True, slots=True)
class Reader:
    """How a model reads texts: its tokenizer, and the token that texts begin with, if there is."""

    tokenizer: Tokenizer
    bos_token_id: int | None

    @property
    def opening(self) -> Tokens:
        """What every text begins with, known to everybody."""
        return () if self.bos_token_id is None else (self.bos_token_id,)

    def ids(self, text: str) -> list[int]:
        """The tokens of a text behind its opening."""
        found: list[int] = self.tokenizer.encode(text).ids
        return found[1:] if found[:1] == list(self.opening) else found


def drawn_documents(
    path: Path, reader: Reader, most_tokens: int, count: int, chance: np.random.Generator
) -> list[Tokens]:
    """Documents of a file, cut to `most_tokens`, `count` of them or as many as there are.

    Each begins with the opening, which is not counted.

    A .jsonl file has a document in the "text" or "prompt" of each line. Any other file is text:
    its documents end at <|endoftext|>, and one that is longer than `most_tokens` is several.

    Raises:
        CorpusError: a file that cannot be read, or no document of 8 tokens.
    """
    pieces = []
    for text in _texts(path):
        ids = reader.ids(text)
        # Of lines each is a document of its own: what is behind its beginning is not another one.
        last = 1 if path.suffix == ".jsonl" else len(ids)
        pieces += [ids[begin : begin + most_tokens] for begin in range(0, last, most_tokens)]
    # Those that begin alike are the same document here.
    usable = list(dict.fromkeys(tuple(piece) for piece in pieces if len(piece) >= _SHORTEST))
    if not usable:
        raise CorpusError(f"no document of {_SHORTEST} tokens or more in {path}")
    places = sorted(chance.permutation(len(usable))[:count].tolist())
    return [(*reader.opening, *usable[place]) for place in places]


def known_windows(path: Path, reader: Reader, most: int, size: int) -> list[Tokens]:
    """Texts of `size` tokens that an attacker knows, the first of a file, `most` tokens in all.

    The opening is one of them.

    Raises:
        CorpusError: a file that cannot be read, or holds no window.
    """
    windows: list[Tokens] = []
    step = size - len(reader.opening)
    for text in _texts(path):
        ids = reader.ids(text)
        for begin in range(0, len(ids) - step + 1, step):
            if len(windows) * size >= most:
                return windows
            windows.append((*reader.opening, *ids[begin : begin + step]))
    if not windows:
        raise CorpusError(f"{path} has no text of {size} tokens")
    return windows


def _texts(path: Path) -> Iterator[str]:
    if path.suffix != ".jsonl":
        yield from stories([path])
        return
    try:
        lines = text_lines(path)
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"cannot read text from {path}: {reading_reason(error)}") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _text_of(line, f"{path}, line {number}")


def _text_of(line: str, place: str) -> str:
    try:
        found = json_line(line)
    except ValueError as error:
        raise CorpusError(f"{place}: expected JSON, {error}") from error
    texts = [found.get(name) for name in _FIELDS] if isinstance(found, dict) else []
    for text in texts:
        if isinstance(text, str):
            return text
    raise CorpusError(f'{place}: expected an object with a "text" or a "prompt"')
