"""Conversations on disk: what was asked and what the target answered, one per line."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from adapters.data.corpus import CorpusError

CONVERSATIONS_FILE = "conversations.jsonl"


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """Token ids of a prompt and of the target's answer to it.

    `num_prompt_tokens` come before the first token that the target answered with; `temperature`
    is that of its answers, 0 for greedy. Where it answered several times, `answers` has the
    half-open ranges of tokens, in order.
    """

    token_ids: list[int]
    num_prompt_tokens: int
    temperature: float = 0.0
    answers: list[tuple[int, int]] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.num_prompt_tokens < len(self.token_ids):
            raise ValueError(
                f"expected a prompt and an answer, got a prompt of {self.num_prompt_tokens} of "
                f"{len(self.token_ids)} tokens"
            )
        at = 0
        for start, end in self.ranges:
            if not at <= start < end <= len(self.token_ids):
                raise ValueError(f"expected ranges of tokens in order, got {self.answers}")
            at = end

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """Where the target answered."""
        if not self.answers:
            return ((self.num_prompt_tokens, len(self.token_ids)),)
        return tuple(self.answers)

    @property
    def answer(self) -> list[int]:
        """What the target said."""
        return [token for start, end in self.ranges for token in self.token_ids[start:end]]


def read_conversations(path: Path, vocab_size: int) -> list[Conversation]:
    """The conversations of a file; a last line that was not written to its end is left out.

    Raises:
        CorpusError: unreadable, a line is not a conversation, or one has tokens of another model.
    """
    decoder = msgspec.json.Decoder(Conversation)
    read: list[Conversation] = []
    try:
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                read.append(_checked(decoder.decode(line), vocab_size))
    except OSError as error:
        raise CorpusError(f"cannot read {path}: {error.strerror or error}") from error
    except (msgspec.DecodeError, ValueError) as error:
        raise CorpusError(f"{path}, line {len(read) + 1}: {error}") from error
    return read


def append_conversations(path: Path, num_bytes: int, added: Iterable[Conversation]) -> int:
    """Put conversations behind the first `num_bytes` of a file, safely on disk; its new size.

    What is behind those bytes was not finished, and is dropped.
    """
    lines = b"".join(msgspec.json.encode(one) + b"\n" for one in added)
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.truncate(num_bytes)
        file.seek(num_bytes)
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())
    return num_bytes + len(lines)


def whole_bytes(path: Path) -> int:
    """The size of a file up to the end of its last whole line; 0 where there is none."""
    if not path.exists():
        return 0
    return path.read_bytes().rfind(b"\n") + 1


@dataclass(frozen=True, slots=True)
class ConversationFigures:
    """How much there is of what. A share of distinct n-grams near 0 says that answers repeat."""

    num_conversations: int
    num_tokens: int
    mean_prompt_tokens: float
    mean_answer_tokens: float
    distinct_2: float
    """Different pairs of neighbouring answer tokens, as a share of all pairs."""
    distinct_3: float


def conversation_figures(conversations: Sequence[Conversation]) -> ConversationFigures:
    """Lengths and diversity of some conversations."""
    num = max(1, len(conversations))
    num_tokens = sum(len(one.token_ids) for one in conversations)
    num_answer = sum(len(one.answer) for one in conversations)
    return ConversationFigures(
        num_conversations=len(conversations),
        num_tokens=num_tokens,
        mean_prompt_tokens=(num_tokens - num_answer) / num,
        mean_answer_tokens=num_answer / num,
        distinct_2=_distinct_share(conversations, 2),
        distinct_3=_distinct_share(conversations, 3),
    )


def _distinct_share(conversations: Sequence[Conversation], size: int) -> float:
    seen, count = set(), 0
    for one in conversations:
        for gram in _grams(one.answer, size):
            seen.add(gram)
            count += 1
    return len(seen) / count if count else 0.0


def _grams(token_ids: Sequence[int], size: int) -> Iterator[tuple[int, ...]]:
    return zip(*(token_ids[start:] for start in range(size)), strict=False)


def _checked(conversation: Conversation, vocab_size: int) -> Conversation:
    if not 0 <= min(conversation.token_ids) <= max(conversation.token_ids) < vocab_size:
        raise ValueError(f"expected token ids below {vocab_size}; it is of another model")
    return conversation
