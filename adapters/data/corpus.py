"""Text files into token windows: what an adapter is trained and judged on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from process.errors import UserError, reading_reason
from submodels.bundle.bundle import Bundle
from submodels.checkpoint.special_tokens import TOKENIZER_FILE

Tokens = NDArray[np.int32]

STORY_END = "<|endoftext|>"
"""What separates stories in a text file; a file without it is one long story."""

# Text is read in pieces, and a story that grows too long is cut, so that memory stays small.
_PIECE_CHARS = 1 << 16
_MAX_STORY_CHARS = 1 << 20
_HELD_OUT_EVERY = 20


class CorpusError(UserError):
    """Text files are missing, unreadable, or hold too little."""


class Share(Enum):
    """Which stories of a text: all, or one part of a fixed division into trained and held out."""

    ALL = "all"
    TRAINED = "trained"
    HELD_OUT = "held out"

    def holds(self, index: int) -> bool:
        """Whether the story with this index, counted over all files, belongs to the share."""
        is_held_out = index % _HELD_OUT_EVERY == _HELD_OUT_EVERY - 1
        return self is Share.ALL or is_held_out == (self is Share.HELD_OUT)


@dataclass(frozen=True, slots=True)
class Corpus:
    """Text files, read with the tokenizer of a device bundle."""

    bundle: Bundle
    paths: Sequence[Path]
    share: Share = Share.ALL


@dataclass(frozen=True, slots=True)
class Windows:
    """How stories are cut: at most `max_tokens` each, what is shorter than `min_tokens` dropped.

    Every window begins as a sequence does: where the tokenizer puts a first token before a story,
    the later windows of a long story get one too. An adapter drafts badly at positions beyond the
    longest window it was trained on (docs/adapters.md), so choose `max_tokens` as long as the
    texts to come.
    """

    max_tokens: int = 512
    min_tokens: int = 16

    def __post_init__(self) -> None:
        if not 1 <= self.min_tokens <= self.max_tokens or self.max_tokens < 2:
            raise ValueError(
                f"expected windows of 2 or more tokens, the shortest of 1 or more, got "
                f"{self.max_tokens} and {self.min_tokens}"
            )

    def cut(self, story: Sequence[int], bos_token_id: int | None) -> Iterator[Tokens]:
        """The windows of one encoded story."""
        has_bos = bool(story) and bos_token_id is not None and story[0] == bos_token_id
        head = story[:1] if has_bos else []
        body = story[len(head) :]
        step = self.max_tokens - len(head)
        for start in range(0, len(body), step):
            window = [*head, *body[start : start + step]]
            if len(window) >= self.min_tokens:
                yield np.array(window, np.int32)


def load_tokenizer(bundle: Bundle) -> Tokenizer:
    """The tokenizer of a device bundle."""
    tokenizer = Tokenizer.from_file(str(bundle.path / TOKENIZER_FILE))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def stories(paths: Sequence[Path]) -> Iterator[str]:
    """The stories of text files in order, without surrounding blanks; empty ones are left out.

    A mark of UTF-8 before a file's first story is no part of it.

    Raises:
        CorpusError: a file cannot be read, or is not UTF-8.
    """
    for path in paths:
        try:
            with path.open(encoding="utf-8-sig") as file:
                held = ""
                while piece := file.read(_PIECE_CHARS):
                    *whole, held = (held + piece).split(STORY_END)
                    yield from filter(None, map(str.strip, whole))
                    if len(held) >= _MAX_STORY_CHARS:
                        yield held.strip()
                        held = ""
                if held.strip():
                    yield held.strip()
        except (OSError, UnicodeDecodeError) as error:
            raise CorpusError(f"cannot read text from {path}: {reading_reason(error)}") from error


def encoded_stories(corpus: Corpus) -> Iterator[list[int]]:
    """The stories of a corpus as token ids, special tokens as the tokenizer puts them.

    Raises:
        CorpusError: a file cannot be read.
    """
    tokenizer = load_tokenizer(corpus.bundle)
    for index, story in enumerate(stories(corpus.paths)):
        if corpus.share.holds(index):
            ids: list[int] = tokenizer.encode(story).ids
            yield ids


def collect_windows(corpus: Corpus, windows: Windows, max_tokens: int) -> list[Tokens]:
    """The windows of all stories in order, until they hold `max_tokens` tokens in all.

    Raises:
        CorpusError: a file cannot be read, or not one window came out.
    """
    collected: list[Tokens] = []
    num_left = max_tokens
    for story in encoded_stories(corpus):
        for window in windows.cut(story, corpus.bundle.manifest.bos_token_id):
            num_left -= len(window)
            if num_left < 0:
                break
            collected.append(window)
        if num_left <= 0:
            break
    if not collected:
        raise CorpusError(
            f"no text of {windows.min_tokens} tokens or more in "
            f"{', '.join(map(str, corpus.paths)) or 'no file'}"
        )
    return collected
