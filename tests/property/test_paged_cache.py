"""Paged KV beside plain lists: whatever is forked, cut, written and released, rows stay apart.

The memory is that of a worker: blocks are copied, all sources first, and then rows are written
where the tables say. The lists know nothing of blocks.
"""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cloud_server.engines.engine import EngineFullError, SequenceId
from cloud_server.engines.vllm.paged_cache import PagedCache, Placement, Span
from tests.support.examples import at_most


@dataclass(slots=True)
class Text:
    """What a sequence is to hold, and the blocks it was last said to be in."""

    max_tokens: int
    rows: list[int] = field(default_factory=list)
    table: tuple[int, ...] = ()


def num_used_blocks(cache: PagedCache) -> int:
    """Blocks that hold positions of some sequence."""
    return cache.num_blocks - len(cache._free)


class PagedCacheMachine(RuleBasedStateMachine):
    """Few and small blocks, so that each of them has many owners one after another."""

    @initialize(
        num_blocks=st.integers(1, 12), block_tokens=st.integers(1, 4), context=st.integers(1, 40)
    )
    def begin(self, num_blocks: int, block_tokens: int, context: int) -> None:
        self.cache = PagedCache(num_blocks, block_tokens, context)
        self.block_tokens = block_tokens
        self.memory = np.zeros((num_blocks + 1, block_tokens), np.int64)
        self.texts: dict[SequenceId, Text] = {}
        self.num_rows_made = 0
        assert self.cache.max_context_tokens == min(context, num_blocks * block_tokens)

    @rule(data=st.data())
    def open(self, data: st.DataObject) -> None:
        max_tokens = data.draw(st.integers(1, self.cache.max_context_tokens))
        if self.refuses(max_tokens):
            with pytest.raises(EngineFullError):
                self.cache.open(max_tokens)
            return
        self.texts[self.cache.open(max_tokens)] = Text(max_tokens)

    @precondition(lambda self: self.texts)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        name = self.draw_sequence(data)
        source = self.texts[name]
        num_tokens = data.draw(st.integers(0, len(source.rows)))
        max_tokens = data.draw(st.integers(max(1, num_tokens), self.cache.max_context_tokens))
        if self.refuses(max_tokens):
            with pytest.raises(EngineFullError):
                self.cache.open(max_tokens, name, num_tokens)
            return
        fork = self.cache.open(max_tokens, name, num_tokens)
        table = source.table[: self.blocks_for(num_tokens)]
        self.texts[fork] = Text(max_tokens, source.rows[:num_tokens], table)

    @precondition(lambda self: self.texts)
    @rule(data=st.data())
    def fork_too_much(self, data: st.DataObject) -> None:
        name = self.draw_sequence(data)
        text = self.texts[name]
        with pytest.raises(ValueError, match="cannot fork"):
            self.cache.open(1, name, max(2, len(text.rows) + 1))

    @precondition(lambda self: self.texts)
    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        """Rows for some sequences at once, each behind or over a part of what it holds."""
        names = data.draw(st.lists(st.sampled_from(sorted(self.texts)), min_size=1, unique=True))
        spans = [self.draw_span(data, name) for name in names]
        placement = self.cache.place(spans)
        self.check_placement(spans, placement)
        self.run(spans, placement)

    @precondition(lambda self: self.texts)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        name = self.draw_sequence(data)
        self.cache.release(name)
        del self.texts[name]
        with pytest.raises(ValueError, match="no sequence"):
            self.cache.release(name)

    def draw_sequence(self, data: st.DataObject) -> SequenceId:
        return data.draw(st.sampled_from(sorted(self.texts)))

    def draw_span(self, data: st.DataObject, name: SequenceId) -> Span:
        text = self.texts[name]
        last = min(len(text.rows), text.max_tokens - 1)
        position = data.draw(st.integers(0, last) | st.just(last))
        num_rows = data.draw(st.integers(1, text.max_tokens - position))
        return Span(name, position, num_rows)

    def check_placement(self, spans: list[Span], placement: Placement) -> None:
        """Rows are written to blocks that nobody else reads, and copies do not meet."""
        targets = [target for _, target in placement.copies]
        assert len(set(targets)) == len(targets)
        for span, table in zip(spans, placement.tables, strict=True):
            end = span.position + span.num_rows
            assert len(table) == self.blocks_for(end)
            self.texts[span.sequence].table = table
        for span in spans:
            written = self.texts[span.sequence].table[span.position // self.block_tokens :]
            for name, other in self.texts.items():
                assert name == span.sequence or not set(written) & set(other.table)

    def run(self, spans: list[Span], placement: Placement) -> None:
        copies = np.array(placement.copies, np.int64).reshape(-1, 2)
        self.memory[copies[:, 1]] = self.memory[copies[:, 0]]
        for span, table in zip(spans, placement.tables, strict=True):
            text = self.texts[span.sequence]
            del text.rows[span.position :]
            for position in range(span.position, span.position + span.num_rows):
                self.num_rows_made += 1
                text.rows.append(self.num_rows_made)
                block = table[position // self.block_tokens]
                self.memory[block, position % self.block_tokens] = self.num_rows_made

    def blocks_for(self, num_tokens: int) -> int:
        return (num_tokens + self.block_tokens - 1) // self.block_tokens

    def num_reserved(self) -> int:
        return sum(self.blocks_for(text.max_tokens) for text in self.texts.values())

    def refuses(self, max_tokens: int) -> bool:
        return self.num_reserved() + self.blocks_for(max_tokens) > self.cache.num_blocks

    @invariant()
    def every_sequence_holds_what_its_list_holds(self) -> None:
        if not hasattr(self, "cache"):
            return
        for name, text in self.texts.items():
            extent = self.cache.extent(name)
            assert (extent.length, extent.max_tokens) == (len(text.rows), text.max_tokens)
            rows = self.memory[list(text.table)].reshape(-1)[: len(text.rows)]
            assert rows.tolist() == text.rows

    @invariant()
    def blocks_are_those_of_the_live_sequences(self) -> None:
        if not hasattr(self, "cache"):
            return
        blocks = {block for text in self.texts.values() for block in text.table}
        assert blocks <= set(range(1, self.cache.num_blocks + 1))
        assert num_used_blocks(self.cache) == len(blocks) <= self.num_reserved()
        assert self.num_reserved() <= self.cache.num_blocks
        assert not self.memory[0].any()

    def teardown(self) -> None:
        if not hasattr(self, "cache"):
            return
        for name in self.texts:
            self.cache.release(name)
        assert num_used_blocks(self.cache) == 0
        # All of it can be had again, by one sequence or by many.
        self.cache.open(self.cache.max_context_tokens)


TestPagedCache = PagedCacheMachine.TestCase
TestPagedCache.settings = settings(max_examples=at_most(150), stateful_step_count=40, deadline=None)


def test_a_block_may_be_copied_from_and_to_in_one_step() -> None:
    """What one span leaves another takes, while a third wants its old rows: sources go first."""
    cache = PagedCache(num_blocks=5, block_tokens=2, max_context_tokens=8)
    first, other = cache.open(4), cache.open(2)
    ((left, _), (kept,)) = cache.place([Span(first, 0, 3), Span(other, 0, 1)]).tables
    fork, other_fork = cache.open(2, first, 1), cache.open(2, other, 1)
    placement = cache.place([Span(fork, 1, 1), Span(first, 0, 1), Span(other_fork, 1, 1)])
    (forked,), _, (other_forked,) = placement.tables
    assert placement.copies == ((left, forked), (kept, other_forked))
    assert other_forked == left
    assert num_used_blocks(cache) == 4


@pytest.mark.parametrize("num_blocks", [0, -1])
def test_a_cache_has_blocks(num_blocks: int) -> None:
    with pytest.raises(ValueError, match="at least 1 block"):
        PagedCache(num_blocks, 16, 100)
