"""The texts that are asked: Spec-Bench, stories, what none can foresee, and books cut to length."""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from bench.workloads.adversarial import adversarial_texts
from bench.workloads.book_pieces import book_pieces
from bench.workloads.data_files import PromptRow, WorkloadError, prompt_rows

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPEC_BENCH = "spec-bench"
"""Questions and tasks for a model that chats; the other sets are texts to go on with. Groups of
them (`GROUPS`) are spec-bench:GROUP,..."""

GROUPS = MappingProxyType(
    {
        "chat": ("writing", "roleplay", "reasoning", "extraction", "stem", "humanities"),
        "code": ("coding",),
        "mathematics": ("math", "math_reasoning"),
        "translation": ("translation",),
        "summarization": ("summarization",),
        "qa": ("qa",),
        "rag": ("rag",),
    }
)
"""Spec-Bench's categories as drafters are told of them: MT-bench's are parted into what is talked
about, code, and mathematics."""

_FILES = MappingProxyType({SPEC_BENCH: "spec_bench", "tinystories": "tinystories"})
_BOOKS = "books:"

_MOST_TOO_LONG = 100

_MT_BENCH = frozenset(
    ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
)
"""Categories of MT-bench, which Spec-Bench counts as one of its six (Xia et al., 2024)."""

ADVERSARIAL = "adversarial"
"""Texts that cannot be foreseen, in three categories."""

PROMPT_SETS = (*_FILES, ADVERSARIAL, f"{_BOOKS}N")
"""What `load_prompts` knows; N is a number of tokens."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One text. `number` is the one it has in its source; the same number is the same text.

    `category` is one of Spec-Bench's six or one of the groups that were asked for, a kind of
    adversarial text, or the set's name.
    """

    number: int
    text: str
    category: str


def load_prompts(
    name: str,
    num: int,
    seed: int,
    tokenizer: Path | None = None,
    max_tokens: int | None = None,
) -> list[Prompt]:
    """`num` prompts in an order that depends on the seed alone.

    Args:
        name: spec-bench or some groups of it, tinystories, adversarial, or books:N for pieces of
            books of exactly N tokens.
        num: How many; a set that is smaller begins again, in another order. Of every category
            there are as many, as long as each has some left.
        seed: Chooses and orders.
        tokenizer: The model's `tokenizer.json`, or its folder; needed where tokens are counted.
            Counted is what a completion request counts: with the special tokens the tokenizer adds.
        max_tokens: Longer prompts are left out.

    Raises:
        WorkloadError: no such set, no tokenizer where one is needed, no prompt short enough, or
            more tokens wanted than the books have.
    """
    counted = None if tokenizer is None else _tokenizer(_tokenizer_file(tokenizer))
    if max_tokens is not None and counted is None:
        raise WorkloadError(f"{name}: expected a tokenizer, to tell which prompts are too long")
    if name.startswith(_BOOKS) and name.removeprefix(_BOOKS).isdigit():
        num_tokens = int(name.removeprefix(_BOOKS))
        if counted is None:
            raise WorkloadError(
                f"{name}: expected a tokenizer, to cut texts of {num_tokens} tokens"
            )
        pieces = book_pieces(num_tokens, num, seed, counted)
        return [Prompt(start, text, "books") for start, text in pieces]
    if name == ADVERSARIAL:
        return list(islice(_adversarial(seed, counted, max_tokens), num))
    rows = _rows(name)
    if counted is not None and max_tokens is not None:
        rows = [row for row in rows if _count(counted, row.text) <= max_tokens]
    if not rows:
        raise WorkloadError(f"{name} has no prompt of {max_tokens} tokens or fewer")
    return list(islice(_endless(rows, random.Random(f"{name}/{seed}")), num))


def is_spec_bench(name: str) -> bool:
    """Whether a set is Spec-Bench's, or some groups of it."""
    return name.partition(":")[0] == SPEC_BENCH


def _rows(name: str) -> list[Prompt]:
    """All prompts of a file, or of groups of it, in the file's order.

    Raises:
        WorkloadError: no such file or group.
    """
    file, has_groups, names = name.partition(":")
    if file not in _FILES or (has_groups and file != SPEC_BENCH):
        raise WorkloadError(f"expected one of {', '.join(PROMPT_SETS)}, got {name}")
    groups = names.split(",") if has_groups else []
    if unknown := [group for group in groups if group not in GROUPS]:
        raise WorkloadError(f"expected groups among {', '.join(GROUPS)}, got {unknown[0]!r}")
    group_of = {category: group for group in groups for category in GROUPS[group]}
    return [
        Prompt(row.id, row.text, group_of[row.category] if groups else _category(row))
        for row in prompt_rows(_FILES[file])
        if not groups or row.category in group_of
    ]


def _adversarial(
    seed: int, tokenizer: "Tokenizer | None", max_tokens: int | None
) -> Iterator[Prompt]:
    """Raises WorkloadError: all of a long row of them are too long."""
    num_too_long = 0
    for number, kind, text in adversarial_texts(seed):
        if tokenizer is None or max_tokens is None or _count(tokenizer, text) <= max_tokens:
            yield Prompt(number, text, kind)
            num_too_long = 0
        elif (num_too_long := num_too_long + 1) > _MOST_TOO_LONG:
            raise WorkloadError(f"{ADVERSARIAL} has no prompt of {max_tokens} tokens or fewer")


def _category(row: PromptRow) -> str:
    return "mt_bench" if row.category in _MT_BENCH else row.category


def _endless(rows: list[Prompt], source: random.Random) -> Iterator[Prompt]:
    """All rows in one order, then in another, and so on."""
    while True:
        yield from _in_turn(source.sample(rows, len(rows)))


def _in_turn(rows: Sequence[Prompt]) -> Iterator[Prompt]:
    """One of each category after the other; within a category they keep their order."""
    places: defaultdict[str, int] = defaultdict(int)
    turns = []
    for row in rows:
        turns.append((places[row.category], row))
        places[row.category] += 1
    for _, row in sorted(turns, key=lambda turn: turn[0]):
        yield row


def _count(tokenizer: "Tokenizer", text: str) -> int:
    return len(tokenizer.encode(text).ids)


def _tokenizer_file(path: Path) -> Path:
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise WorkloadError(f"expected the model's tokenizer.json, found none at {path}")
    return file


@cache
def _tokenizer(file: Path) -> "Tokenizer":
    from tokenizers import Tokenizer

    loaded = Tokenizer.from_file(str(file))
    loaded.no_truncation()
    loaded.no_padding()
    return loaded
