"""What was said here before, in memory only: the texts of finished requests, oldest out first."""

from collections.abc import Sequence
from dataclasses import dataclass

from device_runtime.drafting.suffix.index import LONGEST_MATCH, SuffixIndex, slots_for

_BLOCK_TOKENS = 32
"""A text's beginning is recognised in blocks of so many tokens."""

_BLOCK_BYTES = 100
"""Of a dictionary's entry: two integers and their places."""


@dataclass(frozen=True, slots=True)
class _Block:
    """Some tokens of a text that end before `end`; the key is a hash of all from its beginning."""

    key: int
    end: int


class SuffixMemory:
    """Texts of one endpoint, which has one key or none: whoever may ask shares them.

    A conversation comes again with every turn, and a system prompt with every request. The part of
    a text that is kept already, block by block from its beginning, is not kept twice.

    Used on the engine's thread only.
    """

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.index = SuffixIndex(max_tokens, slots_for(max_tokens))
        self._ends: dict[int, int] = {}
        """Where the blocks end that are kept, by their key."""
        self._most_ends = 2 * (max_tokens // _BLOCK_TOKENS + 1)

    @property
    def max_bytes(self) -> int:
        """Memory when it is full: about 60 bytes per token."""
        return self.index.max_bytes + 2 * self.max_tokens // _BLOCK_TOKENS * _BLOCK_BYTES

    def remember(self, text: Sequence[int]) -> None:
        """Keep a request's text, prompt and answer, as far as it is new."""
        blocks = _blocks_of(text)
        num_known = 0
        while num_known < len(blocks) and self._is_kept(blocks[num_known].key):
            num_known += 1
        if num_known == len(blocks):
            return
        # What is new is found by the words before it.
        start = max(0, num_known * _BLOCK_TOKENS - LONGEST_MATCH)
        begin = self.index.num_tokens - start
        self.index.extend(text[start:])
        self.index.end_text()
        for block in blocks[num_known:]:
            self._ends[block.key] = begin + block.end
        self._forget_blocks()

    def _is_kept(self, key: int) -> bool:
        end = self._ends.get(key)
        return end is not None and end - _BLOCK_TOKENS >= self.index.first_position

    def _forget_blocks(self) -> None:
        """Let go of blocks whose tokens are gone, each time that blocks have doubled."""
        if len(self._ends) > self._most_ends:
            self._ends = {key: end for key, end in self._ends.items() if self._is_kept(key)}
            self._most_ends = max(self._most_ends, 2 * len(self._ends))


def _blocks_of(text: Sequence[int]) -> list[_Block]:
    """A text in blocks; the last one may be short."""
    blocks: list[_Block] = []
    key = 0
    for start in range(0, len(text), _BLOCK_TOKENS):
        key = hash((key, *text[start : start + _BLOCK_TOKENS]))
        blocks.append(_Block(key, min(start + _BLOCK_TOKENS, len(text))))
    return blocks
